"""Final models that an earlier command made, or was killed over: found, copied or made anew. Fits are scripted."""

import shutil
from pathlib import Path
from urllib.parse import urlparse

import mlflow
import pandas as pd
import pytest
from matplotlib.figure import Figure

from mammo_mlflow.jobs.contracts import AssembleJob, PredictJob
from mammo_mlflow.training.cross_validation import cross_validate
from mammo_mlflow.training.final_model import make_final


@pytest.fixture(autouse=True)
def _store(scripted, monkeypatch):
    monkeypatch.setattr(Figure, "savefig", lambda figure, file, **settings: file.write(b""))  # takes half of the time
    mlflow.set_tracking_uri(scripted.client.tracking_uri)
    yield
    mlflow.set_tracking_uri(None)


@pytest.fixture
def models(scripted):
    """How many models were assembled and asked since the test began."""
    before = len(scripted.script.asked)

    def count():
        asked = scripted.script.asked[before:]
        return sum(isinstance(job, AssembleJob) for job in asked), sum(isinstance(job, PredictJob) for job in asked)

    return count


def cross_validation(plan, session):
    """A cross-validation in a run that stays open."""
    run = session.writer.start_run(plan.name, parent=None, tags={"mammo.key": plan.key}, params={})
    return cross_validate(session, plan, run, figures=False)


def folder(scripted, run_id):
    return Path(urlparse(scripted.client.get_run(run_id).info.artifact_uri).path)


def test_a_finished_one_is_found_and_copied_into_another_cross_validation(scripted, models):
    session, plan = scripted.session(resume=True), scripted.plan(seed=31, final="refit")
    cv = cross_validation(plan, session)
    first = make_final(session, cv, "mammo-mass_calc-found", {"mammo.trial": "7"})
    same = make_final(session, cv, "mammo-mass_calc-found")
    assert (same.run_id, same.version, models()) == (first.run_id, first.version, (1, 1))
    copy = make_final(session, cross_validation(plan, session), "mammo-mass_calc-found")
    assert copy.version == first.version
    assert models() == (1, 1)
    pd.testing.assert_frame_equal(copy.test, first.test)
    made, copied = (scripted.client.get_run(one.run_id) for one in (first, copy))
    assert copied.data.tags["mammo.reused_from"] == first.run_id
    assert copied.data.metrics == made.data.metrics
    for name in ("mammo.model_id", "mammo.version", "mammo.registered_name", "mammo.intervals"):
        assert copied.data.tags[name] == made.data.tags[name]
    assert (folder(scripted, copy.run_id) / "threshold.json").exists()
    other = make_final(session, cv, "mammo-mass_calc-other")
    assert (other.version, models()) == (1, (2, 2))


def test_killed_behind_registering_it_is_finished_and_not_made_again(scripted, models):
    name, plan = "mammo-mass_calc-killed", scripted.plan(seed=32, final="refit")
    session = scripted.session()
    cv = cross_validation(plan, session)
    first = make_final(session, cv, name)
    scripted.client.set_terminated(first.run_id, "KILLED")
    scripted.client.delete_registered_model_alias(name, "candidate")
    scripted.client.delete_tag(first.run_id, "mammo.version")
    session = scripted.session(resume=True)
    again = make_final(session, cross_validation(plan, session), name)
    assert (again.version, models()) == (1, (1, 1))
    run = scripted.client.get_run(first.run_id)
    assert (run.info.status, run.data.tags["mammo.version"]) == ("FINISHED", "1")
    assert int(scripted.client.get_model_version_by_alias(name, "candidate").version) == 1


@pytest.mark.parametrize("lost", ["test.parquet", "version"])
def test_without_its_test_predictions_or_its_version_it_is_made_again(scripted, models, lost):
    name, plan = f"mammo-mass_calc-lost-{lost}", scripted.plan(seed=33, final="refit")
    session = scripted.session(resume=True)
    cv = cross_validation(plan, session)
    first = make_final(session, cv, name)
    if lost == "version":
        scripted.client.delete_model_version(name, "1")
    else:
        (folder(scripted, first.run_id) / lost).unlink()
    for fetched in session.scratch.glob("reused-*"):  # another command has a place of its own
        shutil.rmtree(fetched)
    session = scripted.session(resume=True)
    again = make_final(session, cross_validation(plan, session), name)
    assert (again.version, models()) == (2, (2, 2))
