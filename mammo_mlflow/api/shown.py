"""What calls return, as far as all of it has it in common: runs and files, which show themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import pandas as pd

from mammo_mlflow.api.html import piece
from mammo_mlflow.api.reader import StoreReader
from mammo_mlflow.disclosure import Disclosure
from mammo_mlflow.errors import expected
from mammo_mlflow.terminal import Listing
from mammo_mlflow.tracking.run_queries import Run, figures_of, run_link


class Shown:
    """What a command says where it makes no run: its tables and lines.

    `code` is the exit code of the command line, such as 1 of `doctor` where something is broken.
    """

    def __init__(self, said: Sequence[Listing | str] = (), code: int = 0) -> None:
        self._said, self.code = tuple(said), code

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """The tables that the command prints on a terminal, cells as text, by their titles."""
        found = [one for one in self._said if isinstance(one, Listing)]
        return {one.title: pd.DataFrame(list(one.rows), columns=list(one.header)) for one in found}

    @property
    def lines(self) -> list[str]:
        """The lines that the command prints beside its tables."""
        return [one for one in self._said if isinstance(one, str)]

    def __repr__(self) -> str:
        """What the command prints."""
        return "\n".join(map(str, self._said)) or f"<{type(self).__name__}>"

    def _repr_html_(self) -> str:
        return piece("", (), self.tables, self.lines, {})


class WrittenResult(Shown):
    """A file or folder that a command wrote: a report's page, a table of answers, a request, a publication."""

    def __init__(self, path: Path, said: Sequence[Listing | str] = ()) -> None:
        super().__init__(said)
        self.path = path

    @property
    def table(self) -> pd.DataFrame:
        """The table that the file is. Raises `UserError` where it is none."""
        if self.path.suffix != ".csv":
            raise expected("table", "a command that writes one, such as predict", self.path.name)
        return pd.read_csv(self.path)

    def _repr_html_(self) -> str:
        return piece("", (), self.tables, self.lines, {self.path.name: self.path.as_uri()})


class Picture:
    """A figure of a run, which shows itself in a notebook; it is fetched when it is needed."""

    def __init__(self, store: StoreReader, run_id: str, path: str) -> None:
        self._store, self._run_id, self._path = store, run_id, path

    @cached_property
    def png(self) -> bytes:
        """The figure as a PNG. Raises `UserError` where the store has it no more."""
        return self._store.read(self._run_id, self._path)

    def save(self, path: str | Path) -> Path:
        """Write the figure to a file; return its path."""
        target = Path(path).expanduser()
        target.write_bytes(self.png)
        return target

    def __repr__(self) -> str:
        return f"<figure {self._path} of run {self._run_id}>"

    def _repr_png_(self) -> bytes:
        return self.png


class RunResult(Shown):
    """What a command made, as a run of the store."""

    def __init__(self, store: StoreReader, run_id: str, said: Sequence[Listing | str] = ()) -> None:
        super().__init__(said)
        self.store, self.run_id = store, run_id

    @property
    def run(self) -> Run:
        """The MLflow run, as the store has it now. Raises `UserError` where it has it no more."""
        return self.store.run(self.run_id)

    @cached_property
    def _run(self) -> Run:
        return self.run

    @property
    def name(self) -> str:
        """The name of the run."""
        return str(self._run.info.run_name)

    @property
    def link(self) -> str:
        """The URL of the run's page in MLflow, which `mlflow ui` serves where the store has no server."""
        return run_link(self.store.uri, self._run.info.experiment_id, self.run_id)

    @property
    def disclosure(self) -> Disclosure:
        """What has to be said beside every number: phantom data, random weights, a control."""
        return Disclosure.read(self._run.data.tags, self._run.data.params)

    @property
    def params(self) -> dict[str, str]:
        """The parameters of the run."""
        return dict(self._run.data.params)

    @property
    def figures(self) -> Mapping[str, Picture]:
        """The figures of the run by their names."""
        return self._figures_of(self.run_id)

    def _figures_of(self, run_id: str, before: str = "") -> dict[str, Picture]:
        with self.store.opened() as client:
            found = figures_of(client, run_id)
        return {f"{before}{name}": Picture(self.store, run_id, path) for name, path in sorted(found.items())}

    def __repr__(self) -> str:
        """What the command prints; of a run that was found in a store, its name and address."""
        return super().__repr__() if self._said else f"{self.name}\n{self.link}"

    def _repr_html_(self) -> str:
        return piece(self.name, self._marks, self._shown_tables(), self._shown_lines(), {"run in MLflow": self.link})

    @property
    def _marks(self) -> list[str]:
        return [fact.note for fact in self.disclosure if fact.note]

    def _shown_tables(self) -> dict[str, pd.DataFrame]:
        return self.tables

    def _shown_lines(self) -> list[str]:
        return self.lines
