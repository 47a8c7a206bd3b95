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
class Seen:
    def pytest_collection_finish(self, session):
        found = {item.nodeid: [mark.name for mark in item.iter_markers()] for item in session.items}
        print("found " + json.dumps(found))
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
    """The markers of the tests of a run, by the tests' names."""

    def collect(*arguments):
        line = [sys.executable, "-c", COLLECT, *arguments]
        done = subprocess.run(line, cwd=ROOT, env=environment(cache), capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout[-2000:]
        return json.loads(re.search("^found (.*)$", done.stdout, re.MULTILINE)[1])

    return collect


def test_every_test_is_in_one_of_the_two_runs_of_ci(collected):
    """A file that imports Keras, which the quick tier leaves out, has the marker on every test."""
    everything, quick = collected("--everything"), collected()
    tiers = {name: set(TIERS.values()) & set(marks) for name, marks in everything.items()}
    assert {name for name, own in tiers.items() if not own} == quick.keys()
    assert set().union(*tiers.values()) == set(TIERS.values())
    (rest,) = re.findall(r'^pytest -m "(.*)"$', (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert f"not ({rest})" == QUICK


def test_a_test_of_the_quick_tier_that_needs_more_fails_and_says_which_fixture(system, cache, tmp_path):
    (tmp_path / "test_forgotten.py").write_text(FORGOTTEN)
    (tmp_path / "test_left_out.py").write_text("import keras\ndef test_it():\n    pass\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -n 2 -p conftest -rs\ntestpaths = .\n")
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
    assert "2 failed, 1 passed, 1 skipped" in done.stdout, done.stdout
    assert "imports keras: let it take the fixture keras" in done.stdout
    assert "starts a process: let it take the fixture system or kill" in done.stdout
    assert "imports keras: pytest --everything" in done.stdout
