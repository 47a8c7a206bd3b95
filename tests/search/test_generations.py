"""Studies by generations: what a trial is drawn from, and that they survive a kill at any moment."""

import shutil
import socket
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
from optuna.trial import TrialState
from support_studies import FOLDS, Laboratory

from mammo_mlflow.jobs.devices import Card, Devices
from mammo_mlflow.search import drawing
from mammo_mlflow.search.generations import by_generations, fresh_seeds
from mammo_mlflow.search.stored_study import best_trial
from mammo_mlflow.tracking import runs
from mammo_mlflow.tracking.run_queries import find_runs

GENERATION = 3
MANY = {"generation": GENERATION, "trials": 8}
MODELLED = {"generation": 5, "trials": 14}
"""Of TPE, which draws at random until it has ten trials."""


class Killed(BaseException):
    """The end of a process at once: nobody handles it."""


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory, empty_stores, keras):
    return Laboratory(shutil.copytree(empty_stores, tmp_path_factory.mktemp("generations") / "where"))


@pytest.fixture
def another_process(laboratory, monkeypatch):
    """Lets the laboratory go on as another process, whose like before it are dead."""
    born = iter(range(1_000))

    def go_on():
        name = f"{socket.gethostname()}:{2**30}:{next(born)}"  # no system has that many processes
        for module in (drawing, runs):
            monkeypatch.setattr(module, "this_process", lambda: name)
        monkeypatch.setattr("mammo_mlflow.search.runs.this_process", lambda: name)
        laboratory.open()

    return go_on


def seen(study):
    return [(trial.state, trial.params, trial.values, trial.intermediate_values) for trial in study.trials]


def kill_at(monkeypatch, laboratory, study_storage, count):
    """Kill at the `count`-th write to MLflow or to Optuna's storage; whether it came to that is in the answer."""
    left = [count]

    def counted(write, *args, **kwargs):
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        return write(*args, **kwargs)

    for name in ("create_run", "log_batch", "log_artifact", "set_terminated"):
        monkeypatch.setattr(laboratory.client, name, partial(counted, getattr(laboratory.client, name)))
    for name in ("create_new_trial", "set_trial_state_values", "set_trial_user_attr", "set_trial_system_attr"):
        monkeypatch.setattr(study_storage, name, partial(counted, getattr(study_storage, name)))
    return left


@pytest.mark.parametrize(
    ("sampler", "pruner", "counts"),
    [
        ("random", "none", (17, 110)),
        ("tpe", "none", (80, 230)),
        ("cmaes", "none", (30, 140)),
        ("tpe", "auto", (1, 3, 17, 55, 110, 140)),
    ],
)
def test_a_study_that_is_killed_at_any_moment_goes_on_as_if_it_had_not_been(
    laboratory, another_process, monkeypatch, sampler, pruner, counts
):
    if sampler == "cmaes":
        pytest.importorskip("cmaes", reason="needs cmaes: pip install 'mammo-mlflow[cmaes]'")
    many = MODELLED if (sampler, pruner) == ("tpe", "none") else MANY
    another_process()
    whole, _ = laboratory.study(sampler, pruner, 0, f"whole {sampler} {pruner}", **many)
    assert len(whole.trials) == many["trials"]
    moments = 0
    for count in counts:
        name = f"killed {count} {sampler} {pruner}"
        another_process()
        with monkeypatch.context() as patch:
            left = kill_at(patch, laboratory, laboratory.storage.rdb, count)
            try:
                study, _ = laboratory.study(sampler, pruner, 0, name, **many)
            except Killed:
                moments += 1
        assert left[0] <= 0 or seen(study) == seen(whole)
        another_process()
        study, _ = laboratory.study(sampler, pruner, 0, name, **many)
        assert seen(study) == seen(whole), f"killed at write {count}"
        assert best_trial(study).number == best_trial(whole).number
        found = find_runs(laboratory.client, {"mammo.study": name, "mammo.level": "trial"})
        assert sorted(int(run.data.tags["mammo.trial"]) for run in found) == list(range(many["trials"]))
        assert {run.info.status for run in found} <= {"FINISHED", "KILLED"}
    assert moments >= len(counts) - 1


def test_a_trial_is_drawn_from_earlier_generations_alone(laboratory, another_process):
    """A study that is later made longer draws what one that was longer at once does: TPE models from trial 10 on."""
    another_process()
    whole, _ = laboratory.study("tpe", "none", 1, "at once", generation=6, trials=18)
    another_process()
    laboratory.study("tpe", "none", 1, "in parts", generation=6, trials=15)
    another_process()
    parts, _ = laboratory.study("tpe", "none", 1, "in parts", generation=6, trials=18)
    assert seen(parts) == seen(whole)


