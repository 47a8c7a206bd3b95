"""The champion of a task: the version of `mammo-<task>` that the alias `champion` names.

A promotion makes a version that names the one before it, then moves the alias, in one call. All that has to follow,
`finish_decision` can tell from the registry alone: it is the last step of every decision and the first of the next
command.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import mlflow
from mlflow.entities import ViewType
from mlflow.tracking import MlflowClient

from mammo_mlflow.errors import expected
from mammo_mlflow.names import CANDIDATE, CHAMPION, PREVIOUS, Tag, registered_name
from mammo_mlflow.tracking.lock import Lock, alone
from mammo_mlflow.tracking.registry import Version, find_run, make_registered_model, registered_names, version_of
from mammo_mlflow.tracking.requests import mlflow_experiments, or_none
from mammo_mlflow.tracking.store import store_id

PROMOTED = f"Promoted: the champion of its task while it has the alias `{CHAMPION}`. It is"
"""How the description of a version of `mammo-<task>` begins; its origin follows."""
MOST_DECISIONS = 50_000
EarlierDecision = tuple[str, float | None, float]
"""A decision: the hash of what it compared, the one-sided error that it could spend, None where that was not stored,
and the error that it handed on to the next."""

_log = logging.getLogger(__name__)


@contextmanager
def deciding(client: MlflowClient, task: str) -> Iterator[Lock]:
    """Hold the lock on decisions about a task's champion, after finishing an earlier interrupted decision."""
    with alone(client, f"champion-{task}", store_id(mlflow.get_registry_uri())) as lock:
        finish_decision(client, registered_name(task))
        yield lock


def champion_of(client: MlflowClient, task: str) -> Version | None:
    """The champion of a task; None where the task has none."""
    return _by_alias(client, registered_name(task), CHAMPION)


@dataclass(frozen=True, kw_only=True)
class Reign:
    """A version that is or was champion of a task: where it came from, and what its test run logged.

    `metrics` and `tags` are those of the version's own run, empty where it is gone.
    """

    version: Version
    present: bool
    origin: str
    rolled_back: bool
    metrics: Mapping[str, float]
    tags: Mapping[str, str]


def history_of(client: MlflowClient, task: str) -> list[Reign]:
    """Every version that is or was champion of a task, the newest first."""
    name = registered_name(task)
    present = _by_alias(client, name, CHAMPION)
    found = []
    for one in sorted(_versions(client, name), key=lambda version: -version.number):
        if Tag.WAS_CHAMPION in one.tags or one == present:
            run = find_run(client, one.run_id or "-")
            found.append(
                Reign(
                    version=one,
                    present=present is not None and one.number == present.number,
                    origin=origin(one),
                    rolled_back=Tag.ROLLED_BACK in one.tags,
                    metrics={} if run is None else dict(run.data.metrics),
                    tags={} if run is None else dict(run.data.tags),
                )
            )
    return found


def candidates_of(client: MlflowClient, task: str) -> list[Version]:
    """The version with the alias `candidate` of each of a task's models that can become champion."""
    names = [name for name in registered_names(client) if name.startswith(f"{registered_name(task)}-")]
    found = [version for name in names if (version := _by_alias(client, name, CANDIDATE)) is not None]
    return [one for one in found if not why_never_champion(one)]


def why_never_champion(version: Version) -> str:
    """The reason why a version can never be champion: a control, or only for a table of the paper; else ""."""
    control = version.tags.get(Tag.CONTROL, "none")
    if control != "none":
        return f"a {control} control"
    return "a model for a table of the paper" if version.tags.get(Tag.SET) == "protocol" else ""


def origin(version: Version) -> str:
    """The version that a champion was promoted from, as `name v3`; for any other version its own name."""
    return version.tags.get(Tag.PROMOTED_FROM, str(version))


def rolled_back(client: MlflowClient, task: str) -> set[str]:
    """The names, as by `origin`, of versions that were champion and were rolled back."""
    return {origin(one) for one in _versions(client, registered_name(task)) if Tag.ROLLED_BACK in one.tags}


