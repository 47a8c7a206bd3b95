import shutil
from urllib.parse import urlparse
from urllib.request import url2pathname

import pytest

from mammo_mlflow.errors import UserError
from mammo_mlflow.files import tree_sha256
from mammo_mlflow.tracking.logged_models import log_model
from mammo_mlflow.tracking.registry import (
    CANDIDATE,
    find_version,
    make_candidate,
    register,
    verified_model,
)

REAL, PHANTOM = {"mammo.phantom": "false"}, {"mammo.phantom": "true"}


@pytest.fixture
def add(client, writer, tmp_path, request):
    """Log and register a model of one file: add(tags) -> version."""
    name = f"mammo-{request.node.name}"
    numbers = iter(range(100))

    def make(tags):
        number = next(numbers)
        directory = tmp_path / f"model-{number}"
        directory.mkdir()
        (directory / "MLmodel").write_text(f"flavors: {{}}\nnumber: {number}\n")
        run = writer.start_run("run", parent=None, tags={}, params={})
        logged = log_model(writer, run.id, "vgg16", directory, tags, tmp_path / f"fetched-{number}")
        assert (logged.path / "MLmodel").read_text() == (directory / "MLmodel").read_text()
        assert logged.path.is_relative_to(tmp_path)
        return register(writer, name, logged, run.id, tags, "a description")

    make.name = name
    return make


def candidate(client, add):
    return int(client.get_model_version_by_alias(add.name, CANDIDATE).version)


def test_the_newest_is_the_candidate(client, add):
    assert [add(REAL), add(REAL)] == [1, 2]
    assert candidate(client, add) == 2


def test_phantom_follows_phantom_and_real_follows_phantom(client, add):
    add(PHANTOM)
    add(PHANTOM)
    assert candidate(client, add) == 2
    add(REAL)
    assert candidate(client, add) == 3


def test_phantom_never_replaces_real(client, add):
    add(REAL)
    assert add(PHANTOM) == 2
    assert candidate(client, add) == 1


def test_a_version_points_at_its_run_and_model(client, add, writer):
    add(REAL)
    version = client.get_model_version(add.name, "1")
    run = client.get_run(version.run_id)
    assert version.tags["mammo.phantom"] == "false"
    model_id = run.outputs.model_outputs[0].model_id
    assert version.source == f"models:/{model_id}"
    assert client.get_logged_model(model_id).status == "READY"
    assert client.get_registered_model(add.name).description == "a description"


def test_find_version(client, add):
    add(REAL)
    assert find_version(client, add.name, 1)
    assert not find_version(client, add.name, 2)
    assert not find_version(client, "nobody", 1)


def test_files_hash_to_names_and_contents(tmp_path):
    for name, text in (("a", "x"), ("b", "x"), ("c", "y")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(text)
    assert tree_sha256(tmp_path / "a") == tree_sha256(tmp_path / "b") != tree_sha256(tmp_path / "c")
    (tmp_path / "b" / "file").rename(tmp_path / "b" / "other")
    assert tree_sha256(tmp_path / "a") != tree_sha256(tmp_path / "b")


@pytest.mark.parametrize("empty", [True, False])
def test_a_model_whose_files_are_gone_says_so(client, add, tmp_path, empty):
    add(REAL)
    model_id = client.get_run(client.get_model_version(add.name, "1").run_id).outputs.model_outputs[0].model_id
    files = url2pathname(urlparse(client.get_logged_model(model_id).artifact_location).path)
    shutil.rmtree(files)
    if empty:
        (tmp_path / files).mkdir()
    with pytest.raises(UserError) as refused:
        verified_model(client, f"{add.name}/1", tmp_path / "taken")
    assert refused.value.lines == (
        f"model: expected the files of {add.name} v1 in the store, found none: they are gone",
    )


def test_a_version_whose_command_was_killed_before_it_was_named_becomes_candidate(client, writer, add):
    first = add(REAL)
    client.delete_registered_model_alias(add.name, CANDIDATE)
    make_candidate(writer, add.name, first, phantom=False)
    assert int(client.get_model_version_by_alias(add.name, CANDIDATE).version) == first
    second = add(REAL)
    make_candidate(writer, add.name, first, phantom=False)  # a later one keeps it
    assert int(client.get_model_version_by_alias(add.name, CANDIDATE).version) == second
