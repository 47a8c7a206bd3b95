"""What a user can get wrong. A `UserError` is printed as one line and ends the command with exit code 2."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable

FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
"""The error numbers of a disk, or a quota, that is full."""


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

    @property
    def lines(self) -> tuple[str, ...]:
        """What is to be printed, a line for each mistake."""
        return (str(self),)


class Faults(UserError):  # noqa: N818 - many of them
    """Several mistakes found at once, each to be printed as a line of its own."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(self.faults))

    @property
    def lines(self) -> tuple[str, ...]:
        """The mistakes."""
        return self.faults


def unknown_name(field: str, name: object, choices: Iterable[str]) -> UserError:
    """The error for a name outside a closed table; it says what was meant where one choice is close."""
    known = [str(choice) for choice in choices]
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    meant = f", did you mean '{close[0]}'?" if close else ","
    return UserError(f"{field}: unknown '{name}'{meant} (one of: {', '.join(known)})")


def expected(field: str, wanted: str, found: object) -> UserError:
    """The error for a value of the wrong kind or range, e.g. `folds: expected at least 2, found 1`."""
    return UserError(f"{field}: expected {wanted}, found {found}")
