"""Fits that were finished before: found, lost, damaged, or left out. What they give is scripted."""

import shutil
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pandas as pd
import pytest

from mammo_mlflow.experiment import build
from mammo_mlflow.jobs.executors import make_executor
from mammo_mlflow.planning.planner import Planner
from mammo_mlflow.training.cross_validation import cross_validate


def probabilities(done):
    return done.oof["probability"].to_numpy()


def files(scripted, done, fit):
    return Path(urlparse(scripted.fit_runs(done)[fit].info.artifact_uri).path) / "fit"


def test_finished_folds_are_found_and_lost_or_damaged_ones_trained_again(scripted):
    plan = scripted.plan(seed=21, final="refit", folds=4)
    first = scripted.cross_validate(plan)
    assert scripted.trained(first) == {"fold 1", "fold 2", "fold 3", "fold 4", "refit"}
    again = scripted.cross_validate(plan, scripted.session(resume=True))
    assert scripted.trained(again) == set()
    np.testing.assert_array_equal(probabilities(again), probabilities(first))
    for done in (first, again):
        shutil.rmtree(files(scripted, done, "fold 2"))
    (files(scripted, first, "fold 3") / "fit.json").write_text('{"history": [')
    path = files(scripted, first, "fold 1") / "predictions.parquet"
    frame = pd.read_parquet(path)
    frame["patch"] += 1
    frame.to_parquet(path)
    third = scripted.cross_validate(plan, scripted.session(resume=True))
    assert scripted.trained(third) == {"fold 1", "fold 2", "fold 3"}
    np.testing.assert_allclose(probabilities(third), probabilities(first), atol=1e-6)


def test_resume_can_be_turned_off(scripted):
    first, again = scripted.run(), scripted.run()
    assert scripted.trained(again) == {"fold 1", "fold 2"}
    np.testing.assert_array_equal(probabilities(again), probabilities(first))


def test_an_interrupted_refit_stops_where_the_folds_did(scripted):
    """The folds' median stop counts folds that were finished before."""
    plan = scripted.plan(seed=23, final="refit", epochs=12, early_stop=1, learning_rate=0.01)
    whole = scripted.cross_validate(plan)
    stops = [whole.results[f"fold {number}"].best_epochs["head"] for number in (1, 2)]
    assert len(whole.results["refit"].history) == int(np.median(stops)) < 12
    scripted.client.delete_run(scripted.fit_runs(whole)["refit"].info.run_id)
    resumed = scripted.cross_validate(plan, scripted.session(resume=True))
    assert scripted.trained(resumed) == {"refit"}
    assert len(resumed.results["refit"].history) == len(whole.results["refit"].history)


def test_a_fold_that_fails_leaves_the_others_to_be_found(scripted):
    plan = scripted.plan(seed=25, folds=3)
    scripted.script.fail["fold 2"] = KeyboardInterrupt()
    session = scripted.session()
    run = session.writer.start_run(plan.name, parent=None, tags={"mammo.key": plan.key}, params={})
    with pytest.raises(KeyboardInterrupt):
        cross_validate(session, plan, run, figures=False)
    session.writer.abandon("KILLED", "interrupted")
    scripted.script.fail.clear()
    done = scripted.cross_validate(plan, scripted.session(resume=True))
    assert scripted.trained(done) == {"fold 2", "fold 3"}
    np.testing.assert_array_equal(probabilities(done), probabilities(scripted.run(seed=25, folds=3)))


def test_several_seeds_are_planned_together(scripted):
    experiments = [build("mass_calc", frozen_values(seed)) for seed in (0, 1)]
    plans = Planner(scripted.patch_set, make_executor("scripted", 1), scripted.cache).plans(experiments)
    assert [plan.experiment.cv.seed for plan in plans] == [0, 1]
    assert not np.array_equal(plans[0].folds, plans[1].folds)


def frozen_values(seed):
    return {"weights": "random", "epochs": 2, "views": 2, "final": "none", "seed": seed}


def test_a_fits_program_is_the_same_before_and_after_its_files_are_known(scripted, tmp_path):
    """What is counted of a plan's fits is found again among the jobs that are handed out."""
    plan = scripted.plan()
    for fit in plan.fits:
        job = replace(fit.job, output=tmp_path, features={"patch": tmp_path / "a.npy"}, tuned={"patch": tmp_path})
        assert job.program == fit.job.program
