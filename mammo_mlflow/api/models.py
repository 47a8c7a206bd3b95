"""Models that a call trained or a store has: their predictions, scores, figures and files, and how two compare."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import pandas as pd

from mammo_mlflow.api.html import piece
from mammo_mlflow.api.scores import scores_table, shown_scores
from mammo_mlflow.api.shown import Picture, RunResult, Shown
from mammo_mlflow.commands.shared import one_objective
from mammo_mlflow.disclosure import Disclosure
from mammo_mlflow.errors import expected
from mammo_mlflow.names import Artifact, Metric, Tag
from mammo_mlflow.report.compared_model import compared_model
from mammo_mlflow.report.two_models import ComparedModel, paired_verdicts
from mammo_mlflow.tracking.registry import load_verified, verified_model
from mammo_mlflow.tracking.run_queries import Run, find_runs

if TYPE_CHECKING:
    from mammo_mlflow.tracking.registry import PyFuncModel


class ModelResult(RunResult):
    """A cross-validated model, with its final model where it has one.

    Examples:
        >>> model.oof.columns.tolist()
        ['patch', 'fold', 'type', 'patient_id', 'label', 'probability', 'lesion']
        >>> model.scores.query("metric == 'roc_auc' and unit == 'patch'")["predictions"].tolist()
        ['out-of-fold', 'test']
        >>> sorted(model.figures)[:3]
        ['calibration_oof', 'classes', 'comparison']
    """

    @cached_property
    def _cv(self) -> Run:
        """The run with the out-of-fold predictions."""
        tags = self._run.data.tags
        return self.store.run(tags[Tag.CV_RUN_ID]) if tags.get(Tag.FIT) == "final" else self._run

    @cached_property
    def _final(self) -> Run | None:
        """The run with the test predictions; None where no final model was made."""
        if self._run.data.tags.get(Tag.FIT) == "final":
            return _registered(self._run)
        with self.store.opened() as client:
            found = find_runs(client, {Tag.CV_RUN_ID: self._cv.info.run_id, Tag.FIT: "final"})
        return next((run for run in found if run.info.status == "FINISHED"), None)

    def _needed_final(self, wanted: str) -> Run:
        if self._final is None:
            raise expected(wanted, "a model that was trained to the end", f"none of '{self.name}' (final=none)")
        return self._final

    @cached_property
    def oof(self) -> pd.DataFrame:
        """The out-of-fold predictions, a row a training abnormality: patch, fold, label, probability and more."""
        return self.store.read_table(self._cv.info.run_id, Artifact.OOF)

    @cached_property
    def test(self) -> pd.DataFrame:
        """The final model's test predictions: a row for each test abnormality; patch, label, probability and more.

        Raises `UserError` where there is no final model.
        """
        return self.store.read_table(self._needed_final("test").info.run_id, Artifact.TEST)

    @property
    def scores(self) -> pd.DataFrame:
        """Every score with its 95 % interval (`api.scores.scores_table`)."""
        runs = [None if run is None else (run.data.metrics, run.data.tags) for run in (self._cv, self._final)]
        return scores_table(*runs)

    @property
    def history(self) -> pd.DataFrame:
        """The metrics of each epoch of each fit (`Store.history`)."""
        return self.store.history(self._cv.info.run_id)

    @property
    def figures(self) -> Mapping[str, Picture]:
        """The figures by their names; those of the final model begin with `final/`, where it has a run of its own."""
        judged, final = self._cv.info.run_id, None if self._final is None else self._final.info.run_id
        found: dict[str, Picture] = {}
        for run_id in dict.fromkeys((self.run_id, judged, final or judged)):
            found |= self._figures_of(run_id, "final/" if run_id == final != judged else "")
        return found

    @property
    def registered(self) -> str:
        """The registered model, as `models:/NAME/VERSION`. Raises `UserError` where there is none."""
        tags = self._needed_final("registered").data.tags
        return f"models:/{tags[Tag.REGISTERED_NAME]}/{tags[Tag.VERSION]}"

    @property
    def label(self) -> str:
        """What it is called beside others: the registered version or, without one, the run."""
        tags = {} if self._final is None else self._final.data.tags
        return f"{tags[Tag.REGISTERED_NAME]} v{tags[Tag.VERSION]}" if Tag.REGISTERED_NAME in tags else self.name

    @cached_property
    def model(self) -> PyFuncModel:
        """The registered model, loaded into this process once its files passed every check: `model.predict(patches)`.

        Raises `UserError` where there is none, or its files are not what was registered.
        """
        with self.store.opened() as client:
            self._files = tempfile.TemporaryDirectory()  # for as long as the model
            return load_verified(verified_model(client, self.registered, Path(self._files.name)))

    def compare(self, other: ModelResult, objective: str = "roc_auc") -> ModelDifference:
        """Compare with another model on the same patches: the paired difference, this less the other, and its interval.

        `objective` is a metric as of `promote`. Out of fold the interval accounts for the settings that either was
        chosen among. Raises `UserError` where neither out-of-fold nor test predictions are of the same patches.

        Examples:
            >>> model.compare(model).table["difference"].tolist()
            [0.0, 0.0]
        """
        return ModelDifference.of(self, other, objective)

    @property
    def _compared(self) -> ComparedModel:
        run = self._final or self._cv
        with self.store.opened() as client, tempfile.TemporaryDirectory() as folder:
            return compared_model(client, run.info.run_id, Path(folder))

    def __repr__(self) -> str:
        """What the command prints; of a model that was found in a store, its scores."""
        if self._said:
            return super().__repr__()
        return "\n".join([super().__repr__(), shown_scores(self.scores).to_string(index=False), *self._shown_lines()])

    def _shown_tables(self) -> dict[str, pd.DataFrame]:
        return {"Scores, decided at 0.5, with 95 % intervals": shown_scores(self.scores)}

    def _shown_lines(self) -> list[str]:
        found = [f"{len(self.oof)} training patches, {how}" for how in [self._cv.data.tags.get(Tag.INTERVALS)] if how]
        if self._final is not None:
            patches, tags = self._final.data.metrics.get(Metric.TEST_PATCHES), self._final.data.tags
            found += [f"{patches:.0f} test patches, {tags.get(Tag.INTERVALS, 'no intervals')}"] if patches else []
            found += [f"registered: {self.registered}"] if Tag.REGISTERED_NAME in tags else []
        return found


class EnsembleResult(ModelResult):
    """An ensemble; its out-of-fold predictions are nested."""

    @cached_property
    def _cv(self) -> Run:
        return self._run

    @cached_property
    def _final(self) -> Run | None:
        return _registered(self._run)

    @property
    def methods(self) -> pd.DataFrame:
        """The methods that were compared, with their nested and optimistic scores."""
        return self.store.read_table(self.run_id, Artifact.METHODS)

    @property
    def members(self) -> list[str]:
        """The registered models that it is made of, as `name v3`."""
        return self._run.data.tags.get(Tag.MEMBERS, "").split(", ")

    def _shown_lines(self) -> list[str]:
        said = [self._run.data.tags[tag] for tag in (Tag.VERDICT, Tag.TEST_VERDICT) if tag in self._run.data.tags]
        return [*super()._shown_lines(), f"members: {', '.join(self.members)}", *said]


class SearchResult(ModelResult):
    """A study and the model of its best trial, whose predictions and scores these are."""

    @cached_property
    def _cv(self) -> Run:
        tags = self._run.data.tags
        if Tag.BEST_TRIAL not in tags:
            raise expected("study", "one that has ended with a complete trial", f"'{self.name}'")
        study = {Tag.STUDY_ID: tags[Tag.STUDY_ID], Tag.PART: tags[Tag.BEST_TRIAL]}
        with self.store.opened() as client:
            runs = [run for level in ("best", "trial") for run in find_runs(client, study | {Tag.LEVEL: level})]
        if not runs:
            raise expected("study", "the run of its best trial in the store", "none")
        return runs[0]

    @property
    def trials(self) -> pd.DataFrame:
        """A row for each trial: its state, values of the objectives, and what it drew."""
        return self.store.read_table(self.run_id, Artifact.TRIALS)

    @property
    def verdict(self) -> str:
        """Whether the best setting beats the paper's, in words; "" where nothing was compared."""
        return self._run.data.tags.get(Tag.VERDICT, "")

    @property
    def _ended(self) -> bool:
        """Whether the study has ended with a complete trial, so that there is a model."""
        return Tag.BEST_TRIAL in self._run.data.tags

    def __repr__(self) -> str:
        return super().__repr__() if self._ended else RunResult.__repr__(self)

    def _shown_tables(self) -> dict[str, pd.DataFrame]:
        return super()._shown_tables() if self._ended else self.tables

    def _shown_lines(self) -> list[str]:
        return [*super()._shown_lines(), *filter(None, [self.verdict])] if self._ended else self.lines


