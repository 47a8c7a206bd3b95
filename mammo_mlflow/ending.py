"""Signals by which a user ends a command, Ctrl-C and SIGTERM: how it ends, whatever libraries make of them."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)

_told: list[int] = []


def end_on_signals() -> None:
    """Let the signals raise `KeyboardInterrupt` and `SystemExit` in the main thread, and be remembered."""
    _told.clear()
    signal.signal(signal.SIGTERM, _end)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, as in the background
        signal.signal(signal.SIGINT, _end)


def told_to_end() -> int:
    """The signal that has told this command to end; 0 where none has."""
    return _told[0] if _told else 0


def go_on() -> None:
    """Forget what signals have told: the command has ended, and the process that called it goes on."""
    _told.clear()


def end_if_told() -> None:
    """Raise again what a signal raised, where a library has swallowed it."""
    if _told:
        _raise(_told[0])


@contextmanager
def ending_first() -> Iterator[None]:
    """Context: an error after a signal is what a library made of it, as of an interrupted transaction; end as told."""
    try:
        yield
    except Exception:
        end_if_told()
        raise


def _end(number: int, _: FrameType | None) -> None:
    _told.append(number)
    _raise(number)


def _raise(number: int) -> None:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)
