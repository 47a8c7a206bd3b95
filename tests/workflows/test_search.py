"""Studies as a user meets them: their tables, what Optuna and MLflow hold of them, and what befalls them on the way."""

import json
import os
import random
import re
import socket
import sqlite3
from contextlib import closing

import numpy as np
import optuna
import pandas as pd
import psutil
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from support import PHANTOM, Finished, Running, Store, wait_for

from mammo_mlflow.errors import UserError
from mammo_mlflow.names import Attribute
from mammo_mlflow.presets import preset_values
from mammo_mlflow.search.optuna_private import resume_trial
from mammo_mlflow.testing.scripted import Script

DATA = ["--task", "mass_calc", "--backbone", "vgg16", "--weights", "random", *PHANTOM]
CHEAP = [*DATA, "--folds", "2", "--epochs", "1", "--views", "1", "--pooling", "average", "--precision", "float32"]
FROZEN = [*CHEAP, "--unfrozen-layers", "0"]
BARE = ["--final", "none", "--fresh-seeds", "0"]
INLINE = ["--executor", "inline"]

NAME = "mammo-mass_calc-pretrained-vgg16-searched"
FIGURES = {f"figures/{name}.png" for name in ("history", "slices", "parallel_coordinates", "importances")}
RATES = "learning_rate: {low: 1e-4, high: 1e-2, log: true}"
SIMPLE = (RATES, "optimizer: {choices: [adam, sgd]}")


def space(where, *parameters, head=""):
    """The arguments that name a search space of these parameters, written to the directory `where`."""
    where.mkdir(parents=True, exist_ok=True)
    lines = ["family: pretrained", *([f"architecture: {head}"] if head else []), "parameters:"]
    (where / "space.yaml").write_text("\n".join([*lines, *(f"  {line}" for line in parameters), ""]))
    return ["--space", str(where / "space.yaml")]


def study_of(where):
    """The one study in the directory's database."""
    storage = RDBStorage(f"sqlite:///{where}/optuna.db", skip_compatibility_check=True)  # which takes most of the time
    return optuna.load_study(study_name=None, storage=storage)


def link_to(run):
    return f"/runs/{run.info.run_id}"


def folds_of(store, trial_run):
    return [run for run in store.children(trial_run) if run.data.tags["mammo.fit"].startswith("fold")]


def nothing_runs(where):
    """Neither store says that something is still at work."""
    assert Store(where).runs("RUNNING") == []
    assert [trial.number for trial in study_of(where).trials if trial.state == TrialState.RUNNING] == []


def agree(where):
    """Each trial has one run in MLflow, in the state and with the values that Optuna says."""
    study, store = study_of(where), Store(where)
    runs = {int(run.data.tags["mammo.trial"]): run for run in store.runs(level="trial")}
    assert sorted(runs) == [trial.number for trial in study.trials]
    assert len(store.runs(level="trial")) == len(runs)
    ends = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "KILLED", TrialState.FAIL: "FAILED"}
    for trial in study.trials:
        run = runs[trial.number]
        assert run.info.status == ends[trial.state]
        assert trial.user_attrs["mlflow_run"].endswith(link_to(run))
        for name, value in zip(study.metric_names, trial.values or (), strict=False):
            if trial.state == TrialState.COMPLETE:
                assert run.data.metrics[f"objective_{name}"] == value
    return study, store, runs


# -- one finished study, looked at from every side


@pytest.fixture(scope="module")
def searched(tmp_path_factory, cache, phantom, run_command):
    """One whole study over learning rates and heads."""
    where = tmp_path_factory.mktemp("searched")
    arguments = (*FROZEN, *space(where, RATES, head="head"), "--fresh-seeds", "1", "--trials", "5")
    outcome = run_command(where, cache, *arguments, name="search", PYTHONWARNINGS="")
    assert outcome.code == 0, outcome.err
    return Finished(where, cache, arguments, outcome, Store(where))


def best_of(study):
    complete = study.get_trials(states=[TrialState.COMPLETE])
    return min(complete, key=lambda trial: (-trial.value, trial.number))


