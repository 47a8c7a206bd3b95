"""The tiers: markers follow from fixtures, each test is in one run of CI, and the quick tier holds what it promises."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import QUICK, TIERS
from support import ROOT, environment

TESTS = Path(__file__).parent
COLLECT = """
import json, sys, pytest
def marks(items):
    return {item.nodeid: [mark.name for mark in item.iter_markers()] for item in items}
class Seen:
    left_out = []
    def pytest_deselected(self, items):
        self.left_out += items
    def pytest_collection_finish(self, session):
        print("found " + json.dumps([marks(session.items), marks(self.left_out)]))
raise SystemExit(pytest.main(["--collect-only", "-qq", "-n", "0", "-p", "no:warnings", *sys.argv[1:]], [Seen()]))
"""
BY_HAND = re.compile(rf"\bmark\.({'|'.join(TIERS.values())})\b")
FORGOTTEN = """
import subprocess, sys
def test_keras():
    import keras
def test_process():
    subprocess.run([sys.executable, "-c", ""])
def test_neither():
    pass
"""


def test_no_file_sets_the_markers_by_hand():
    assert [str(path) for path in TESTS.rglob("*.py") if BY_HAND.search(path.read_text())] == []


@pytest.fixture(scope="module")
def collected(system, cache):
    """The markers of the tests of a run, and of those that it leaves out, by the tests' names."""

    def collect(*arguments, **more):
        line = [sys.executable, "-c", COLLECT, *arguments]
        surroundings = environment(cache, **more)
        done = subprocess.run(line, cwd=ROOT, env=surroundings, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout[-2000:]
        return json.loads(re.search("^found (.*)$", done.stdout, re.MULTILINE)[1])

    return collect


def test_every_test_is_in_one_of_the_three_runs_of_ci(collected):
    """A file that imports Keras, which the quick tier leaves out, has the marker on every test."""
    (everything, on_jax), (quick, _) = collected("--everything"), collected()
    tiers = {name: set(TIERS.values()) & set(marks) for name, marks in {**everything, **on_jax}.items()}
    assert {name for name, own in tiers.items() if not own} == quick.keys()
    assert set().union(*tiers.values()) == set(TIERS.values())
    assert {name for name, own in tiers.items() if own == {"jax"}} == on_jax.keys()
    assert all(own == {"jax"} for own in tiers.values() if "jax" in own)
    script = (ROOT / ".ci" / "run").read_text()
    (rest,) = re.findall(r'^pytest -n 3 -m "(.*)"$', script, re.MULTILINE)
    assert f"not ({rest} or jax)" == QUICK
    assert "\nKERAS_BACKEND=jax pytest -n 3 -m jax\n" in script


def test_a_test_of_the_quick_tier_that_needs_more_fails_and_says_which_fixture(system, cache, tmp_path):
    (tmp_path / "test_forgotten.py").write_text(FORGOTTEN)
    for library in ("keras", "jax"):
        (tmp_path / f"test_{library}_left_out.py").write_text(f"import {library}\ndef test_it():\n    pass\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -n 0 -p conftest -rs\ntestpaths = .\n")
    surroundings = environment(cache)
    surroundings["PYTHONPATH"] += f":{TESTS}"
    done = subprocess.run(
        [sys.executable, "-m", "pytest"],
        cwd=tmp_path,
        env=surroundings,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "2 failed, 1 passed, 2 skipped" in done.stdout, done.stdout
    assert "imports keras: let it take the fixture keras" in done.stdout
    assert "starts a process: let it take the fixture system or kill" in done.stdout
    assert "imports keras: pytest --everything" in done.stdout
    assert "imports jax: pytest --everything" in done.stdout


NAMED = """
import jax, keras
def test_it(jax_backend, system):
    assert (keras.backend.backend(), jax.default_backend()) == ("jax", "cpu")
"""


@pytest.mark.parametrize(("backend", "said"), [("tensorflow", "1 error"), ("jax", "1 passed")])
def test_a_test_of_keras_on_jax_that_is_named_elsewhere_says_how_it_is_run(system, cache, tmp_path, backend, said):
    (tmp_path / "test_named.py").write_text(NAMED)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -n 0 -p conftest\n")
    surroundings = environment(cache, KERAS_BACKEND=backend)
    surroundings["PYTHONPATH"] += f":{TESTS}"
    line = [sys.executable, "-m", "pytest", "test_named.py"]
    done = subprocess.run(line, cwd=tmp_path, env=surroundings, capture_output=True, text=True, timeout=300)
    assert said in done.stdout, done.stdout
    assert ("this test needs Keras on JAX: KERAS_BACKEND=jax pytest -m jax" in done.stdout) == (said == "1 error")
