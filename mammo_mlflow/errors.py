"""Errors that a user can put right: printed as one line each, without a traceback, and exit code 2."""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The error numbers of a disk or a quota that is full, and of a file that may not grow any more."""

Item = TypeVar("Item")
Made = TypeVar("Made")
WORD, SENTENCE, LONGEST_LINE = 200, 1000, 400
"""How many characters a message repeats of a word and of all that was found, and how many a line has at most."""
MOST_NAMES = 15
"""Of more names than these an unknown one is told only the nearest."""


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
"""The error numbers of a system that refuses to make, read or write a file."""


_CLONE = Path(__file__).parents[1]
_OURS = "mammo-mlflow"


def how_to_install(package: str) -> str:
    """The command that installs a package, or an extra such as mammo-mlflow[gp] in the form that works in a clone."""
    if package.startswith(_OURS) and (_CLONE / "pyproject.toml").is_file():
        where = "." if Path.cwd() == _CLONE else _CLONE
        return f"pip install -e '{where}{package.removeprefix(_OURS)}'"
    return f"pip install '{package}'" if "[" in package else f"pip install {package}"


class UserError(Exception):
    """A mistake that a user can put right. The message names file or field, what was expected and what was found."""

    faults: tuple[str, ...] = ()
    """The mistakes, where one error holds several."""

    @property
    def lines(self) -> tuple[str, ...]:
        """The lines to print, one for each mistake."""
        return self.faults or (str(self),)

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows of it: the lines alone."""
        return [f"UserError: {line}" for line in self.lines]


class Faults(UserError):  # noqa: N818 - many of them
    """Raised for several mistakes found at once, each to be printed as a line of its own."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(self.faults))


class CommandFailed(Exception):  # noqa: N818 - as `JobFailed`
    """Raised where a job or a request of a command failed that is no mistake of the user's; the message is one line."""


def gathered(make: Callable[[Item], Made], items: Iterable[Item]) -> list[Made]:
    """Apply `make` to every item, in order. Raises `Faults` with the mistakes of all items, each once."""
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
    """Make the error for a name that is none of `choices`; it suggests the closest, and of many names only a few."""
    known, shown = [str(choice) for choice in choices], cut(str(name))
    close = difflib.get_close_matches(shown, known, n=1, cutoff=0.5)
    meant = f", did you mean '{close[0]}'?" if close else ""
    if len(known) > MOST_NAMES:
        nearest = difflib.get_close_matches(shown, known, n=MOST_NAMES // 3, cutoff=0)
        return UserError(f"{field}: unknown '{shown}'{meant} (one of {len(known)}, e.g. {', '.join(nearest)})")
    return UserError(f"{field}: unknown '{shown}'{meant} (one of: {', '.join(known)})")


def expected(field: str, wanted: str, found: object) -> UserError:
    """Make the error for a value of the wrong kind or range, e.g. `folds: expected at least 2, found 1`."""
    return UserError(f"{field}: expected {wanted}, found {cut(str(found))}")


def cut(text: str, room: int = SENTENCE) -> str:
    """Shorten long words of a text, and the whole text, in the middle: a path says most at its ends."""
    return _cut(re.sub(rf"\S{{{WORD + 1},}}", lambda word: _cut(word[0], WORD), text), room)


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[: room * 2 // 3]}…{text[1 - room + room * 2 // 3 :]}"
