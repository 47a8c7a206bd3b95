"""Ask a server for something before a library waits for it: an answer within seconds, or one line."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from mammo_mlflow.errors import UserError

ANSWER_SECONDS = 10.0
"""How long a server has for its first answer, its name's resolution among it, which no library's own limit covers."""

T = TypeVar("T")


class NoAnswer(UserError):  # noqa: N818 - what was found instead
    """Raised where a server did not answer in time; the message is one line without secrets."""


def in_time(request: Callable[[], T], seconds: float | None = None) -> T:
    """Send a request from a thread of its own, and return its answer or raise what it raised.

    Raises `NoAnswer` after so many seconds, `ANSWER_SECONDS` by default; the thread is left to itself.
    """
    found: list[T] = []
    raised: list[BaseException] = []
    patience = ANSWER_SECONDS if seconds is None else seconds

    def ask() -> None:
        try:
            found.append(request())
        except BaseException as problem:
            raised.append(problem)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(patience)
    if raised:
        raise raised[0]
    if not found:
        raise NoAnswer(f"no answer within {patience:.0f} s")
    return found[0]