class ModelDifference(Shown):
    """The paired difference of two models in a metric, out of fold and on the test set."""

    def __init__(self, title: str, marks: Sequence[str], table: pd.DataFrame, said: Sequence[str]) -> None:
        super().__init__(said)
        self.title, self.table, self._marks = title, table, list(marks)

    @classmethod
    def of(cls, first: ModelResult, second: ModelResult, objective: str) -> Self:
        """Compare two models; see `ModelResult.compare`."""
        one_objective("objective", objective)
        found = paired_verdicts(first._compared, second._compared, objective)
        rows = [
            (name, objective, one.lead.value, one.lead.low, one.lead.high, one.delong.p if one.delong else np.nan, n)
            for name, (one, n) in found.items()
        ]
        header = ["predictions", "metric", "difference", "low", "high", "delong_p", "patches"]
        marks = Disclosure.together([first.disclosure, second.disclosure])
        said = [f"{name}: {one.sentence}" for name, (one, _) in found.items()]
        notes = [fact.note for fact in marks if fact.note]
        return cls(f"{first.label} less {second.label}", notes, pd.DataFrame(rows, columns=header), said)

    def __repr__(self) -> str:
        marks = "".join(f" [{mark}]" for mark in self._marks)
        return "\n".join([f"{self.title}{marks}", self.table.to_string(index=False), *self.lines])

    def _repr_html_(self) -> str:
        caption = "With 95 % intervals, out of fold wider where one was chosen among many"
        return piece(self.title, self._marks, {caption: self.table}, self.lines, {})


def _registered(run: Run) -> Run | None:
    """A final run, or an ensemble's; None where it failed before its model was registered."""
    return run if Tag.REGISTERED_NAME in run.data.tags else None