def test_nothing_but_log_lines_on_standard_error(searched):
    assert searched.outcome.complaints == []
    assert searched.outcome.warnings == []


def test_each_trial_that_ends_says_how_long_the_others_take(searched):
    ended = re.findall(
        r"INFO trial \d+: .*\((\d) of 5 finished, best: trial \d(?:; about (\d+) s of trials left)?\)",
        searched.outcome.err,
    )
    assert [number for number, _ in ended] == list("12345")
    assert [left != "" for _, left in ended] == [False, True, True, True, False]


def test_both_stores_tell_the_same_trials(searched):
    nothing_runs(searched.where)
    study, _, _ = agree(searched.where)
    assert [trial.number for trial in study.trials] == list(range(5))
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}


def test_the_study_says_what_it_is(searched):
    study, top = study_of(searched.where), searched.store.tops()[0]
    assert study.study_name.startswith("mass_calc pretrained vgg16 [phantom] [random weights]")
    assert study.user_attrs["mlflow_run"].endswith(link_to(top))
    assert study.metric_names == ["roc_auc"]
    facts = {"task": "mass_calc", "backbone": "vgg16", "phantom": "true", "weights": "random", "sampler": "tpe"}
    assert {name: study.user_attrs[name] for name in facts} == facts
    assert study.study_name in top.info.run_name
    for trial in study.trials[1:]:
        assert 1e-4 <= trial.params["learning_rate"] <= 1e-2
        assert len(trial.params) > 1  # the head's draws


def test_folds_in_trials_in_the_study(searched):
    store = searched.store
    assert len(store.tops()) == 1
    assert store.tops()[0].data.tags["mammo.level"] == "study"
    trials = store.runs(level="trial")
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {store.tops()[0].info.run_id}
    for run in trials:
        folds = folds_of(store, run)
        assert sorted(fold.data.tags["mammo.fit"] for fold in folds) == ["fold 1", "fold 2"]
        assert {fold.data.tags["mammo.trial"] for fold in folds} == {run.data.tags["mammo.trial"]}
        assert all("mammo.reused_from" not in fold.data.tags for fold in folds)
    assert {run.info.status for run in store.runs()} == {"FINISHED"}


