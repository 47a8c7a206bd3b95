"""The MLflow runs of an Optuna study, found by their tags: the study's, below it the trials', below these the fits'."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna

from mammo_mlflow.names import Attribute, Tag
from mammo_mlflow.processes import this_process
from mammo_mlflow.tracking.orphans import writer_alive
from mammo_mlflow.tracking.requests import given_run
from mammo_mlflow.tracking.run_queries import find_runs
from mammo_mlflow.tracking.runs import Writer
from mammo_mlflow.tracking.tracked_run import TrackedRun


class StudyRuns:
    """Opens and finds the MLflow runs of one Optuna study; each gets `tags`."""

    def __init__(self, writer: Writer, study: optuna.Study, tags: Mapping[str, str]) -> None:
        self._writer = writer
        self.tags = {Tag.STUDY: study.study_name, Tag.STUDY_ID: study.user_attrs[Attribute.ID]}
        self._shared = {**tags, **self.tags}

    def open_study(self, name: str, parent: TrackedRun | None, params: Mapping[str, object]) -> tuple[TrackedRun, bool]:
        """Open the study's run; return also whether this process has to end it (not while another one works on it).

        The run of an earlier command is reopened. Where `mlflow run` has made a run for this process, that becomes the
        study's run, and the runs of the trials are moved below it.
        """
        writer = self._writer
        found = self._find({Tag.LEVEL: "study"})
        if found is not None and found.info.status == "RUNNING" and self._others(found):
            return writer.attach(found.info.run_id), False
        tags = {**self._shared, Tag.LEVEL: "study"}
        if found is not None and (parent is not None or given_run() is None):
            return writer.reopen_run(found.info.run_id, parent, tags), True
        run = writer.start_run(name, parent=parent, tags=tags, params=params)
        if found is not None:
            old = found.info.run_id
            for child in writer.ask(lambda: find_runs(writer.client, {"mlflow.parentRunId": old})):
                writer.move_run(child.info.run_id, run)
            writer.ask(lambda: writer.client.set_tag(old, Tag.LEVEL, "study continued elsewhere"))
            writer.ask(lambda: writer.client.set_tag(old, Tag.CONTINUED_BY, run.id))
            if found.info.status == "RUNNING":
                writer.ask(lambda: writer.client.set_terminated(old, "KILLED"))
        return run, True

    def owned_elsewhere(self, run: TrackedRun) -> bool:
        """Whether another living process has to end the study's run."""
        return self._others(self._writer.ask(lambda: self._writer.client.get_run(run.id)))

    def open(
        self,
        level: str,
        part: str,
        name: str,
        parent: TrackedRun,
        tags: Mapping[str, str],
        params: Mapping[str, object],
        new: bool = False,
    ) -> TrackedRun:
        """Open the run of a part of the study, such as the trial (`level`) with a number (`part`).

        The run of an interrupted command is reopened, unless `new` says that there can be none.
        """
        marks = {**self._shared, **tags, Tag.LEVEL: level, Tag.PART: part}
        found = None if new else self._find({Tag.LEVEL: level, Tag.PART: part})
        if found is not None:
            run = self._writer.reopen_run(found.info.run_id, parent, marks)
            run.set_params({name: value for name, value in params.items() if name not in found.data.params})
            return run
        return self._writer.start_run(name, parent=parent, tags=marks, params=params, later=True)

    def find(self, level: str, part: str) -> str | None:
        """Find the id of the run of a part of the study; None where there is none."""
        found = self._find({Tag.LEVEL: level, Tag.PART: part})
        return None if found is None else found.info.run_id

    def _find(self, marks: Mapping[str, str]) -> Any:
        """The study's run with these tags, as MLflow gives it; None where there is none."""
        marks = {Tag.STUDY_ID: self.tags[Tag.STUDY_ID], **marks}
        runs = self._writer.ask(lambda: find_runs(self._writer.client, marks))
        return runs[0] if runs else None

    def _others(self, run: Any) -> bool:
        """Whether a run's process is another one that lives."""
        process, client = run.data.tags[Tag.PROCESS], self._writer.client
        return process != this_process() and writer_alive(client, process, run.info.start_time / 1000)
