"""Architectures drawn by Optuna trials, without processes between."""

import json
import subprocess
import sys
from dataclasses import replace

import keras_tuner
import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FixedTrial

from mammo_mlflow.engine.hypermodels import (
    HYPERMODELS,
    DrawnHyperParameters,
    HeadHyperModel,
    ScratchHyperModel,
    draw_architecture,
)
from mammo_mlflow.errors import UserError
from mammo_mlflow.experiment import BASELINE, NETWORKS, PATCH, TASKS, ModelSpec, build
from mammo_mlflow.jobs.contracts import DrawJob
from mammo_mlflow.jobs.descriptions import Network
from mammo_mlflow.jobs.executors import make_executor
from mammo_mlflow.models.network import cut_points
from mammo_mlflow.presets import preset_values
from mammo_mlflow.search.architectures import distribution_from, start_draws
from mammo_mlflow.search.parameters import ARCHITECTURES

pytestmark = pytest.mark.usefixtures("keras")


def draw_job(architecture, network, head=()):
    return DrawJob(name="draw", architecture=architecture, network=network, head=head)


def known(family, model, size=32, sides=(PATCH,)):
    return Network(family=family, model=model, image_size=size, precision="float32", sides=sides)


def head_job(shape=(8,), **values):
    return draw_job("head", known("pretrained", ModelSpec(**values)), shape)


def setting(name, family="scratch", preset="paper"):
    """All values of a preset, defaults too."""
    return build(TASKS[0], preset_values(preset, name, TASKS[0], family), family).flat()


def scratch_job(size=32, sides=(PATCH,), **values):
    """A job for the network of M1, or the Siamese encoder's where there are two sides."""
    family, name = ("scratch", "m1") if len(sides) == 1 else ("siamese", "scratch")
    spec = build(TASKS[0], preset_values("paper", name, TASKS[0], family) | values, family).model
    return draw_job("scratch", known(family, spec, size, sides))


HEAD = head_job()
JOBS = {"head": HEAD, "scratch": scratch_job()}


def suggest(trial, name, facts):
    """A trial's own answer to a question."""
    return trial._suggest(name, distribution_from(facts))


def answers(trial):
    """What the coordinator does with a draw's events."""

    def emit(event):
        assert json.loads(json.dumps(event.distribution)) == event.distribution
        return suggest(trial, event.name, event.distribution)

    return emit


def drawn(**values):
    """Hyperparameters drawn from a trial with these values, and the trial."""
    trial = FixedTrial(values)
    return DrawnHyperParameters(lambda name, facts: suggest(trial, name, facts)), trial


@pytest.fixture
def study():
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))


def test_drawn_heads_ask_only_for_the_widths_they_have(study):
    seen = set()
    for _ in range(12):
        trial = study.ask()
        values = draw_architecture(HEAD, answers(trial))
        widths = values["dense"].split("-")
        names = {f"dense_{number}" for number in range(1, len(widths) + 1)}
        assert set(trial.params) == {"dense_layers", "dropout", "batch_norm"} | names
        assert [str(trial.params[name]) for name in sorted(names)] == widths
        assert values["dropout"] == pytest.approx(trial.params["dropout"])
        assert values["batch_norm"] is trial.params["batch_norm"]
        study.tell(trial, 0.0)
        seen.add(len(widths))
    assert seen == {1, 2, 3}


@pytest.mark.parametrize(
    "values",
    [
        {"dense": "256", "dropout": 0.0, "batch_norm": True},
        {"dense": "512-64", "dropout": 0.3, "batch_norm": False},
        {"dense": "64-128-256", "dropout": 0.5, "batch_norm": True},
    ],
)
def test_a_known_setting_is_drawn_again(values):
    assert draw_architecture(HEAD, answers(FixedTrial(start_draws("head", values)))) == values


def test_the_tables_agree():
    assert set(HYPERMODELS) == set(ARCHITECTURES)
    for name, parameters in ARCHITECTURES.items():
        assert set(draw_architecture(JOBS[name], answers(optuna.create_study().ask()))) == set(parameters)


