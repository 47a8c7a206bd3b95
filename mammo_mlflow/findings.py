"""What the command `doctor` finds: a line each, with what to do, and what can safely be done about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

FINE, ODD, BROKEN = "ok", "odd", "broken"
"""How bad a finding is; with one that is broken the command exits with 1."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: where, what was found, and what to do about it, "" for nothing.

    `fix` mends it without losing anything that anyone could want.
    """

    level: str
    where: str
    found: str
    advice: str = ""
    fix: Callable[[], object] | None = None

    @property
    def line(self) -> str:
        """The finding in one line."""
        return f"{self.level:6}  {self.where}: {self.found}" + (f" -> {self.advice}" if self.advice else "")
