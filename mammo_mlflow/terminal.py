"""Write to the terminal: log lines, progress with the time left, tables and lines of results."""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.jupyter import JupyterMixin
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from mammo_mlflow.wording import NO_SECRETS, scrubbed

PLAIN_EVERY_SECONDS = 30.0
NOTEBOOK_EVERY_SECONDS = 0.5

_STDERR = Console(stderr=True)  # one for bars and log lines, or they write over one another

_log = logging.getLogger(__name__)


def set_up_logging(quiet: bool = False) -> None:
    """Send log records to standard error, coloured on a terminal only; with `quiet` warnings and errors alone."""
    logging.basicConfig(level=logging.WARNING, handlers=[make_handler()], force=True)
    logging.getLogger("mammo_mlflow").setLevel(logging.WARNING if quiet else logging.INFO)


def make_handler() -> logging.Handler:
    """Make the handler of log records that writes to standard error, without secrets."""
    handler: logging.Handler
    if sys.stderr.isatty():
        handler = RichHandler(console=_STDERR, show_path=False, rich_tracebacks=False)
        handler.setFormatter(logging.Formatter("%(message)s", datefmt="%H:%M:%S"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"))
    handler.addFilter(NO_SECRETS)
    return handler


class _CellOutput:
    """An output of the notebook's cell that is at work, whose content can be replaced."""

    def __init__(self) -> None:
        self._handle: Any = None
        self.shown_at = -math.inf

    def show(self, content: JupyterMixin) -> None:
        """Show something in the place of what was shown before."""
        from IPython.display import display  # a notebook has imported it

        if self._handle is None:
            self._handle = display(content, display_id=True)
        else:
            self._handle.update(content)
        self.shown_at = time.monotonic()

    def clear(self) -> None:
        """Take away what was shown."""
        if self._handle is not None:
            self._handle.update(Text())


class TerminalProgress:
    """Progress of named activities: a bar each on a terminal or in a notebook, elsewhere a line each half minute."""

    def __init__(self) -> None:
        shown = _log.isEnabledFor(logging.INFO)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=_STDERR,
            transient=True,
            disable=not (shown and sys.stderr.isatty()) or _STDERR.is_jupyter,  # there they would need ipywidgets
        )
        self._cell = _CellOutput() if shown and _STDERR.is_jupyter else None
        self._tasks: dict[str, TaskID] = {}
        self._said: dict[str, float] = {}
        self._started: dict[str, tuple[float, int]] = {}

    def __enter__(self) -> TerminalProgress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._bars.disable:  # older versions of Rich write a blank line even so
            self._bars.stop()
        if self._cell is not None:
            self._cell.clear()

    def update(self, name: str, done: int, total: int) -> None:
        """Display that `name` has done `done` of `total` steps; see `jobs.workbench.Progress`."""
        now = time.monotonic()
        started, first = self._started.setdefault(name, (now, done))
        if not self._bars.disable or self._cell is not None:
            if name not in self._tasks:
                self._tasks[name] = self._bars.add_task(name, total=total)
            self._bars.update(self._tasks[name], completed=done, total=total)
            if done == total:
                self._bars.remove_task(self._tasks.pop(name))
            if self._cell is not None and (done == total or now - self._cell.shown_at > NOTEBOOK_EVERY_SECONDS):
                self._cell.show(self._bars)
        elif first < done < total and now - self._said.setdefault(name, started) > PLAIN_EVERY_SECONDS:
            self._said[name] = now
            left = (now - started) / (done - first) * (total - done)
            _log.info("%s: %d of %d, about %.0f s left", name, done, total, left)
        if done == total:
            del self._started[name]
            self._said.pop(name, None)
            _log.info("%s: done in %.1f s", name, now - started)


@dataclass(frozen=True)
class Listing:
    """A table of results: title, names of columns, and cells as text."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __str__(self) -> str:
        """Aligned columns below the title."""
        lines = [self.header, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.header))]
        aligned = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
        return "\n".join([self.title, *("  ".join(line).rstrip() for line in aligned)])

    @property
    def records(self) -> list[dict[str, str]]:
        """The rows, each by the names of its columns."""
        return [dict(zip(self.header, row, strict=True)) for row in self.rows]


_kept: ContextVar[tuple[list[Listing | str], bool] | None] = ContextVar("_kept", default=None)


@contextmanager
def kept(shown: bool = False) -> Iterator[list[Listing | str]]:
    """Context: tables and lines of results go into the list that it yields; to standard output only if `shown`."""
    results: list[Listing | str] = []
    token = _kept.set((results, shown))
    try:
        yield results
    finally:
        _kept.reset(token)


def _keep(result: Listing | str) -> bool:
    """Keep a result where that is wanted; return whether it is to be printed."""
    results, shown = _kept.get() or ([], True)
    results.append(result)
    return shown


def show_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on standard output: ruled on a terminal, aligned columns elsewhere."""
    listing = Listing(title, header, rows)
    if not _keep(listing):
        return
    if sys.stdout.isatty():
        table = Table(title=title, title_justify="left")
        for name in header:
            table.add_column(name, overflow="fold")
        for row in rows:
            table.add_row(*row)
        Console().print(table)
        return
    sys.stdout.write(f"{listing}\n")


def written_as_json(made: object, said: Sequence[Listing | str]) -> str:
    """What a command made and said, for programs: the run's id or the file's path, tables as records, and lines."""
    found = {
        "made": str(made) if isinstance(made, str | Path) else None,
        "tables": [{"title": one.title, "rows": one.records} for one in said if isinstance(one, Listing)],
        "lines": [one for one in said if isinstance(one, str)],
    }
    return json.dumps(found, ensure_ascii=False, indent=1) + "\n"


def say(line: str) -> None:
    """Print a line of results on standard output, without secrets; nothing for an empty one."""
    if line and _keep(scrubbed(line)):
        sys.stdout.write(f"{scrubbed(line)}\n")
        sys.stdout.flush()
