"""The scripted executor answers what a coordinator asks in the form of the real one, and does what its script says."""

import time

import numpy as np
import pytest

from mammo_mlflow.errors import UserError
from mammo_mlflow.jobs import contracts
from mammo_mlflow.jobs.contracts import AssembleJob, Failure, Job, Part, PredictJob, TryJob
from mammo_mlflow.testing.executors import calls
from mammo_mlflow.testing.scripted import ANSWERS, Script, ScriptedExecutor, quality
from mammo_mlflow.tracking.vetting import vet

OF_REAL_NETWORKS = {"FitsJob", "EnsembleJob", "AnswerJob", "ExplainJob"}


def test_every_job_has_an_answer_but_those_on_real_networks():
    jobs = [kind for kind in vars(contracts).values() if isinstance(kind, type) and issubclass(kind, Job)]
    asked = {kind for kind in jobs if hasattr(kind, "target")}  # others are what jobs have in common
    assert {kind.__name__ for kind in asked - ANSWERS.keys()} == OF_REAL_NETWORKS
    assert ANSWERS.keys() < asked


@pytest.mark.parametrize("unfrozen", [0, 1])
def test_a_fit_is_answered_in_the_form_of_a_real_one(laboratory, scripted, frozen, tuned, unfrozen):
    real, made = tuned if unfrozen else frozen, scripted.run(unfrozen_layers=unfrozen)
    assert list(made.oof.columns) == list(real.oof.columns)
    for name, result in made.results.items():
        other = real.results[name]
        assert result.probabilities.shape == other.probabilities.shape
        assert result.best_epochs == other.best_epochs
        for row, same in zip(result.history, other.history, strict=True):
            assert (row.keys(), row["stage"], row["epoch"]) == (same.keys(), same["stage"], same["epoch"])


def test_fits_are_as_good_as_their_experiment(scripted):
    best, slow, control = (scripted.run(**values) for values in ({}, {"learning_rate": 1e-7}, {"control": "shuffled"}))
    aucs = [done.fold_scores["roc_auc"].mean() for done in (best, slow, control)]
    assert aucs[0] > 0.75 > max(aucs[1:])
    assert quality(best.plan.experiment) > quality(slow.plan.experiment) > quality(control.plan.experiment) == 0


@pytest.fixture
def model(scripted, tmp_path):
    """A model of two fits."""
    done = scripted.run(final="refit")
    plan, directory = done.plan, tmp_path / "model"
    tails = tuple(done.results[name].tail for name in ("fold 1", "fold 2"))
    job = AssembleJob(
        name="assembling",
        part=Part(plan.network, plan.weights, 9, tails),
        examples={"patch": np.zeros((2, 32, 32, 1), np.uint16)},
        metadata={"mammo": plan.tags()},
        output=directory,
    )
    ask(job)
    return directory


def ask(job):
    ((_, answer),) = ScriptedExecutor(Script()).run([job], lambda *_: None, lambda: None)
    return answer


def test_a_model_is_one_that_may_be_registered_and_is_as_good_as_its_fits(model, phantom):
    found = vet(model)
    assert (found.kind, found.inputs, found.image_size) == ("keras", ("patch",), 32)
    assert ask(TryJob(name="try", model=model))["probability"].shape == (2,)
    job = PredictJob(name="test", model=model, tensor=phantom / "public_test_tensor.npy", threads=1, sides={"patch": 1})
    labels = np.load(phantom / "public_test_labels.npy")[1::2] > 2
    answer = ask(job)
    assert answer[labels].mean() - answer[~labels].mean() > 0.2
    np.testing.assert_array_equal(ask(job), answer)


def test_a_script_says_what_fails_how_long_it_takes_and_in_which_order():
    script = Script(
        fail={"job 1": UserError("folds: expected better"), "job 2": RuntimeError("broke")},
        delay={"job 0": 0.2},
        order=lambda waiting: len(waiting) - 1,
    )
    waiting, found, started = calls("double", 0, 1, 2, 3), {}, time.monotonic()

    def next_job():
        return waiting.pop(0) if waiting else None

    for job, answer in ScriptedExecutor(script, 2).stream(next_job, lambda *_: None, lambda: None):
        found[job.name] = answer
    assert [job.name for job in script.asked] == ["job 1", "job 2", "job 3", "job 0"]
    assert (found["job 0"], found["job 3"]) == (0, 6)
    assert (found["job 1"].user, found["job 1"].line) == (True, "folds: expected better")
    assert isinstance(found["job 2"], Failure) and not found["job 2"].user
    assert time.monotonic() - started >= 0.2
    script.fail["job 0"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        list(ScriptedExecutor(script).run(calls("double", 0), lambda *_: None, lambda: None))
