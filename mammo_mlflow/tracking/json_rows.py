"""Read the JSON of a request a row at a time: it takes little more memory than its text, whatever is in it.

Numbers in Python's lists take thirty times the memory of their text, and empty lists as much. Here the lists of a row
are an array before the next row is read, and rows, their texts and names are limited in number and length.
"""

from __future__ import annotations

import json
import re

from mammo_mlflow.pixels import has_booleans, uint16_or_fault

MOST_NAMES = 100
"""Members of an object, cells of a row, and levels of objects in objects."""
FEW_ROWS, CHARACTERS_OF_A_NUMBER = 200, 64
"""How many rows are read however short they are, and how long a number may be with all brackets and blanks about it."""
BOOLEANS = "true or false"
CELLS = ("dataframe_split", "data")

_BLANK = re.compile(r"[ \t\n\r]*")


class Fault(str):
    """What was found in a row that is no array of 16-bit values, in its place."""


def read_rows(text: str, numbers: int) -> object:
    """Parse JSON in which arrays of numbers are elements of arrays, or members or cells of those: each becomes uint16.

    `numbers` is how many a whole row has. What is no array of 16-bit values becomes a `Fault`, all else is as `json`
    has it. Raises ValueError for what is no JSON or over the limits, RecursionError for lists nested too deeply.
    """
    return _Reader(text, numbers).read()


class _Reader:
    def __init__(self, text: str, numbers: int) -> None:
        self._text, self._booleans = text, "true" in text or "false" in text
        self._longest = CHARACTERS_OF_A_NUMBER * (numbers + FEW_ROWS)
        self._left = FEW_ROWS + len(text) // max(numbers, 1)  # a row of so many numbers takes twice as many characters
        self._decode = json.JSONDecoder().raw_decode

    def read(self) -> object:
        value, at = self._value(self._skip(0), ())
        if self._skip(at) != len(self._text):
            raise ValueError("something behind its end")
        return value

    def _value(self, at: int, names: tuple[str, ...]) -> tuple[object, int]:
        if self._text.startswith("{", at) and len(names) < MOST_NAMES:
            return self._members(at, names)
        return self._elements(at, names == CELLS) if self._text.startswith("[", at) else self._whole(at)

    def _members(self, at: int, names: tuple[str, ...]) -> tuple[dict[str, object], int]:
        found: dict[str, object] = {}
        at = self._skip(at + 1)
        while not self._text.startswith("}", at):
            name, at = self._whole(at)
            if not isinstance(name, str) or len(found) >= MOST_NAMES:
                raise ValueError(f"objects of more than {MOST_NAMES} members, or without names")
            at = self._skip(self._past(":", at))
            found[name], at = self._value(at, (*names, name))
            at = self._next("}", at)
        return found, at + 1

    def _elements(self, at: int, cells: bool) -> tuple[list[object], int]:
        found: list[object] = []
        at = self._skip(at + 1)
        while not self._text.startswith("]", at):
            self._left -= 1
            if self._left < 0:
                raise ValueError("more rows than a request of its size can have")
            element, at = self._whole(at)
            found.append(self._compact(element, cells))
            at = self._next("]", at)
        return found, at + 1

    def _whole(self, at: int) -> tuple[object, int]:
        """The value that begins here, and where it ends; of a list or an object no more than a row is looked at."""
        if not self._text.startswith(("[", "{"), at):
            return self._decode(self._text, at)
        try:
            value, length = self._decode(self._text[at : at + self._longest])
        except ValueError as problem:
            if len(self._text) - at > self._longest and getattr(problem, "pos", 0) > self._longest * 0.9:
                raise ValueError(f"a row of more than {self._longest:,} characters") from None
            raise
        return value, at + length

    def _compact(self, element: object, cells: bool) -> object:
        if isinstance(element, dict | list) and (cells or isinstance(element, dict)):
            if len(element) > MOST_NAMES:
                raise ValueError(f"a row of more than {MOST_NAMES} cells")
            if isinstance(element, dict):
                return {name: self._array(value) for name, value in element.items()}
            return [self._array(value) for value in element]
        return self._array(element)

    def _array(self, value: object) -> object:
        if isinstance(value, dict):
            return Fault("an object")
        if not isinstance(value, list):
            return value
        if self._booleans and has_booleans(value):
            return Fault(BOOLEANS)
        array, fault = uint16_or_fault(value)
        return Fault(fault) if array is None else array

    def _skip(self, at: int) -> int:
        return _BLANK.match(self._text, at).end()  # type: ignore[union-attr]  # it always matches

    def _past(self, mark: str, at: int) -> int:
        at = self._skip(at)
        if not self._text.startswith(mark, at):
            raise ValueError(f"no '{mark}' at character {at}")
        return at + 1

    def _next(self, end: str, at: int) -> int:
        """Behind the comma after a member, or at the end of all members."""
        at = self._skip(at)
        if self._text.startswith(end, at):
            return at
        at = self._skip(self._past(",", at))
        if self._text.startswith(end, at):
            raise ValueError(f"nothing behind the comma before character {at}")
        return at