def test_dropout_is_a_number_as_one_writes_it():
    draws = start_draws("head", {"dense": "64", "batch_norm": False}) | {"dropout": 3 * 0.1}
    assert draw_architecture(HEAD, answers(FixedTrial(draws)))["dropout"] == 0.3


def test_a_study_starts_from_a_known_setting(study):
    values = {"dense": "256-64", "dropout": 0.2, "batch_norm": True}
    study.enqueue_trial(start_draws("head", values))
    assert draw_architecture(HEAD, answers(study.ask())) == values


@pytest.mark.parametrize("name", ["inline", "process"])
def test_drawn_by_an_executor(name):
    values = {"dense": "64", "dropout": 0.1, "batch_norm": True}
    answer = answers(FixedTrial(start_draws("head", values)))
    assert list(make_executor(name, 1).run([HEAD], lambda _, event: answer(event), lambda: None)) == [(HEAD, values)]


def test_kerastuners_own_hyperparameters_build_a_head_that_trains():
    hp, hypermodel = keras_tuner.HyperParameters(), HeadHyperModel(head_job(backbone="resnet50"))
    model = hypermodel.build(hp)
    assert hypermodel.spec(hp) == ModelSpec(backbone="resnet50", dense="256", dropout=0.0, batch_norm=False)
    assert {hyperparameter.name for hyperparameter in hp.space} >= {"dense_layers", "dense_1", "dense_2", "dense_3"}
    assert "dense_2" not in hp.values
    model.compile("sgd", "binary_crossentropy")
    before = model.get_weights()[0].copy()
    model.fit(np.ones((4, 8), np.float32), np.ones((4, 1), np.float32), epochs=1, verbose=0)
    assert not np.array_equal(model.get_weights()[0], before)


def test_drawn_values_are_in_the_model():
    hp, _ = drawn(dense_layers=2, dense_1=128, dense_2=64, dropout=0.2, batch_norm=True)
    names = [layer.name for layer in HeadHyperModel(HEAD).build(hp).layers]
    assert names == [
        "features",
        "head_batch_norm",
        "head_dense",
        "head_dropout",
        "head_dense_2",
        "head_dropout_2",
        "probability",
    ]


# -- networks trained from scratch

BOTH = (BASELINE, PATCH)


@pytest.mark.parametrize(("size", "sides"), [(32, (PATCH,)), (32, BOTH), (150, (PATCH,))])
def test_drawn_networks_are_experiments_and_can_be_built(study, size, sides):
    job, seen = scratch_job(size, sides), set()
    family, name = job.network.family, job.network.model.backbone
    for _ in range(6):
        trial = study.ask()
        values = draw_architecture(job, answers(trial))
        study.tell(trial, 0.0)
        build(TASKS[0], {"backbone": name, **values}, family)
        json.dumps(values)
        blocks = [block.replace("/2", "").split("-") for block in values["blocks"].split(",")]
        assert values["blocks"].partition("-")[0].partition(",")[0].endswith("/2")
        assert len(blocks) == trial.params["block_count"]
        for number, block in enumerate(blocks, 1):
            assert block == [str(trial.params[f"filters_{number}"])] * trial.params[f"convolutions_{number}"]
        absent = len(blocks) + 1
        assert f"filters_{absent}" not in trial.params and f"convolutions_{absent}" not in trial.params
        regularised = trial.params["regularised"]
        assert ((values["l1"] > 0), (values["l2"] > 0)) == (regularised, regularised)
        seen.add(len(blocks))
    assert len(seen) > 1


def test_a_drawn_network_is_the_encoder_and_its_head():
    draws = start_draws("scratch", setting("m2")) | {"dense_layers": 1}
    model = ScratchHyperModel(scratch_job()).build(drawn(**draws)[0])
    names = [layer.name for layer in model.layers]
    assert names[0] == "patch"
    assert names[-2:] == ["features", "head"]
    assert [name for name in names if name.endswith("pool")] == [f"block{number}_pool" for number in (1, 2, 3, 4)]
    assert model.get_layer("block3_conv2").filters == 128
    assert model.get_layer("block3_conv2").kernel_regularizer.get_config() == pytest.approx({"l1": 1e-5, "l2": 1e-4})
    assert model.input_shape == (None, 32, 32, 1)
    assert model.output_shape == (None, 1)
    assert len(cut_points(model)) == len(model.layers)