def test_every_level_has_mean_and_deviation(searched):
    store, study = searched.store, study_of(searched.where)
    for run in store.runs(level="trial"):
        values = [fold.data.metrics["fold_roc_auc"] for fold in folds_of(store, run)]
        assert run.data.metrics["fold_roc_auc_mean"] == pytest.approx(np.mean(values))
        assert run.data.metrics["fold_roc_auc_sd"] == pytest.approx(np.std(values, ddof=1))
    metrics, values = store.tops()[0].data.metrics, [trial.value for trial in study.trials]
    assert metrics["objective_roc_auc_trials_mean"] == pytest.approx(np.mean(values))
    assert metrics["objective_roc_auc_trials_sd"] == pytest.approx(np.std(values, ddof=1))
    assert metrics["best_objective_roc_auc"] == max(values)
    assert metrics["trials_complete"] == 5
    for run in (store.tops()[0], *store.runs(level="trial")):  # the best one is opened again in the end
        history = {name: store.client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
        twice = {name for name, points in history.items() if len(points) > 1}
        assert twice <= {"peak_memory_mb", "fit_seconds"}  # to which the refit of the best one adds


def test_the_first_trial_has_the_papers_setting(searched):
    first = study_of(searched.where).trials[0]
    given = {item.removeprefix("--").replace("-", "_") for item in searched.arguments if item.startswith("--")}
    paper = preset_values("paper", "vgg16", "mass_calc")
    wanted = {name: value for name, value in paper.items() if name not in {*given, "final", "final_epochs"}}
    assert {"optimizer", "learning_rate", "dense", "batch_size"} <= set(wanted)
    setting = json.loads(first.user_attrs["setting"])
    assert {name: setting[name] for name in wanted} == wanted
    run = searched.store.runs(level="trial", trial="0")[0]
    assert {name: run.data.params[name] for name in wanted} == {name: str(value) for name, value in wanted.items()}
    assert run.data.tags["mammo.preset"] == "paper"


def test_table_figures_and_best_setting_on_the_studys_run(searched):
    store, study, top = searched.store, study_of(searched.where), searched.store.tops()[0]
    found = set(store.artifacts(top))
    assert found >= FIGURES | {"trials.csv", "best.json"}
    for name in FIGURES:
        assert store.fetch(top, name).read_bytes().startswith(b"\x89PNG\r\n")
    table = pd.read_csv(store.fetch(top, "trials.csv"))
    assert table["number"].tolist() == list(range(5))
    np.testing.assert_allclose(table["value_roc_auc"], [trial.value for trial in study.trials])
    best, said = best_of(study), store.json(top, "best.json")
    assert (said["trial"], said["values"], said["params"]) == (best.number, best.values, best.params)
    assert top.data.tags["mammo.best_trial"] == str(best.number)


def test_the_best_trials_model_is_registered(searched):
    store, study = searched.store, study_of(searched.where)
    best = best_of(study)
    (version,) = store.client.search_model_versions(f"name = '{NAME}'")
    assert version.tags["mammo.study"] == study.study_name
    assert version.tags["mammo.trial"] == str(best.number)
    top, final = store.tops()[0].data, store.runs(fit="final")[0]
    assert (top.tags["mammo.registered_name"], top.tags["mammo.version"]) == (NAME, "1")
    assert final.data.tags["mlflow.parentRunId"] == store.runs(level="trial", trial=str(best.number))[0].info.run_id
    assert top.metrics["test_roc_auc"] == final.data.metrics["test_roc_auc"]


def test_the_closing_table(searched):
    study, top, lines = study_of(searched.where), searched.store.tops()[0], searched.outcome.out.splitlines()
    best = best_of(study)
    assert "PHANTOM DATA, no medical result" in lines[0]
    row = next(line for line in lines if line.startswith(study.study_name))
    for word in ("best", f" {best.number} ", f"{best.value:.4g}", f"{NAME} v1"):
        assert word in row
    assert f"{study.study_name}: 5 complete" in lines
    assert any(f"optuna-dashboard 'sqlite:///{searched.where}/optuna.db'" in line for line in lines)
    assert any(f"models:/{NAME}/1" in line for line in lines)
    if best.number == 0:
        assert any("no setting did better than the paper's" in line for line in lines)
        return
    papers = next(line for line in lines if line.split()[:1] == ["paper's"])
    assert f"{study.trials[0].value:.4g}" in papers
    assert any(f"{best.value - study.trials[0].value:+.4g}" in line for line in lines if "lead" in line)
    (verdict,) = [line for line in lines if top.data.tags["mammo.verdict"] in line]
    assert verdict.strip().startswith("WARNING: ") == ("within the noise" in verdict or "no better" in verdict)
    fresh = searched.store.runs(level="fresh")
    assert sorted(run.data.tags["mammo.part"] for run in fresh) == ["best 1", "paper 1"]


# -- the same draws, whatever happens


UNDISTURBED = 3


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, cache, phantom, run_command):
    """Params and values of the trials of a study that one worker made."""
    where = tmp_path_factory.mktemp("undisturbed")
    arguments = [*FROZEN, *space(where, *SIMPLE), *BARE, "--trials", str(UNDISTURBED), "--workers", "1"]
    outcome = run_command(where, cache, *arguments, name="search")
    assert outcome.code == 0, outcome.err
    return results(where)


def results(where):
    return [(trial.params, trial.values) for trial in study_of(where).trials]


def rows(where):
    """How many rows both databases have: it grows with every step of the work."""
    total = 0
    for name, tables in (
        ("mlflow.db", ("runs", "tags", "params", "latest_metrics")),
        ("optuna.db", ("trials", "trial_user_attributes", "trial_params", "trial_values")),
    ):
        for table in tables:
            try:
                with closing(sqlite3.connect(f"file:{where / name}?mode=ro", uri=True)) as base:
                    total += base.execute(f"select count(*) from {table}").fetchone()[0]
            except sqlite3.OperationalError:
                continue  # not yet made, or locked
    return total


KILLS, TRIALS, MOST_ROWS = 3, 4, 300


