"""The number of settings that a registered version was chosen among; the gates of a promotion correct for it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from mammo_mlflow.errors import UserError, expected
from mammo_mlflow.estimate import HIGH, LOW
from mammo_mlflow.names import Metric, Tag
from mammo_mlflow.tracking.registry import Version, find_model, find_run
from mammo_mlflow.tracking.run_queries import find_runs
from mammo_mlflow.tracking.runs import Writer


def compared_of(client: MlflowClient, version: Version) -> int:
    """The number of settings that a version was chosen among, on the out-of-fold predictions that score it.

    Counted are the trials of its study; the methods of an ensemble, times what its members were chosen among; what the
    base models of a conditioned model were chosen among; 1 for a setting that was given. The version's tag holds the
    number; versions of 0.1.0 have none, and it is counted from their runs. Raises `UserError` with the command that
    makes the version anew where those runs are gone.
    """
    stored = version.tags.get(Tag.COMPARED)
    if stored is not None:
        if not stored.isdecimal() or not int(stored):
            raise expected(f"{version}: {Tag.COMPARED}", "a whole number above 0", f"'{stored}'")
        return int(stored)
    family = version.tags.get(Tag.FAMILY)
    if Tag.STUDY_ID in version.tags:
        return _trials(client, version)
    if family == "ensemble":
        members = _named(client, version, version.tags.get(Tag.MEMBERS, ""))
        return _methods(client, version) * chosen_among(client, members)
    if family == "conditioned":
        return chosen_among(client, _named(client, version, version.tags.get(Tag.WEIGHTS_SOURCE, "")))
    return 1


def tell_compared(writer: Writer, name: str, number: int, compared: int) -> None:
    """Tag version `number` of the registered model `name` with the number of settings that it was chosen among."""
    writer.ask(lambda: writer.client.set_model_version_tag(name, str(number), Tag.COMPARED, str(compared)))


def compared_tag(writer: Writer, parts: Sequence[Version], settings: int = 1) -> dict[str, str]:
    """The tag with the number of settings that a new version was chosen among: `settings` times those of `parts`.

    Empty where the number of a part cannot be found any more.
    """
    try:
        return {Tag.COMPARED: str(settings * writer.ask(lambda: chosen_among(writer.client, parts)))}
    except UserError:
        return {}


def chosen_among(client: MlflowClient, parts: Sequence[Version]) -> int:
    """The product of the numbers of settings that several versions were chosen among."""
    return math.prod(compared_of(client, part) for part in parts)


def chosen_among_run(client: MlflowClient, judged: Run, version: Version | None) -> int:
    """The number of settings that a cross-validation was chosen among, by its version or, without one, by its run."""
    info, tags = judged.info, dict(judged.data.tags)
    run = Version(name=str(info.run_name), number=0, run_id=info.run_id, tags=tags, created=info.start_time)
    return compared_of(client, version or run)


def verdict_of(client: MlflowClient, version: Version) -> str:
    """The verdict of a version's study on the best setting; "" without a study, or where the study is gone."""
    if Tag.STUDY_ID not in version.tags:
        return ""
    runs = _study(client, version)
    return runs[0].data.tags.get(Tag.VERDICT, "") if runs else ""


def _study(client: MlflowClient, version: Version) -> list[Run]:
    return find_runs(client, {Tag.STUDY_ID: version.tags[Tag.STUDY_ID], Tag.LEVEL: "study"})


def _trials(client: MlflowClient, version: Version) -> int:
    runs = _study(client, version)
    metrics = runs[0].data.metrics if runs else {}
    trials = int(metrics.get(f"{Metric.TRIALS}complete", 0) + metrics.get(f"{Metric.TRIALS}pruned", 0))
    if not trials:  # while the study runs
        trials = len(find_runs(client, {Tag.STUDY_ID: version.tags[Tag.STUDY_ID], Tag.LEVEL: "trial"}))
    if not trials:
        raise _unknown(version, "its study is gone")
    return trials


def _methods(client: MlflowClient, version: Version) -> int:
    run = find_run(client, version.run_id or "-")
    if run is None:
        raise _unknown(version, "its run is gone")
    if run.data.params.get("method") != "best":
        return 1
    nested = [name for name in run.data.metrics if name.startswith(Metric.NESTED) and not name.endswith((LOW, HIGH))]
    return max(len(nested), 1)


def _named(client: MlflowClient, version: Version, names: str) -> list[Version]:
    """The versions that a list of `name v3` names."""
    try:
        return [find_model(client, name.replace(" v", "/")) for name in names.split(", ") if name]
    except UserError:
        raise _unknown(version, "a model that it is made of is gone") from None


def _unknown(version: Version, why: str) -> UserError:
    family, searched = version.tags.get(Tag.FAMILY, ""), Tag.STUDY_ID in version.tags
    members = {"members": version.tags.get(Tag.MEMBERS, "").replace(" v", "/").replace(", ", ",") or "SET"}
    made_of = members if family == "ensemble" else {"backbone": version.tags.get(Tag.BACKBONE, "BACKBONE")}
    given = {"task": version.tags.get(Tag.TASK, "TASK"), **made_of}
    given |= {"family": family} if searched and family != "pretrained" else {}
    words = " ".join(f"--{name} {value}" for name, value in given.items())
    command = f"python -m mammo_mlflow {'search' if searched else family} {words}"
    return expected(
        f"{version}", "the number of settings it is the best of", f"none, since {why}; a new one has it: {command}"
    )
