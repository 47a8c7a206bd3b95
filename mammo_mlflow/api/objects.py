"""Which object a run is: a model, several of them, or a decision about a champion."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import pandas as pd

from mammo_mlflow.api.models import EnsembleResult, ModelResult, SearchResult
from mammo_mlflow.api.reader import StoreReader
from mammo_mlflow.api.scores import shown_scores
from mammo_mlflow.api.shown import RunResult
from mammo_mlflow.disclosure import Disclosure
from mammo_mlflow.errors import expected, unknown_name
from mammo_mlflow.names import CHAMPION, Artifact, Tag, registered_name
from mammo_mlflow.terminal import Listing
from mammo_mlflow.tracking.registry import run_named
from mammo_mlflow.tracking.run_queries import Run, nested_runs


class SeveralResults(RunResult, Sequence[RunResult]):
    """The results of a command that made several, by number or name; their tables have them below one another.

    Examples:
        >>> [one.name for one in several] == [several[name].name for name in several.names]
        True
    """

    @cached_property
    def _parts(self) -> dict[str, RunResult]:
        with self.store.opened() as client:
            runs = nested_runs(client, self.run_id)
        tops = [run for run in runs if Tag.KEY in run.data.tags or run.data.tags.get(Tag.LEVEL) == "study"]
        labels = [_label(run) for run in tops]
        found = {}
        for run, label in zip(tops, labels, strict=True):
            seed = f" seed {run.data.params.get('seed')}" if labels.count(label) > 1 else ""
            found[f"{label}{seed}"] = result_of(self.store, run)
        return found

    @property
    def names(self) -> list[str]:
        """The names of the results: network, layers tuned, control, and where several have one name, the seed."""
        return list(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def __iter__(self) -> Iterator[RunResult]:
        return iter(self._parts.values())

    def __getitem__(self, which: Any) -> Any:
        """A result by its name or number. Raises `UserError` for another name."""
        if isinstance(which, str):
            if which not in self._parts:
                raise unknown_name("result", which, self._parts)
            return self._parts[which]
        return list(self._parts.values())[which]

    def _together(self, what: str) -> pd.DataFrame:
        tested = {name: one for name, one in self._models.items() if what != "test" or one._final is not None}
        if not tested:
            raise expected(what, "models that were trained to the end", f"none in '{self.name}'")
        parts = {name: getattr(one, what) for name, one in tested.items()}
        return pd.concat(parts, names=["model"]).reset_index(level=0).reset_index(drop=True)

    @property
    def _models(self) -> dict[str, ModelResult]:
        return {name: one for name, one in self._parts.items() if isinstance(one, ModelResult)}

    @property
    def oof(self) -> pd.DataFrame:
        """The out-of-fold predictions of all, a column `model` before them."""
        return self._together("oof")

    @property
    def test(self) -> pd.DataFrame:
        """The test predictions of all that have some, a column `model` before them. Raises `UserError` without any."""
        return self._together("test")

    @property
    def scores(self) -> pd.DataFrame:
        """The scores of all, a column `model` before them."""
        return self._together("scores")

    def compare(self, other: ModelResult, objective: str = "roc_auc") -> pd.DataFrame:
        """The difference of each to another model (`ModelResult.compare`), a column `model` before them."""
        if not self._models:
            raise expected("compare", "models that were trained to the end", f"none in '{self.name}'")
        parts = {name: one.compare(other, objective).table for name, one in self._models.items()}
        return pd.concat(parts, names=["model"]).reset_index(level=0).reset_index(drop=True)

    @property
    def disclosure(self) -> Disclosure:
        """What has to be said beside the numbers of any of them."""
        return Disclosure.together(one.disclosure for one in self._parts.values())

    def _shown_tables(self) -> dict[str, pd.DataFrame]:
        return self.tables or {name: shown_scores(one.scores) for name, one in self._models.items()}


class PromotionResult(RunResult):
    """A decision about a task's champion."""

    @property
    def decision(self) -> str:
        """`promoted`, `kept` or `rolled back`."""
        return self._run.data.tags[Tag.DECISION]

    @property
    def gates(self) -> pd.DataFrame:
        """A row for each candidate and gate; empty for a rollback, which has none."""
        if self.decision == "rolled back":
            return pd.DataFrame(columns=["candidate", "gate", "passed", "figures"])
        return self.store.read_table(self.run_id, Artifact.GATES)

    @property
    def champion(self) -> RunResult:
        """The task's champion as it is now. Raises `UserError` where there is none."""
        return result_named(self.store, f"{registered_name(self._run.data.tags[Tag.TASK])}@{CHAMPION}")


def result_of(store: StoreReader, run: Run, said: Sequence[Listing | str] = ()) -> RunResult:
    """A run as the object of what it is."""
    tags, run_id = run.data.tags, run.info.run_id
    family, level = tags.get(Tag.FAMILY), tags.get(Tag.LEVEL)
    if level == "study":
        return SearchResult(store, run_id, said)
    if family == "promotion":
        return PromotionResult(store, run_id, said)
    if family == "ensemble":
        return EnsembleResult(store, run_id, said)
    if level == "search" or tags.get(Tag.BACKBONE) == "all":
        return SeveralResults(store, run_id, said)
    if tags.get(Tag.FIT) == "final" or (Tag.OOF_PATCHES in tags and Tag.FIT not in tags):
        return ModelResult(store, run_id, said)
    return RunResult(store, run_id, said)


def result_named(store: StoreReader, which: str, said: Sequence[Listing | str] = ()) -> RunResult:
    """The run of an id, or that of a registered model's version, as the object of what it is. Raises `UserError`."""
    with store.opened() as client:
        run = run_named(client, which)
    if run is None:
        raise expected("result", "a run or a registered model of the store", f"'{which}', whose run is gone")
    return result_of(store, run, said)


def _label(run: Run) -> str:
    tags, params = run.data.tags, run.data.params
    if tags.get(Tag.LEVEL) == "study":
        return tags.get(Tag.STUDY, "")
    tuned, control = tags.get(Tag.UNFROZEN, "0"), params.get("control", "none")
    parts = [tags.get(Tag.BACKBONE, ""), f"last {tuned}" if tuned not in ("", "0") else ""]
    return " ".join(filter(None, [*parts, control if control != "none" else ""]))