def test_a_drawn_siamese_network_has_both_sides():
    draws = start_draws("scratch", setting("scratch", "siamese"))
    model = ScratchHyperModel(scratch_job(sides=BOTH, difference="concatenate")).build(drawn(**draws)[0])
    assert set(model.input) == set(BOTH)
    assert model.get_layer("head").input_shape == (None, 2 * 4 * 4 * 64)


@pytest.mark.parametrize(
    ("family", "name", "preset"),
    [
        # not the author's M1: its penalty is L2 alone, and the architecture draws both or none
        *(("scratch", name, preset) for name in NETWORKS["scratch"][:-1] for preset in ("paper", "table")),
        ("siamese", "scratch", "paper"),
    ],
)
def test_every_setting_trained_from_scratch_is_drawn_again(family, name, preset):
    experiment = build(TASKS[0], preset_values(preset, name, TASKS[0], family), family)
    network = known(family, experiment.model, sides=tuple(experiment.sides))
    trial = FixedTrial(start_draws("scratch", experiment.flat()))
    values = draw_architecture(draw_job("scratch", network), answers(trial))
    assert values == {name: experiment.flat()[name] for name in ARCHITECTURES["scratch"]}


def test_kerastuners_own_hyperparameters_build_a_network_that_trains():
    hp, hypermodel = keras_tuner.HyperParameters(), ScratchHyperModel(scratch_job())
    model = hypermodel.build(hp)
    assert hypermodel.spec(hp).blocks == "8/2"
    assert {"filters_4", "l1"} <= {hyperparameter.name for hyperparameter in hp.space}
    assert not {"filters_2", "l1"} & set(hp.values)
    model.compile("sgd", "binary_crossentropy")
    before = model.get_weights()[0].copy()
    model.fit(np.random.default_rng(0).uniform(0, 65535, (4, 32, 32, 1)), np.ones((4, 1)), epochs=1, verbose=0)
    assert not np.array_equal(model.get_weights()[0], before)


def test_patches_too_small_for_a_known_setting_fail_the_draw():
    draws = start_draws("scratch", setting("m1"))
    with pytest.raises(
        UserError, match="blocks: expected at most 3 pools for patches of 24 pixels, found '32/2-32-32,"
    ):
        draw_architecture(scratch_job(24), lambda event: draws[event.name])


@pytest.mark.parametrize(
    ("ask", "value", "wanted"),
    [
        (lambda hp: hp.Choice("x", ["a", "b"]), "b", CategoricalDistribution(["a", "b"])),
        (lambda hp: hp.Choice("x", [0.5, 1.5]), 1.5, CategoricalDistribution([0.5, 1.5])),
        (lambda hp: hp.Boolean("x"), True, CategoricalDistribution([False, True])),
        (lambda hp: hp.Int("x", 1, 5), 4, IntDistribution(1, 5)),
        (lambda hp: hp.Int("x", 6, 12, step=3), 9, IntDistribution(6, 12, step=3)),
        (lambda hp: hp.Int("x", 1, 100, sampling="log"), 7, IntDistribution(1, 100, log=True)),
        (lambda hp: hp.Int("x", 2, 32, 2, sampling="log"), 8, CategoricalDistribution([2, 4, 8, 16, 32])),
        (lambda hp: hp.Int("x", 1, 8, 2, sampling="reverse_log"), 7, CategoricalDistribution([8, 7, 5, 1])),
        (lambda hp: hp.Float("x", 0, 1), 0.123, FloatDistribution(0, 1)),
        (lambda hp: hp.Float("x", 0, 1, step=0.25), 0.75, FloatDistribution(0, 1, step=0.25)),
        (lambda hp: hp.Float("x", 1e-4, 1, sampling="log"), 0.01, FloatDistribution(1e-4, 1, log=True)),
        (lambda hp: hp.Float("x", 1, 100, 10, sampling="log"), 10.0, CategoricalDistribution([1.0, 10.0, 100.0])),
    ],
)
def test_every_hyperparameter_has_a_distribution(ask, value, wanted):
    hp, trial = drawn(x=value)
    assert ask(hp) == value
    assert hp.get("x") == value
    assert trial.distributions == {"x": wanted}


