"""A tracking server that is away: how long a command waits for it, and what it says meanwhile."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mammo_mlflow.errors import expected
from mammo_mlflow.wording import first_line

PATIENCE, PATIENCE_SECONDS = "MAMMO_SERVER_PATIENCE", 900.0
"""The environment variable for how many seconds a command waits for its server when nothing else is left to do."""
SHORTEST_WAIT, LONGEST_WAIT = 1.0, 15.0
SAY_SECONDS = 60.0
"""How often a command that waits says so."""
TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
"""MLflow's own variable: seconds after which a request has no answer."""
HASTE = "3"

_log = logging.getLogger(__name__)


def patience_seconds() -> float:
    """How long a command waits for its tracking server. Raises `UserError` where the environment has no number."""
    text = os.environ.get(PATIENCE, "").strip()
    try:
        found = float(text) if text else PATIENCE_SECONDS
    except ValueError:
        found = float("nan")
    if not 0 <= found < float("inf"):
        raise expected(PATIENCE, "a number of seconds", f"'{text}'")
    return found


@contextmanager
def hasty_requests() -> Iterator[None]:
    """Context: a request gets an answer within few seconds or none, for the command is about to end."""
    before = os.environ.get(TIMEOUT)
    os.environ[TIMEOUT] = HASTE
    try:
        yield
    finally:
        os.environ.pop(TIMEOUT)
        if before is not None:
            os.environ[TIMEOUT] = before


class Absence:
    """Notes since when the server has been away, and says so now and then; true while it is."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._said = 0.0
        self._wait = SHORTEST_WAIT

    def __bool__(self) -> bool:
        return self._since is not None

    def noted(self, problem: Exception, kept: int) -> float:
        """Note that a request had no answer while so many writes were kept; returns the seconds till the next try."""
        now = time.monotonic()
        if self._since is None:
            self._since, self._wait = now, SHORTEST_WAIT / 2
        if now - self._said > SAY_SECONDS:
            self._said = now
            since = f" for {now - self._since:.0f} s" if now - self._since > 1 else ""
            _log.warning("tracking server away%s, %d writes kept: %s", since, kept, first_line(problem, most=120))
        self._wait = min(2 * self._wait, LONGEST_WAIT)
        return self._wait

    def ended(self) -> None:
        """Note that the server has answered."""
        if self._since is not None:
            _log.info("the tracking server answers again, after %.0f s", time.monotonic() - self._since)
            self._since = None