def spent_before(client: MlflowClient, task: str, data_sha256: str, phantom: str) -> list[EarlierDecision]:
    """Find earlier decisions that compared candidates of a task with a champion on the same data, oldest first.

    A repeated comparison counts once. Runs that were deleted count as well: their results were seen.
    """
    runs = client.search_runs(
        mlflow_experiments(client, ViewType.ALL),
        f"tags.`{Tag.FAMILY}` = 'promotion' and tags.`{Tag.TASK}` = '{task}'",
        run_view_type=ViewType.ALL,
        max_results=MOST_DECISIONS,
        order_by=["attributes.start_time ASC"],
    )
    found: dict[str, EarlierDecision] = {}
    for run in runs:
        tags = run.data.tags
        known = Tag.QUESTION in tags
        # decisions made before errors were counted: those with a champion to beat, on the same kind of data
        earlier = tags.get(Tag.CHAMPION_BEFORE, "none") != "none" and tags.get(Tag.PHANTOM, "") == phantom
        outcome, same = tags.get(Tag.DECISION), tags.get(Tag.DATA_SHA256) == data_sha256
        if outcome == "rolled back" or not (same if known else earlier):
            continue
        question, done = tags.get(Tag.QUESTION, run.info.run_id), run.info.status == "FINISHED"
        handed_on = float(tags.get(Tag.HANDED_ON, 0)) if outcome == "promoted" and done else 0.0
        before = found.get(question, ("", None, 0.0))
        found[question] = question, float(tags[Tag.ERROR]) if known else None, max(handed_on, before[2])
    return list(found.values())


def promote(client: MlflowClient, task: str, candidate: Version, decision: str) -> Version:
    """Make a candidate the champion of a task, as a new version of `mammo-<task>`, which is returned.

    `decision` is the id of the run that decided so.
    """
    name, before = registered_name(task), champion_of(client, task)
    make_registered_model(client, name, f"the champion of {task}, in the alias '{CHAMPION}'")
    own = (Tag.PREVIOUS, Tag.WAS_CHAMPION, Tag.ROLLED_BACK)
    kept = {tag: value for tag, value in candidate.tags.items() if tag not in own}
    tags = {**kept, Tag.PROMOTED_FROM: origin(candidate), Tag.DECIDED_BY: decision}
    tags |= {Tag.PREVIOUS: str(before.number)} if before is not None else {}
    found = client.get_model_version(candidate.name, str(candidate.number))
    source, about = str(found.source), str(found.description or "")
    model_id = source.removeprefix("models:/") if source.startswith("models:/m-") else None
    made = client.create_model_version(
        name, source, candidate.run_id, tags=tags, model_id=model_id, description=f"{PROMOTED} {candidate}.\n\n{about}"
    )
    client.set_registered_model_alias(name, CHAMPION, made.version)
    finish_decision(client, name)
    return version_of(made)


def previous_of(client: MlflowClient, task: str) -> Version:
    """The champion before the present one, by the alias `previous`. Raises `UserError` where there is none."""
    champion = champion_of(client, task)
    before = None if champion is None else _by_alias(client, champion.name, PREVIOUS)
    if before is None:
        raise expected("rollback", f"a champion of {task} before the present one", "none")
    return before


def go_back(client: MlflowClient, champion: Version, before: Version, decision: str) -> None:
    """Roll back: make the earlier champion `before` the champion again; `decision` is the run's id."""
    client.set_model_version_tag(before.name, str(before.number), Tag.DECIDED_BY, decision)
    client.set_model_version_tag(champion.name, str(champion.number), Tag.ROLLED_BACK, "true")
    client.set_registered_model_alias(before.name, CHAMPION, str(before.number))
    finish_decision(client, before.name)


def finish_decision(client: MlflowClient, name: str) -> None:
    """Do the last steps of a decision about a champion, whether or not it moved the alias `champion`.

    Sets the alias `previous` and the champion's tags, ends the decision's run, and removes a version that never became
    champion. May be repeated.
    """
    champion = _by_alias(client, name, CHAMPION)
    for orphan in _versions(client, name):
        stopped = Tag.DECIDED_BY in orphan.tags and Tag.WAS_CHAMPION not in orphan.tags
        if stopped and (champion is None or orphan.number != champion.number):
            client.delete_model_version(name, str(orphan.number))
    if champion is None:
        return
    if Tag.WAS_CHAMPION not in champion.tags:
        client.set_model_version_tag(name, str(champion.number), Tag.WAS_CHAMPION, "true")
    if Tag.ROLLED_BACK in champion.tags:  # nobody did
        client.delete_model_version_tag(name, str(champion.number), Tag.ROLLED_BACK)
    wanted, present = int(champion.tags.get(Tag.PREVIOUS, 0)), _by_alias(client, name, PREVIOUS)
    if wanted != (0 if present is None else present.number):
        if any(one.number == wanted for one in _versions(client, name)):
            client.set_registered_model_alias(name, PREVIOUS, str(wanted))
        elif present is not None:
            client.delete_registered_model_alias(name, PREVIOUS)
    run = find_run(client, champion.tags.get(Tag.DECIDED_BY) or "-")
    if run is not None and run.info.status != "FINISHED":
        client.set_terminated(run.info.run_id, "FINISHED")


def _by_alias(client: MlflowClient, name: str, alias: str) -> Version | None:
    found = or_none(lambda: client.get_model_version_by_alias(name, alias))
    return None if found is None else version_of(found)


def _versions(client: MlflowClient, name: str) -> list[Version]:
    return [version_of(found) for found in client.search_model_versions(f"name = '{name}'")]