def test_what_a_user_puts_in_line_is_run_in_the_next_generation(laboratory, another_process):
    another_process()
    study, _ = laboratory.study("random", "none", 2, "in line", generation=3, trials=3)
    study.enqueue_trial({"learning_rate": 0.001})
    another_process()
    study, _ = laboratory.study("random", "none", 2, "in line", generation=3, trials=6)
    assert len(study.trials) == 6
    assert study.trials[3].params == {"learning_rate": 0.001}
    assert all(trial.state == TrialState.COMPLETE for trial in study.trials)


def test_a_trial_with_repeats_is_scored_by_their_mean(laboratory, another_process):
    another_process()
    study, trained = laboratory.study("random", "none", 3, "repeated", generation=2, trials=2, repeats=3)
    assert trained == 2 * 3 * FOLDS
    for trial in study.trials:
        found = find_runs(laboratory.client, {"mammo.study": "repeated", "mammo.trial": str(trial.number)})
        levels = {level: [r for r in found if r.data.tags.get("mammo.level") == level] for level in ("trial", "repeat")}
        assert len(levels["repeat"]) == 3
        assert {run.data.params["seed"] for run in levels["repeat"]} == {"3", "4", "5"}
        each = [run.data.metrics["oof_roc_auc"] for run in levels["repeat"]]
        assert trial.value == pytest.approx(sum(each) / 3)
        assert levels["trial"][0].data.metrics["objective_roc_auc"] == pytest.approx(trial.value)


@pytest.mark.parametrize("all_tails", [False, True])
def test_tails_of_trials_that_lost_are_kept_only_on_demand(laboratory, another_process, all_tails):
    another_process()
    name = f"tails {all_tails}"
    study, _ = laboratory.study("random", "none", 4, name, generation=3, trials=6, all_tails=all_tails)
    best, with_tails = best_trial(study), set()
    for run in find_runs(laboratory.client, {"mammo.study": name}):
        if "mammo.fit" not in run.data.tags:
            continue
        files = {item.path for item in laboratory.client.list_artifacts(run.info.run_id, "fit")}
        assert {"fit/fit.json", "fit/predictions.parquet"} <= files
        if "fit/tail.keras" in files:
            with_tails.add(int(run.data.tags["mammo.trial"]))
            assert run.data.tags["mammo.tail"] == "kept"
        else:
            assert run.data.tags["mammo.tail"] == "left out"
    assert {0, best.number} <= with_tails
    assert (with_tails == set(range(6))) == all_tails


CARD = Card(number=0, name="a card", memory=80 * 10**9, free=10**9, bfloat16=True)
ON_CARD = Devices(backend="jax", kind="gpu", cards=(CARD,))
SMALL = replace(ON_CARD, cards=(replace(CARD, memory=8 * 10**9),))


@pytest.mark.parametrize(
    ("devices", "drawn", "generation", "size", "pruned", "seeds"),
    [
        (Devices(), {}, "auto", 0, True, 3),
        (Devices(), {}, "8", 8, True, 3),
        (ON_CARD, {}, "auto", 32, False, 20),
        (ON_CARD, {}, "100", 100, False, 20),
        (ON_CARD, {"unfrozen_layers"}, "auto", 4, True, 3),
        (SMALL, {}, "auto", 16, False, 20),
    ],
    ids=["TensorFlow", "asked for", "heads", "asked for on a card", "fine-tuned", "a small card"],
)
def test_how_many_trials_are_drawn_at_once(laboratory, devices, drawn, generation, size, pruned, seeds):
    plan = replace(laboratory.plan({**laboratory.base(0), "views": 2, "dense": "2048-512"}), devices=devices)
    pruner = object()
    space = SimpleNamespace(parameters=[SimpleNamespace(name=name) for name in drawn], fixed={})
    spec = replace(laboratory.spec("tpe", "none", 0), space=space, pruner=pruner)
    found = by_generations(spec, plan, generation, "auto")
    assert (found.generation, found.pruner is pruner) == (size, pruned)
    assert fresh_seeds("auto", found, plan) == seeds
    assert fresh_seeds("7", found, plan) == 7
    assert by_generations(spec, plan, generation, "median").pruner is pruner