def test_killed_again_and_again_it_ends_as_if_it_never_had_been(undisturbed, tmp_path, cache, run_command, kill):
    arguments = [*FROZEN, *space(tmp_path, *SIMPLE), "--fresh-seeds", "1", "--trials", str(TRIALS)]
    moments = random.Random(0)
    killed = 0
    for _ in range(KILLS):
        running = Running(tmp_path, cache, *arguments, name="search")
        goal = rows(tmp_path) + moments.randrange(MOST_ROWS)
        wait_for(lambda one=running, goal=goal: rows(tmp_path) > goal or one.process.poll() is not None)
        if running.process.poll() is not None:
            assert running.process.returncode == 0, running.log.read_text()
            continue
        family = running.family()
        kill(running.process)
        running.process.wait()
        killed += 1
        assert psutil.wait_procs(family, timeout=10)[1] == []
    assert killed >= KILLS // 2
    outcome = run_command(tmp_path, cache, *arguments, name="search")
    assert outcome.code == 0, outcome.err
    assert outcome.complaints == []
    nothing_runs(tmp_path)
    study, store, runs = agree(tmp_path)
    assert [trial.number for trial in study.trials] == list(range(TRIALS))
    assert results(tmp_path)[:UNDISTURBED] == undisturbed
    drawn = [json.dumps(trial.params, sort_keys=True) for trial in study.trials]
    assert len(set(drawn)) == TRIALS
    for trial in study.trials:
        folds = folds_of(store, runs[trial.number])
        assert {fold.info.status for fold in folds} <= {"FINISHED", "KILLED"}
        assert all("mammo.reused_from" not in fold.data.tags for fold in folds)
        done = sorted(fold.data.tags["mammo.fit"] for fold in folds if fold.info.status == "FINISHED")
        assert done == (["fold 1"] if trial.state == TrialState.PRUNED else ["fold 1", "fold 2"])
    (top,) = store.tops()
    assert top.info.status == "FINISHED"
    assert top.data.metrics["best_objective_roc_auc"] == best_of(study).value
    (valid,) = store.client.search_model_versions(f"name = '{NAME}'")
    assert store.client.get_run(valid.run_id).info.status == "FINISHED"
    assert top.data.tags["mammo.version"] == str(valid.version)
    assert store.client.get_model_version_by_alias(NAME, "candidate").version == valid.version


# -- what the coordinator makes of its trials, whose fits are scripted


@pytest.fixture
def search(pretend, tmp_path):
    """A command in the test's own directory, its fits scripted: search("--trials", "3", name="search", script=…)."""

    def run(*arguments, name="search", where=tmp_path, code=0, script=None):
        outcome = pretend(where, *arguments, name=name, script=script)
        assert outcome.code == code, outcome.err
        assert outcome.complaints == []
        return outcome

    return run


def test_issued_again_it_trains_nothing_and_with_more_trials_it_goes_on(search, tmp_path):
    arguments = [*FROZEN, *space(tmp_path, RATES, head="head"), "--fresh-seeds", "1", "--workers", "2", "--trials"]
    first, store = search(*arguments, "3"), Store(tmp_path)
    before = {run.info.run_id for run in store.runs()}
    assert len(store.runs(level="fresh")) == 2
    script = Script()
    again = search(*arguments, "3", script=script)
    assert (script.fits, again.out) == ([], first.out)
    assert ": done in" not in again.err
    assert {run.info.run_id for run in store.runs()} == before
    assert len(store.client.search_model_versions(f"name = '{NAME}'")) == 1
    values = [trial.value for trial in study_of(tmp_path).trials]
    more = search(*arguments, "5", "--pruner", "none", script=script)
    study, _, runs = agree(tmp_path)
    nothing_runs(tmp_path)
    assert len(study.trials) == 5
    assert [trial.value for trial in study.trials[:3]] == values
    trained = re.findall(r"trial (\d+) fold \d: done", more.err)
    assert sorted(trained) == ["3", "3", "4", "4"]
    assert len(store.tops()) == 1
    assert {runs[number].info.run_id for number in range(3)} <= before


