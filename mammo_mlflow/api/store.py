"""A tracking store from Python: its runs, models, champions, studies and histories as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from mammo_mlflow.api.html import piece
from mammo_mlflow.api.objects import result_named
from mammo_mlflow.api.reader import StoreReader
from mammo_mlflow.api.shown import RunResult
from mammo_mlflow.errors import unknown_name
from mammo_mlflow.experiment import TASKS
from mammo_mlflow.names import Metric, Tag
from mammo_mlflow.terminal import Listing
from mammo_mlflow.tracking.champions import champion_of, origin
from mammo_mlflow.tracking.registry import Version
from mammo_mlflow.tracking.results import read_results, runs_by_id
from mammo_mlflow.tracking.run_queries import Run, find_runs, run_link
from mammo_mlflow.tracking.store import check_there
from mammo_mlflow.wording import scrubbed
from mammo_mlflow.workflows.places import storage_url

FILTERS = {
    "task": Tag.TASK,
    "family": Tag.FAMILY,
    "backbone": Tag.BACKBONE,
    "set": Tag.SET,
    "preset": Tag.PRESET,
    "study": Tag.STUDY,
    "fit": Tag.FIT,
    "phantom": Tag.PHANTOM,
    "weights": Tag.WEIGHTS,
}
"""What runs can be asked for by, with the tag of each."""


_MODEL = ("model", "task", "family", "backbone", "set", "unfrozen", "marks")
_SCORES = (Metric.OOF_ROC_AUC, Metric.TEST_ROC_AUC, Metric.TEST_ACCURACY)
_CHAMPION = ("task", "version", "promoted_from", "since", "decided_by", "marks")


class Store(StoreReader):
    """A tracking store: MLflow's present one, or that of an address, a SQLite file or a folder with `mlflow.db`.

    Raises `UserError` where there is none; nothing is made by reading.

    Examples:
        >>> store.runs(family="pretrained", fit="final")["status"].unique().tolist()
        ['FINISHED']
        >>> store.models()[["task", "backbone"]].drop_duplicates().values.tolist()
        [['mass_calc', 'vgg16']]
        >>> store.runs(famly="pretrained")
        Traceback (most recent call last):
        mammo_mlflow.errors.UserError: runs: unknown 'famly', did you mean 'family'? (one of: task, family, ...)
    """

    def result(self, which: str, said: Sequence[Listing | str] = ()) -> RunResult:
        """What a call returned when it made a run, by the run's id, or by a registered model's name as of `predict`.

        Raises `UserError` where there is no such run or model.

        Examples:
            >>> store.result(model.run_id).scores.equals(model.scores)
            True
        """
        return result_named(self, which, said)

    def runs(self, **wanted: str | bool) -> pd.DataFrame:
        """The runs, newest first, a row each: its id, name, status, times, what it is of, its scores and its page.

        `wanted` are tags by the names of `FILTERS`, such as task="mass_calc".
        """
        for name in wanted:
            if name not in FILTERS:
                raise unknown_name("runs", name, FILTERS)
        with self.opened() as client:
            tags = {FILTERS[name]: str(one).lower() if isinstance(one, bool) else one for name, one in wanted.items()}
            found = find_runs(client, tags)
        return pd.DataFrame([self._row(run) for run in found], columns=list(self._row(None)))

    def _row(self, run: Run | None) -> dict[str, object]:
        tags = {} if run is None else run.data.tags
        metrics = {} if run is None else run.data.metrics
        of = {name: tags.get(tag, "") for name, tag in FILTERS.items()}
        scores = {name: metrics.get(name) for name in _with_ends(Metric.OOF_ROC_AUC, Metric.TEST_ROC_AUC)}
        if run is None:  # for a table without a row
            return dict.fromkeys(("run_id", "name", "status", "started", "ended", *of, *scores, "parent", "link"))
        about = {"run_id": run.info.run_id, "name": run.info.run_name, "status": run.info.status}
        times = {"started": _time(run.info.start_time), "ended": _time(run.info.end_time)}
        link = run_link(self.uri, run.info.experiment_id, run.info.run_id)
        return about | times | of | scores | {"parent": tags.get("mlflow.parentRunId", ""), "link": link}

    def models(self) -> pd.DataFrame:
        """The finished models and ensembles, newest first, a row each: its name, and scores with intervals."""
        with self.opened() as client:
            results = read_results(client)
            judged = runs_by_id(client, [one.cross_validation for one in results])
        rows = []
        for one in results:
            run = judged.get(one.cross_validation)
            metrics = {**({} if run is None else run.data.metrics), **one.metrics}
            of = {name: one.tag(FILTERS[name]) for name in ("task", "family", "backbone", "set")}
            about = {
                "model": one.model,
                **of,
                "unfrozen": one.tag(Tag.UNFROZEN),
                "marks": "; ".join(one.disclosure.marks),
            }
            rows.append(about | {name: metrics.get(name) for name in _with_ends(*_SCORES)} | {"run_id": one.run_id})
        return pd.DataFrame(rows, columns=[*_MODEL, *_with_ends(*_SCORES), "run_id"])

    def champions(self) -> pd.DataFrame:
        """The champion of each task that has one: its version, what it was promoted from, when, by which decision."""
        with self.opened() as client:
            found = {task: champion_of(client, task) for task in TASKS}
        rows = [_champion(task, one) for task, one in found.items() if one is not None]
        return pd.DataFrame(rows, columns=_CHAMPION)

    def decisions(self, task: str | None = None) -> pd.DataFrame:
        """The decisions about champions, oldest first: candidate, champion before, how it ended, by which gate."""
        with self.opened() as client:
            found = find_runs(client, {Tag.FAMILY: "promotion"} | ({Tag.TASK: task} if task else {}))[::-1]
        names = {"task": Tag.TASK, "decision": Tag.DECISION, "candidate": Tag.CANDIDATE}
        names |= {"champion_before": Tag.CHAMPION_BEFORE, "failed_gate": Tag.FAILED_GATE}
        rows = [
            {"decided": _time(run.info.start_time), **{name: run.data.tags.get(tag, "") for name, tag in names.items()}}
            | {"status": run.info.status, "run_id": run.info.run_id}
            for run in found
        ]
        return pd.DataFrame(rows, columns=["decided", *names, "status", "run_id"])

    def studies(self) -> pd.DataFrame:
        """The studies, newest first: name, status, how many trials ended how, the best objective, the verdict."""
        with self.opened() as client:
            found = find_runs(client, {Tag.LEVEL: "study"})
        rows = [
            {"study": run.data.tags.get(Tag.STUDY, ""), "status": run.info.status}
            | {name: value for name, value in run.data.metrics.items() if name.startswith((Metric.TRIALS, Metric.BEST))}
            | {"verdict": run.data.tags.get(Tag.VERDICT, ""), "run_id": run.info.run_id}
            for run in found
        ]
        return pd.DataFrame(rows, columns=None if rows else ["study", "status", "verdict", "run_id"])

    def trials(self, study: str, storage: str = "") -> pd.DataFrame:
        """The trials of a study as Optuna has them now, also while it runs; `storage` as of `search`.

        Raises `UserError` for a study that is not there.
        """
        from mammo_mlflow.search.storage import Storage  # brings Optuna, which takes a second
        from mammo_mlflow.search.stored_study import find_study, trials_table

        with self.opened():
            url = storage_url(storage)
            check_there(url)
            return trials_table(find_study(Storage(url), study))

    def __repr__(self) -> str:
        return f"Store('{scrubbed(self.uri)}')"

    def _repr_html_(self) -> str:
        return piece(repr(self), (), {"Finished models": self.models(), "Champions": self.champions()}, (), {})


def _with_ends(*names: str) -> list[str]:
    return [f"{name}{end}" for name in names for end in ("", "_low", "_high")]


def _time(milliseconds: int | None) -> pd.Timestamp | None:
    return None if milliseconds is None else pd.Timestamp(milliseconds, unit="ms", tz="UTC")


def _champion(task: str, version: Version) -> Mapping[str, object]:
    decided = {"since": _time(version.created), "decided_by": version.tags.get(Tag.DECIDED_BY, "")}
    marks = "; ".join(version.disclosure.marks)
    return {"task": task, "version": str(version), "promoted_from": origin(version), **decided, "marks": marks}