@pytest.mark.parametrize("ask", ["Int", "Float"])
def test_a_reversed_logarithm_without_steps_is_refused(ask):
    hp, _ = drawn()
    with pytest.raises(UserError, match="rate: expected sampling 'linear' or 'log', or a step, found 'reverse_log'"):
        getattr(hp, ask)("rate", 1, 10, sampling="reverse_log")


def test_asking_again_gives_the_value_drawn_first(study):
    trial = study.ask()
    asked = []

    def answer(name, facts):
        asked.append(name)
        return suggest(trial, name, facts)

    hp = DrawnHyperParameters(answer)
    assert hp.Float("rate", 0, 1) == hp.Float("rate", 0, 1) == hp.get("rate") == trial.params["rate"]
    assert asked == ["rate"]
    assert [hyperparameter.name for hyperparameter in hp.space] == ["rate"]


def test_fixed_values_are_not_drawn():
    hp, trial = drawn()
    assert hp.Fixed("activation", "relu") == "relu"
    assert hp.get("activation") == "relu"
    assert trial.params == {}


def test_inactive_ones_are_registered_and_not_drawn():
    hp, trial = drawn(kind="mlp", units=16)
    hp.Choice("kind", ["cnn", "mlp"])
    with hp.conditional_scope("kind", ["cnn"]):
        assert hp.Int("filters", 1, 64) is None
    with hp.conditional_scope("kind", ["mlp"]):
        assert hp.Int("units", 1, 64) == 16
    assert hp.Int("depth", 1, 3, parent_name="kind", parent_values=["cnn"]) is None
    assert trial.params == {"kind": "mlp", "units": 16}
    assert "filters" not in hp
    assert {hyperparameter.name for hyperparameter in hp.space} == {"kind", "filters", "units", "depth"}


def test_one_name_under_two_conditions_is_one_parameter():
    hp, trial = drawn(kind="deep", units=3)
    hp.Choice("kind", ["wide", "deep"])
    with hp.conditional_scope("kind", ["wide"]):
        assert hp.Int("units", 64, 512) is None
    with hp.conditional_scope("kind", ["deep"]):
        assert hp.Int("units", 1, 8) == 3
    assert trial.distributions["units"] == IntDistribution(1, 8)


def test_names_carry_their_scope():
    hp, trial = drawn(**{"stem/kind": "wide", "stem/units": 64})
    with hp.name_scope("stem"):
        hp.Choice("kind", ["wide", "deep"])
        with hp.conditional_scope("kind", ["wide"]):
            assert hp.Int("units", 64, 512) == 64
    assert trial.params == {"stem/kind": "wide", "stem/units": 64}


def test_a_model_that_cannot_be_built_says_why():
    trial = FixedTrial(start_draws("head", {"dense": "64", "dropout": 0.0, "batch_norm": False}))
    wanted = "architecture head: expected a model that can be built, found ValueError: .*[Nn]egative dimensions"
    with pytest.raises(UserError, match=wanted):
        draw_architecture(head_job((-3,)), answers(trial))


def test_an_unknown_architecture_is_named():
    with pytest.raises(UserError, match="architecture: unknown 'heads', did you mean 'head'"):
        draw_architecture(replace(HEAD, architecture="heads"), answers(FixedTrial({})))


def test_importing_keras_tuner_says_nothing_and_needs_no_tensorboard(system):
    code = """
import contextlib, io, sys, warnings
sys.modules["tensorboard"] = None
import keras
said = io.StringIO()
with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), warnings.catch_warnings():
    warnings.simplefilter("error")
    import keras_tuner
print(repr(said.getvalue()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "''"