def test_folds_that_end_in_another_order_make_the_same_study(search, tmp_path):
    """With a pruner a trial is looked at fold by fold, several trials side by side."""
    found = []
    for name, order in (("first", lambda waiting: 0), ("last", lambda waiting: -1)):
        where = tmp_path / name
        arguments = [*FROZEN, *space(where, *SIMPLE), *BARE, "--trials", "3", "--sampler", "random", "--folds", "3"]
        search(*arguments, "--pruner", "none", "--workers", "3", where=where, script=Script(order=order))
        found.append(results(where))
        agree(where)
    assert found[0] == found[1]


def test_interrupted_between_folds_it_goes_on_as_if_it_never_had_been(search, tmp_path, pretend):
    """One worker and one seed give the same study, interrupted or not."""
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    given = [*FROZEN, *BARE, "--trials", "3", "--workers", "1"]
    search(*given, *space(straight, *SIMPLE), where=straight)
    script = Script(fail={"trial 1 fold 2": KeyboardInterrupt()})
    outcome = pretend(stopped, *given, *space(stopped, *SIMPLE), name="search", script=script)
    assert outcome.code == 130, outcome.err
    assert [trial.state for trial in study_of(stopped).trials] == [TrialState.COMPLETE, TrialState.RUNNING]
    assert Store(stopped).runs("RUNNING") == []
    study = study_of(stopped)  # the process that it was interrupted in is this one, and lives on
    cut_off = resume_trial(study, study.trials[1])
    cut_off.set_user_attr(Attribute.PROCESS, f"{socket.gethostname()}:{os.getpid()}:0")
    script = Script()
    search(*given, "--space", str(stopped / "space.yaml"), where=stopped, script=script)
    assert results(stopped) == results(straight)
    assert len({json.dumps(params) for params, _ in results(straight)}) == 3
    assert [name for name in script.fits if "trial 1" in name] == ["trial 1 fold 2"]
    nothing_runs(stopped)
    agree(stopped)


def test_pretrained_with_trials_is_the_same_study(search, tmp_path):
    arguments = [*FROZEN, *space(tmp_path, *SIMPLE), *BARE, "--trials", "2"]
    first, second = search(*arguments, name="pretrained"), search(*arguments)
    assert first.out == second.out
    assert "fold 1: done" in first.err
    assert "fold 1: done" not in second.err
    assert len(study_of(tmp_path).trials) == 2


def test_when_the_time_is_over_no_trial_begins(search, tmp_path):
    arguments = [*FROZEN, *space(tmp_path, *SIMPLE), *BARE, "--trials", "0", "--timeout", "0.4", "--workers", "1"]
    search(*arguments, script=Script(delay={"fold 2": 0.5}))
    study, _, _ = agree(tmp_path)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE]
    nothing_runs(tmp_path)


def test_two_objectives_have_a_front_and_no_pruning(search, tmp_path):
    search(*FROZEN, *space(tmp_path, *SIMPLE), *BARE, "--trials", "3", "--objective", "roc_auc,seconds")
    study, store, runs = agree(tmp_path)
    assert study.metric_names == ["roc_auc", "seconds"]
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    for trial in study.trials:
        assert trial.state == TrialState.COMPLETE
        assert trial.intermediate_values == {}
        assert trial.values[1] == runs[trial.number].data.metrics["objective_seconds"] > 0
    assert "figures/pareto.png" in store.artifacts(store.tops()[0])


# -- trials that do not end well


