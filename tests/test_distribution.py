"""What is published: the source distribution and the wheel, built and used outside any clone."""

import subprocess
import sys
import zipfile

import pytest
from support import ROOT, SMALL, environment

from mammo_mlflow import __version__


@pytest.fixture(scope="module")
def wheel(tmp_path_factory, system):
    """The wheel, built from the source distribution, as `python -m build` does."""
    where = tmp_path_factory.mktemp("built")
    line = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(where), str(ROOT)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert len([*where.glob("*.tar.gz")]) == 1
    (made,) = where.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def used(wheel, tmp_path_factory, cache):
    """Runs a command of the unpacked wheel in a folder that is no clone: used("--version") -> what it prints."""
    there, elsewhere = tmp_path_factory.mktemp("installed"), tmp_path_factory.mktemp("elsewhere")
    zipfile.ZipFile(wheel).extractall(there)

    def run(*words):
        line = [sys.executable, "-m", "mammo_mlflow", *words]
        surroundings = environment(cache, PYTHONPATH=str(there))
        done = subprocess.run(line, cwd=elsewhere, env=surroundings, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert str(ROOT) not in done.stderr
        return done.stdout

    return run


def test_it_says_its_version(used):
    assert used("--version") == f"mammo_mlflow {__version__}\n"


def test_a_search_finds_the_spaces_that_are_shipped(used):
    said = used("search", "--task", "mass_calc", "--backbone", "vgg16", "--space", "frozen_head", *SMALL, "--dry-run")
    assert "trials of the study: 20" in said


def test_compact_weights_and_licences_are_inside(wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert {f"mammo_mlflow/models/compact/{backbone}.npz" for backbone in ("vgg16", "resnet50")} < inside
    shipped = {name.partition("licenses/")[2] for name in inside if ".dist-info/licenses/" in name}
    assert shipped == {"LICENSE", "mammo_mlflow/models/compact/LICENSES.md"}
