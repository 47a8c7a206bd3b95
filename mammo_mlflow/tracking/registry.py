"""Register, find and verify models through MLflow's client; a child process writes and loads their files."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow.entities import LifecycleStage, Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from mammo_mlflow.disclosure import PHANTOM, Disclosure
from mammo_mlflow.errors import UserError, expected, unknown_name
from mammo_mlflow.experiment import TASKS
from mammo_mlflow.files import tree_sha256
from mammo_mlflow.names import CANDIDATE, Tag, registered_name
from mammo_mlflow.tracking.logged_models import DOWNLOAD_NOTE, Logged
from mammo_mlflow.tracking.requests import or_none, pages
from mammo_mlflow.tracking.runs import Writer
from mammo_mlflow.tracking.vetting import Vetted, vet

if TYPE_CHECKING:  # it brings a second's imports
    from mlflow.pyfunc import PyFuncModel


def register(writer: Writer, name: str, logged: Logged, run_id: str, tags: Mapping[str, str], description: str) -> int:
    """Register a logged model as a new version of the model `name`, and return the version's number.

    It gets the alias `candidate`, unless a model of phantom data would take that from one of real data.
    """
    client = writer.client
    writer.ask(lambda: make_registered_model(client, name, description))
    marks = {**tags, Tag.FILES_SHA256: logged.sha256}
    version = writer.ask(
        lambda: client.create_model_version(name, logged.uri, run_id, tags=marks, model_id=logged.model_id),
        lambda: next(iter(client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")), None),
    )
    make_candidate(writer, name, int(version.version), PHANTOM in Disclosure.read(tags, {}))
    return int(version.version)


def make_registered_model(client: MlflowClient, name: str, description: str) -> None:
    """Create the registered model `name` unless it exists."""
    try:
        client.create_registered_model(name, description=description)
    except MlflowException as problem:
        if problem.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def make_candidate(writer: Writer, name: str, number: int, phantom: bool) -> None:
    """Give a version the alias `candidate`, unless a later version has it or a phantom's would replace a real one."""
    client = writer.client
    present = writer.ask(lambda: or_none(lambda: client.get_model_version_by_alias(name, CANDIDATE)))
    earlier = present is not None and int(present.version) < number
    if present is None or (earlier and (PHANTOM in version_of(present).disclosure or not phantom)):
        writer.ask(lambda: client.set_registered_model_alias(name, CANDIDATE, str(number)))


def registered_run(client: MlflowClient, name: str, key: str) -> tuple[str, int] | None:
    """Find the newest version with a `mammo.key`: its run's id and its number; None without version or run."""
    found = client.search_model_versions(f"name = '{name}' and tags.`{Tag.KEY}` = '{key}'")
    newest = max(found, key=lambda version: int(version.version), default=None)
    if newest is None or find_run(client, newest.run_id or "") is None:
        return None
    return str(newest.run_id), int(newest.version)


def find_version(client: MlflowClient, name: str, version: int) -> bool:
    """Find whether a version of a registered model still exists."""
    return or_none(lambda: client.get_model_version(name, str(version))) is not None


@dataclass(frozen=True, kw_only=True)
class Version:
    """A version of a registered model, with its tags."""

    name: str
    number: int
    run_id: str
    tags: dict[str, str]
    created: int
    """When it was made, in milliseconds since 1970."""

    @property
    def disclosure(self) -> Disclosure:
        """The facts to disclose wherever the version's predictions are shown."""
        return Disclosure.read(self.tags, {})

    def __str__(self) -> str:
        """Its name and number."""
        return f"{self.name} v{self.number}"


def version_of(found: ModelVersion) -> Version:
    """Convert MLflow's record of a version to a `Version`."""
    return Version(
        name=found.name,
        number=int(found.version),
        run_id=found.run_id or "",
        tags=dict(found.tags),
        created=int(found.creation_timestamp),
    )


def find_models(client: MlflowClient, spelled: str, wanted: Mapping[str, str]) -> list[Version]:
    """Find the versions that `name/3`, `name@alias` or a bare `name` may mean, the likeliest first.

    A bare name is every version with the tags `wanted`, the newest first, and then its `candidate`.
    """
    if "/" in spelled:
        one = or_none(lambda: client.get_model_version(*spelled.split("/", 1)))
        return [] if one is None else [version_of(one)]
    name, _, alias = spelled.partition("@")
    query = " and ".join([f"name = '{name}'", *(f"tags.`{tag}` = '{value}'" for tag, value in wanted.items())])
    tagged = None if alias else or_none(lambda: client.search_model_versions(query))
    named = or_none(lambda: client.get_model_version_by_alias(name, alias or CANDIDATE))
    found = sorted(map(version_of, tagged or ()), key=lambda one: -one.number)
    return found if named is None or version_of(named) in found else [*found, version_of(named)]


