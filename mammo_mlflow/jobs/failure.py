"""The answer of a job that failed, in the place of its own."""

from __future__ import annotations

from dataclasses import dataclass

from mammo_mlflow.wording import in_words


@dataclass(frozen=True)
class Failure:
    """A job that failed: `reason` is the text of a `UserError` if `user`, else a traceback or a signal.

    `error` is the exception itself where the job ran in this process.
    """

    reason: str
    user: bool = False
    error: Exception | None = None
    fatal: bool = False
    """Whether every other job would fail for the same reason, as on a full disk."""
    lost: bool = False
    """Whether what ran it has died: its process, its worker or its node."""

    @property
    def line(self) -> str:
        """The reason of the failure in one line, for users."""
        return in_words(self.reason.strip().splitlines()[-1])