def test_a_trial_that_fails_says_why_and_the_study_goes_on(search, tmp_path):
    """A fit that finds a mistake, one that breaks, and a trial that cannot be planned."""
    found = space(
        tmp_path,
        "optimizer: {choices: [adam, sgd]}",
        "momentum: {choices: [0.5, 0.7], when: {optimizer: sgd}}",
        "unfrozen_layers: {choices: [0, 14], when: {optimizer: adam}}",
    )
    told = "learning_rate: expected a loss that stays a number, found nan; a lower rate may help"
    script = Script(fail={"trial 1 fold 1": UserError(told), "trial 2 fold 2": RuntimeError("something broke")})
    outcome = search(*CHEAP, *found, *BARE, "--sampler", "grid", "--trials", "9", script=script)
    nothing_runs(tmp_path)
    study, _, runs = agree(tmp_path)
    reasons = {}
    for trial in study.trials:
        if trial.state == TrialState.FAIL:
            reason = trial.user_attrs["reason"]
            assert reason == runs[trial.number].data.tags["mammo.reason"]
            assert len(reason.splitlines()) == 1
            assert f"trial {trial.number} failed: {reason}" in outcome.err
            reasons[trial.number] = reason
    planned = next(trial for trial in study.trials if trial.params.get("unfrozen_layers") == 14)
    assert reasons == {
        1: f"fold 1: {told}",
        2: "fold 2: an unexpected runtime error: something broke",
        planned.number: "unfrozen_layers: expected at most 13, the convolutions of vgg16, found 14",
    }
    others = {trial.state for trial in study.trials if trial.number not in reasons}
    assert others == {TrialState.COMPLETE}
    assert f"{study.study_name}: {len(study.trials) - 3} complete, 3 fail" in outcome.out


def test_a_pruned_trial_keeps_its_folds(search, tmp_path):
    # the grid's order has the two rates that are plainly too high after four other trials
    found = space(tmp_path, "learning_rate: {choices: [10, 20, 1e-5, 5e-5, 1e-4]}", "optimizer: adam")
    arguments = [*FROZEN, *found, *BARE, "--sampler", "grid", "--trials", "6", "--pruner", "median"]
    outcome = search(*arguments, "--objective", "log_loss", "--workers", "1")
    study, store, runs = agree(tmp_path)
    nothing_runs(tmp_path)
    pruned = {trial.params["learning_rate"] for trial in study.trials if trial.state == TrialState.PRUNED}
    assert pruned == {10, 20}
    assert len(study.trials) == 6
    for trial in study.trials:
        run = runs[trial.number]
        if trial.state != TrialState.PRUNED:
            assert sorted(trial.intermediate_values) == [1, 2]
            assert len(folds_of(store, run)) == 2
            continue
        assert list(trial.intermediate_values) == [1]
        assert "pruned after fold 1 of 2: log_loss" in trial.user_attrs["reason"] == run.data.tags["mammo.reason"]
        (fold,) = folds_of(store, run)
        assert fold.info.status == "FINISHED"
        assert fold.data.tags["mammo.pruned"] == "true"
    metrics = store.tops()[0].data.metrics
    assert metrics["folds_trained"] == 10
    assert metrics["folds_without_pruning"] == 12
    assert "4 complete, 2 pruned" in outcome.out


# -- mistakes


def refused(outcome, where, *faults):
    """A line for each fault with its words, exit code 2, and neither database made."""
    assert outcome.code == 2, outcome.err
    assert len(outcome.complaints) == len(faults), outcome.err
    for line, words in zip(outcome.complaints, faults, strict=True):
        assert line.startswith("mammo_mlflow: ")
        for word in words:
            assert word in line
    assert "Traceback" not in outcome.err
    assert [path.name for path in where.iterdir() if path.suffix == ".db" or path.name == "mlruns"] == []


@pytest.mark.parametrize(
    ("parameters", "faults"),
    [
        (["learning_rat: 1e-3"], [["parameters", "'learning_rat'", "did you mean 'learning_rate'"]]),
        (["learning_rate: {low: 1e-2, high: 1e-4}"], [["parameters.learning_rate", "low below high"]]),
        (["learning_rate: {low: 0, high: 1, log: true}"], [["parameters.learning_rate.low", "above 0"]]),
        (["optimizer: {choices: [adam, adm]}"], [["parameters.optimizer.choices", "'adm'", "did you mean 'adam'"]]),
        (["folds: {low: 2, high: 4}"], [["parameters.folds", "--folds"]]),
        (["optimizer: [adam, sgd]"], [["parameters.optimizer", "choices"]]),
        (["optimizer: adam"], [["parameters", "something to search"]]),
        (["optimizer: {choices: [adam"], [["space.yaml"]]),
        (
            ["dropout: {low: 0, high: 2}", "momentum: {low: 0.5}"],
            [["parameters.dropout.high", "2"], ["parameters.momentum", "no high"]],
        ),
    ],
)
def test_a_malformed_space(cli, tmp_path, parameters, faults):
    outcome = cli(*FROZEN, *INLINE, *space(tmp_path, *parameters), command="search")
    refused(outcome, tmp_path, *[["space.yaml", *words] for words in faults])


