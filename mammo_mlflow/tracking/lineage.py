"""The runs behind a registered version, as plain data: what a publication tells of a model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from mammo_mlflow.errors import expected
from mammo_mlflow.experiment import TASKS
from mammo_mlflow.names import Tag
from mammo_mlflow.tracking.registry import Version, find_model, find_models, find_run
from mammo_mlflow.tracking.results import read_results
from mammo_mlflow.tracking.run_queries import find_runs

_PARENT = "mlflow.parentRunId"


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What an MLflow run holds: tags, parameters, metrics, the paths of its artifacts, and its data set's description.

    `data` is what `PatchSet.describe` gave, empty where none was stored; `data_name` the name of the data directory.
    """

    id: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    artifacts: tuple[str, ...] = ()
    data: Mapping[str, object] = field(default_factory=dict)
    data_name: str = ""


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """The runs behind a version: its final run, its cross-validation (an ensemble's own run), the folds' by name.

    The artifacts of the folds are not listed, which would take most of the time.
    `described` is the run whose data set's description tells the data: the final run, of an ensemble that of a member.
    `decision` is that of the promotion that made it champion, `ingest` that of the `prepare` that made its data.
    """

    version: Version
    final: RunRecord
    cross_validation: RunRecord
    folds: Mapping[str, RunRecord]
    described: RunRecord
    decision: RunRecord | None
    ingest: RunRecord | None


def lineage_of(client: MlflowClient, version: Version) -> Lineage:
    """Read the runs behind a version. Raises `UserError` where it is not this project's, or its runs are gone."""
    final = find_run(client, version.run_id or "-")
    if final is None or version.tags.get(Tag.TASK) not in TASKS:
        raise expected("model", "one that this project registered, with its run in the store", f"{version}")
    above = find_run(client, final.data.tags.get(Tag.CV_RUN_ID) or final.info.run_id)
    if above is None:
        raise expected("model", "one whose cross-validation is in the store", f"{version} without it")
    made = find_runs(client, {Tag.CV_RUN_ID: above.info.run_id})
    # a fold that was cut off, of a trial that was taken up, has another run, which is finished
    ended = [run for run in reversed(made) if run.info.status == "FINISHED"]
    folds = {run.data.tags[Tag.FIT]: run for run in ended if run.data.tags.get(Tag.FIT, "").startswith("fold ")}
    decision = find_run(client, version.tags.get(Tag.DECIDED_BY) or "-")
    data = {Tag.FAMILY: "prepare", Tag.DATA_SHA256: version.tags.get(Tag.DATA_SHA256, "-")}
    described, tested = _described(client, final), _record(client, final)
    return Lineage(
        version=version,
        final=tested,
        cross_validation=_record(client, above),
        folds={
            name: _record(client, folds[name], listed=False)
            for name in sorted(folds, key=lambda one: int(one.split()[1]))
        },
        described=tested if described is final else _record(client, described),
        decision=None if decision is None else _record(client, decision),
        ingest=next((_record(client, run) for run in find_runs(client, data)), None),
    )


def version_under(client: MlflowClient, run_id: str) -> Version:
    """Find the registered version that was made in a run or below it. Raises `UserError` where it is not one alone."""
    top = find_run(client, run_id)
    if top is None:
        raise expected("run", "the id of a run in the store", f"'{run_id}'")
    parents: dict[str, str] = {}

    def within(run: str) -> bool:
        while run and run != top.info.run_id:
            if run not in parents:
                found = find_run(client, run)
                parents[run] = "" if found is None else found.data.tags.get(_PARENT, "")
            run = parents[run]
        return bool(run)

    found = [one for one in read_results(client) if within(one.run_id)]
    if len(found) != 1:
        names = ", ".join(one.model for one in found) or "none"
        raise expected("run", "a run with one registered model (name one of several with model=)", names)
    return find_model(client, f"{found[0].tag(Tag.REGISTERED_NAME)}/{found[0].tag(Tag.VERSION)}")


def _described(client: MlflowClient, final: Run) -> Run:
    """The final run, or where it has no data set that of the first member of an ensemble which has one."""
    members = final.data.tags.get(Tag.MEMBERS, "").replace(" v", "/")
    versions = (version for one in filter(None, members.split(", ")) for version in find_models(client, one, {}))
    runs = (find_run(client, version.run_id or "-") for version in versions)
    return next((one for one in (final, *runs) if one and one.inputs and one.inputs.dataset_inputs), final)


def _record(client: MlflowClient, run: Run, listed: bool = True) -> RunRecord:
    entries = run.inputs.dataset_inputs if run.inputs else ()
    name, described = next(((one.dataset.source, one.dataset.profile) for one in entries), ("{}", "{}"))
    return RunRecord(
        id=run.info.run_id,
        tags=dict(run.data.tags),
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
        artifacts=tuple(_artifacts(client, run.info.run_id)) if listed else (),
        data=_read_object(described),
        data_name=str(_read_object(name).get("uri", "")).rpartition("/")[2],
    )


def _artifacts(client: MlflowClient, run_id: str, folder: str | None = None) -> Iterator[str]:
    for one in client.list_artifacts(run_id, folder):
        if one.is_dir:
            yield from _artifacts(client, run_id, one.path)
        else:
            yield one.path


def _read_object(text: str | None) -> Mapping[str, object]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