def find_model(client: MlflowClient, uri: str) -> Version:
    """Find the version of `models:/name/3` or `models:/name@alias`; a bare name means its `candidate`.

    Raises `UserError` where there is none.
    """
    found = find_models(client, uri.removeprefix("models:/"), {Tag.KEY: "-"})
    if not found:
        raise _no_such_model(client, uri)
    return found[0]


def _no_such_model(client: MlflowClient, uri: str) -> UserError:
    """Make the error for a model that is not registered: it names those that are, or the versions that there are."""
    name = re.split("[/@]", uri.removeprefix("models:/"))[0]
    model = or_none(lambda: client.get_registered_model(name))
    if model is None:
        known = registered_names(client)
        if not known:
            return expected("model", "the name of a registered model, of which the store has none", f"'{uri}'")
        return unknown_name("model", name, known)
    versions = sorted(int(one.version) for one in client.search_model_versions(f"name = '{name}'"))
    there = ", ".join([*(f"{name}/{number}" for number in versions[-5:]), *(f"{name}@{one}" for one in model.aliases)])
    return expected("model", f"one of {there}" if there else f"a version of {name}, which has none", f"'{uri}'")


def find_run(client: MlflowClient, run_id: str) -> Run | None:
    """Find an MLflow run by its id; None where there is none, or it was deleted."""
    run = or_none(lambda: client.get_run(run_id))
    return run if run is not None and run.info.lifecycle_stage == LifecycleStage.ACTIVE else None


def run_named(client: MlflowClient, which: str) -> Run | None:
    """Find the run of an id, or that of a registered model's version; None where the version's run is gone.

    Raises `UserError` where it names neither.
    """
    return find_run(client, which) or find_run(client, find_model(client, which).run_id or "-")


@dataclass(frozen=True)
class Verified:
    """A downloaded registered model whose files passed every check, not loaded yet."""

    version: Version
    path: Path
    made_of: Vetted
    threshold: float


def verified_model(client: MlflowClient, uri: str, target: Path) -> Verified:
    """Download the model of `models:/name/3`, `models:/name@alias` or the same without `models:/`, and check its files.

    Raises `UserError` where there is none, where its files are not those whose sha256 was stored as it was registered,
    or where they are not what this project makes (`vetting`): before anything of theirs is loaded or run.
    """
    import mlflow.artifacts

    version = find_model(client, uri)
    source = str(client.get_model_version(version.name, str(version.number)).source)
    wanted = version.tags.get(Tag.FILES_SHA256)
    if wanted is None:
        raise expected("model", "one that this project registered", f"{version}, without the sha256 of its files")
    try:
        path = Path(mlflow.artifacts.download_artifacts(source, dst_path=str(target)))
        _remove_compiled(path)
        gone = not any(one.is_file() and one.name != DOWNLOAD_NOTE for one in path.rglob("*"))
        actual = tree_sha256(path, DOWNLOAD_NOTE)
    except (MlflowException, OSError) as problem:
        raise expected("model", f"the files of {version}", str(problem).splitlines()[0]) from None
    if gone:
        raise expected("model", f"the files of {version} in the store", "none: they are gone")
    if actual != wanted:
        raise expected("model", f"files of {version} with sha256 {wanted[:12]}", f"{actual[:12]}: they were changed")
    vetted = vet(path)
    if version.tags.get(Tag.TASK) not in TASKS:
        raise expected("model", f"{version} with the tag {Tag.TASK}", f"'{version.tags.get(Tag.TASK)}'")
    return Verified(version, path, vetted, threshold_of(version))


def _remove_compiled(copy: Path) -> None:
    """Remove what Python compiled from an ensemble's code where MLflow loaded it in the store, so that no one runs it.

    A registered model has none of it, and Python would run it in the place of the code that was checked.
    """
    for folder in list(copy.rglob("__pycache__")):
        shutil.rmtree(folder)


def load_verified(found: Verified) -> PyFuncModel:
    """Load a model whose files passed every check: patches in as its signature says, probabilities out."""
    import mlflow.pyfunc

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # as worker processes have it
    return mlflow.pyfunc.load_model(str(found.path))


def threshold_of(version: Version) -> float:
    """Read the decision threshold stored with a version. Raises `UserError` where it is no probability."""
    text = version.tags.get(Tag.THRESHOLD, "0.5")
    try:
        threshold = float(text)
    except ValueError:
        threshold = float("nan")
    if not 0 <= threshold <= 1:
        raise expected("model", f"{version} with a threshold in [0, 1]", f"'{text}'")
    return threshold


def registered_names(client: MlflowClient) -> list[str]:
    """The names of all registered models of this project."""
    query = f"name LIKE '{registered_name('%')}'"
    return sorted(one.name for one in pages(lambda token: client.search_registered_models(query, page_token=token)))