def test_a_space_that_is_not_there(cli, tmp_path):
    refused(cli(*FROZEN, *INLINE, "--space", "nowhere.yaml", command="search"), tmp_path, ["nowhere.yaml"])


def test_a_space_of_which_the_command_line_leaves_nothing(cli, tmp_path):
    outcome = cli(*FROZEN, *INLINE, *space(tmp_path, RATES), "--learning-rate", "0.001", command="search")
    refused(outcome, tmp_path, ["space.yaml", "something left to search"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--family", "pretraind"], ["family", "did you mean 'pretrained'"]),
        (["--task", "mas_calc"], ["task", "did you mean 'mass_calc'"]),
        (["--sampler", "tpa"], ["sampler", "'tpa'", "did you mean 'tpe'"]),
        (["--pruner", "medain"], ["pruner", "'medain'", "did you mean 'median'"]),
        (["--pruner", "percentile=200"], ["pruner", "percentile"]),
        (["--pruner", "wilcoxon", "--folds", "4"], ["pruner", "at least 6 folds", "4"]),
        (["--pruner", "median", "--objective", "roc_auc,seconds"], ["pruner", "two objectives"]),
        (["--objective", "roc_acu"], ["objective", "did you mean 'roc_auc'"]),
        (["--objective", "roc_auc,accuracy,seconds"], ["objective"]),
        (["--storage", "nonsense"], ["storage", "'nonsense'"]),
        (["--storage", "sqlite:////nowhere/at/all.db"], ["storage", "/nowhere/at/all.db"]),
        (["--storage", "oracl://here/there"], ["storage", "oracl"]),
        (["--trials", "0"], ["trials", "at least 1, or a timeout"]),
        (["--trials", "-1"], ["trials", "from 0 to 1000000", "-1"]),
        (["--timeout", "-1"], ["timeout", "from 0 to 1,000,000,000"]),
        (["--fresh-seeds", "-1"], ["fresh_seeds", "from 0 to 1000"]),
        (["--fresh-seeds", "many"], ["fresh_seeds", "auto or a whole number from 0 to 1000", "'many'"]),
        (["--generation", "0"], ["generation", "auto or a whole number from 1 to 10000", "'0'"]),
        (["--generation", "2.5"], ["generation", "'2.5'"]),
        (["--repeats", "0"], ["repeats", "from 1 to 100"]),
        (["--keep-tails", "bets"], ["keep_tails", "did you mean 'best'"]),
        (["--seeds", "2"], ["seeds", "fresh_seeds"]),
        (["--final", "refits"], ["final", "did you mean 'refit'"]),
        (["--space", "frozen_hed"], ["space", "did you mean 'frozen_head'"]),
        (["--sampla", "tpe"], ["--sampla", "did you mean '--sampler'"]),
    ],
)
def test_a_mistake_on_the_command_line(cli, tmp_path, arguments, words):
    outcome = cli(*FROZEN, *INLINE, *space(tmp_path, *SIMPLE), *arguments, command="search")
    refused(outcome, tmp_path, words)


@pytest.mark.parametrize("option", [["--sampler", "grid"], ["--space", "space.yaml"], ["--study", "mine"]])
def test_an_option_of_searches_without_trials(cli, tmp_path, option):
    refused(cli(*FROZEN, *INLINE, *option), tmp_path, ["trials", f"'{option[0][2:]}'"])


def test_all_spaces_are_checked_before_anything_runs(cli, tmp_path):
    """One file for three backbones: its fault is told once."""
    arguments = [*FROZEN, *INLINE, *space(tmp_path, "learning_rate: {low: 2}"), "--backbone", "all", "--task", "all"]
    refused(cli(*arguments, command="search"), tmp_path, ["parameters.learning_rate", "no high"])
