"""Both engines give a fit of each family the same, and the same activations."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from support_engines import HEADS, NETWORKS, assert_same
from support_laboratory import SMALL

from mammo_mlflow.data.patches import read_patch_set
from mammo_mlflow.engine import keras_fit, train
from mammo_mlflow.engine.compiled import training
from mammo_mlflow.engine.inputs import PatchReader
from mammo_mlflow.experiment import build
from mammo_mlflow.jobs.cache import Cache
from mammo_mlflow.jobs.contracts import Failure, FitResult, FitsJob, FitsProgress
from mammo_mlflow.models.network import build_base, convolutions, prefix
from mammo_mlflow.planning.activations import ensure_activations
from mammo_mlflow.planning.planner import Planner
from mammo_mlflow.testing.scripted import Script, ScriptedExecutor

pytestmark = pytest.mark.usefixtures("jax_backend")

ENGINES = (keras_fit, training)
FLOAT32, BFLOAT16 = 1e-4, 1e-2
"""By what share of the largest one activations may differ."""


def train_both(plan, paths, monkeypatch, tmp_path, folds):
    """Train some folds of a plan by each engine: what each gives to each fold."""
    found = []
    for module in ENGINES:
        monkeypatch.setattr(train, "make_engine", lambda memory, notice, module=module: module.make(memory, notice))
        jobs, answers = [], {}
        for number, fit in enumerate(plan.fits[:folds]):
            output = tmp_path / module.__name__ / str(number)
            output.mkdir(parents=True)
            files = [{name: paths[entry.key] for name, entry in stage.items()} for stage in (fit.features, fit.tuned)]
            jobs.append(replace(fit.job, output=output, features=files[0], tuned=files[1]))

        def emit(event, answers=answers):
            if isinstance(event, FitsProgress):
                answers |= {place: what for place, what in event.happened if isinstance(what, FitResult | Failure)}

        train.train_fits(FitsJob(name="all", fits=tuple(jobs), memory=0), emit)
        results = [answers[place] for place in range(len(jobs))]
        tails = [keras.saving.load_model(result.tail, compile=False).get_weights() for result in results]
        found.append(
            [(r.probabilities, tail, r.history, r.best_epochs) for r, tail in zip(results, tails, strict=True)]
        )
    return list(zip(*found, strict=True))


TINY = {"blocks": "4/2-4,8", "dense": "8", "epochs": 1, "batch_size": 8}


@pytest.mark.parametrize(
    ("values", "most"),
    [
        ({"family": "siamese", "backbone": "vgg16"}, HEADS),
        ({"family": "siamese", "backbone": "vgg16", "pair_augmentation": "independent"}, HEADS),
        ({"family": "texture", "backbone": "laws"}, HEADS),
        ({"unfrozen_layers": 1}, NETWORKS),
        ({"views": 0, "epochs": 1}, NETWORKS),
        ({"family": "scratch", "backbone": "m1", **TINY}, NETWORKS),
        ({"family": "siamese", "backbone": "scratch", "pair_augmentation": "independent", **TINY}, NETWORKS),
    ],
    ids=lambda value: "-".join(map(str, value.values())) or "frozen" if isinstance(value, dict) else "",
)
def test_each_family(laboratory, monkeypatch, tmp_path, values, most):
    """Heads of two folds are trained at once; of networks one takes 3 steps of 8 patches."""
    folds = 2 if most == HEADS else 1
    plan = laboratory.plan(**values)
    paths = ensure_activations(laboratory.session(), plan.activations())
    for one, other in train_both(plan, paths, monkeypatch, tmp_path, folds):
        assert_same(one, other, most)


def test_a_head_on_joined_backbones(phantom, monkeypatch, tmp_path):
    """On features that are drawn, of backbones that are never built."""
    planner = Planner(read_patch_set(phantom), ScriptedExecutor(Script()), Cache(tmp_path / "cache"))
    (plan,) = planner.plans([build("mass_calc", SMALL | {"backbone": "vgg16+resnet50"})])
    rng, paths = np.random.default_rng(0), {}
    for entry in plan.activations():
        paths[entry.key] = tmp_path / f"{entry.key}.npy"
        np.save(paths[entry.key], rng.normal(size=(48, 3, *entry.job.cut.shape)).astype(np.float32))
    (one, other), _ = train_both(plan, paths, monkeypatch, tmp_path, 2)
    assert_same(one, other, HEADS)
    assert one[1][0].shape == (sum(entry.job.cut.shape[0] for entry in plan.activations()), 16)


@pytest.mark.parametrize(("precision", "most"), [("float32", FLOAT32), ("bfloat16", BFLOAT16)])
def test_activations(phantom, precision, most):
    """Those behind VGG16's third convolution, of all views."""
    keras.utils.set_random_seed(0)
    base = build_base("vgg16", 32, "average", precision)
    network = prefix(base, convolutions(base)[2][0])
    reader = PatchReader(phantom / "train_tensor.npy", 1, "paper")
    made = [np.concatenate(list(module.make(0, print).outputs(network, reader, 10, 2))) for module in ENGINES]
    assert made[0].shape == made[1].shape == (10, 3, 16, 16, 128)
    assert np.abs(made[0] - made[1]).max() < most * np.abs(made[0]).max()
    assert np.abs(made[0][:, 1] - made[0][:, 2]).max() > 0.01 * np.abs(made[0]).max()
