"""What a user can get wrong. A `UserError` is printed as one line and ends the command with exit code 2."""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Callable, Iterable
from typing import TypeVar

FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
"""The error numbers of a disk, or a quota, that is full."""

Item = TypeVar("Item")
Made = TypeVar("Made")
WORD, SENTENCE = 200, 1000
"""The characters of a value without blanks, and of a whole finding, that a message repeats."""


REFUSED = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.EIO,
    errno.EFBIG,
    errno.EMFILE,
    errno.ENFILE,
)
"""The error numbers of a file that a system refuses to make, read or write, whatever the program."""


class UserError(Exception):
    """A mistake its reader can put right: the message names the file or field, what was expected and what was found."""

    faults: tuple[str, ...] = ()
    """Where there are several, each."""

    @property
    def lines(self) -> tuple[str, ...]:
        """What is to be printed, a line for each mistake."""
        return self.faults or (str(self),)


class Faults(UserError):  # noqa: N818 - many of them
    """Several mistakes found at once, each to be printed as a line of its own."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(self.faults))


def gathered(make: Callable[[Item], Made], items: Iterable[Item]) -> list[Made]:
    """What `make` gives for each. Raises `Faults` with the mistakes of all of them, each told once."""
    made, faults = [], dict[str, None]()
    for item in items:
        try:
            made.append(make(item))
        except UserError as problem:
            faults |= dict.fromkeys(problem.lines)
    if faults:
        raise Faults(faults)
    return made


def unknown_name(field: str, name: object, choices: Iterable[str]) -> UserError:
    """The error for a name outside a closed table; it says what was meant where one choice is close."""
    known, shown = [str(choice) for choice in choices], cut(str(name))
    close = difflib.get_close_matches(shown, known, n=1, cutoff=0.5)
    meant = f", did you mean '{close[0]}'?" if close else ","
    return UserError(f"{field}: unknown '{shown}'{meant} (one of: {', '.join(known)})")


def expected(field: str, wanted: str, found: object) -> UserError:
    """The error for a value of the wrong kind or range, e.g. `folds: expected at least 2, found 1`."""
    return UserError(f"{field}: expected {wanted}, found {cut(str(found))}")


def cut(text: str, room: int = SENTENCE) -> str:
    """The text with long words and the whole cut in their middle, since a path tells most at its ends."""
    return _cut(re.sub(rf"\S{{{WORD + 1},}}", lambda word: _cut(word[0], WORD), text), room)


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[: room * 2 // 3]}…{text[1 - room + room * 2 // 3 :]}"
