"""A small model of every row of every table, as it would be registered: random weights, nothing trained.

`python tests/support_models.py` writes anew which classes of Keras such models are made of.
"""

import importlib.util
import json
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from mammo_mlflow.backbones import BACKBONES
from mammo_mlflow.engine import assembly, ensemble
from mammo_mlflow.engine.activations import network_encoder
from mammo_mlflow.ensembles.methods import fit_ensembles
from mammo_mlflow.evaluation.objectives import parse_objectives
from mammo_mlflow.evaluation.out_of_fold import OutOfFold
from mammo_mlflow.evaluation.recalibration import RECALIBRATIONS
from mammo_mlflow.experiment import ABNORMALITY_TYPE, DIFFERENCES, NETWORKS, build
from mammo_mlflow.jobs.contracts import AssembleJob, EnsembleJob, Part
from mammo_mlflow.jobs.descriptions import Network
from mammo_mlflow.model_spec import CONDITIONS, POOLINGS
from mammo_mlflow.models.conditioned import build_conditioned
from mammo_mlflow.models.network import build_head, build_tail, deepest_cut, suffix
from mammo_mlflow.models.siamese import joined_shape
from mammo_mlflow.models.weights import NO_WEIGHTS
from mammo_mlflow.names import Artifact
from mammo_mlflow.presets import preset_values
from mammo_mlflow.tracking.vetting import CLASSES_FILE, SERVED_CODE, classes

HUB = importlib.util.find_spec("keras_hub") is not None
"""Whether rows of keras-hub can be built."""
TASK = "benign_malignant"
HEAD = {"dense": "8-4", "batch_norm": True, "dense_batch_norm": True, "feature_dropout": 0.1, "dropout": 0.1}


SHOWN = {
    "pretrained": {"unfrozen_layers": (2,)},
    "scratch": {
        "pooling": POOLINGS,
        "final": ("refit", "fold_average"),
        "tta": ("none", "flips"),
        "calibrate": ("none", *RECALIBRATIONS),
    },
    "siamese": {"difference": DIFFERENCES, "tta": ("flips", "none"), "calibrate": ("none", *RECALIBRATIONS)},
    "conditioned": {"condition": CONDITIONS, "tta": ("views", "none")},
    "views": {"tta": ("flips",), "unfrozen_layers": (2,)},
}
"""By family, the rows of other tables that its models show, each in turn, several in one model."""


def experiments():
    """An experiment of every row, by what it shows."""
    found = {}

    def add(family, network, **values):
        name = " ".join([family, network, *(f"{k}={v}" for k, v in values.items())])
        found[name] = build(TASK, preset_values("quick", network, TASK, family) | values, family)

    for family, networks in NETWORKS.items():
        if family in ("siamese", "views"):  # the layers of other backbones are those of pretrained networks
            networks = [one for one in networks if one not in BACKBONES or one == "vgg16"]
        networks = [one for one in networks if HUB or one not in BACKBONES or not BACKBONES[one].hub]
        shown = SHOWN.get(family, {})
        for place in range(max(map(len, (networks, *shown.values())))):
            add(family, networks[place % len(networks)], **{k: every[place % len(every)] for k, every in shown.items()})
    add("siamese", "vgg16", unfrozen_layers=2)
    add("scratch", "m2", **HEAD, pool_dropout=0.1, l1=1e-5)
    return found


def part(made, folder):
    """What is trained of it, saved as a fit does."""
    model, sides = made.model, tuple(made.sides)
    size = BACKBONES[model.backbone].minimum_size if model.backbone in BACKBONES else 32
    network = Network(family=made.family, model=model, image_size=size, precision="float32", sides=sides)
    base = network_encoder(network)
    cut = 0 if base.trainable_weights else deepest_cut(base, model.unfrozen_layers)
    features = base.output.shape[1:]
    head = build_head(joined_shape(features, sides, model.difference), model)
    tail = build_tail(suffix(base, cut), head, sides, model.difference, features)
    return Part(network, NO_WEIGHTS, cut, (_saved(tail, folder),) * (2 if made.final.final == "fold_average" else 1))


def save(made, folder):
    """Its model as it is registered: the directory."""
    more = {}
    if made.family == "conditioned":
        family, network = ("pretrained", "vgg16") if made.model.backbone == "b" else ("siamese", "scratch")
        source = part(build(TASK, preset_values("quick", network, TASK, family), family), folder)
        width = network_encoder(source.network).output.shape[1]
        tail = build_conditioned((width,), build_head((width + 1,), made.model))
        network = Network(family="conditioned", model=made.model, image_size=32, precision="float32")
        own = Part(network, NO_WEIGHTS, 0, (_saved(tail, folder),))
        more = {"features": source, "condition": None if made.model.backbone == "c" else source}
        sides = source.network.sides
    else:
        own = part(made, folder)
        sides = own.network.sides
    examples = _examples(own.network.image_size, sides)
    if made.model.backbone == "c":
        examples[ABNORMALITY_TYPE] = np.ones((2, 1), np.float32)
    model = folder / "model"
    more["flips"] = made.final.tta != "none"
    if fit := RECALIBRATIONS.get(made.final.calibrate):
        more["recalibration"] = fit(np.arange(4) % 2, np.array([0.2, 0.5, 0.4, 0.6]))
    assembly.assemble_model(AssembleJob(name="", part=own, examples=examples, metadata={}, output=model, **more), None)
    return model


def save_ensembles(folder):
    """The directory of an ensemble of a frozen network, a tuned one and a Siamese one, by each method in turn."""
    rng = np.random.default_rng(0)
    labels, folds = np.arange(120) % 2, np.arange(120) // 2 % 4
    members = np.clip(0.3 + 0.4 * labels[:, None] + rng.normal(0, 0.2, (120, 3)), 0, 1)
    data = OutOfFold(labels=labels, probabilities=members, folds=folds)
    names = ("pretrained vgg16", "pretrained vgg16 unfrozen_layers=1", "siamese scratch")
    made = [build(TASK, {"backbone": "vgg16", "unfrozen_layers": n, "dense": "8"}) for n in (0, 1)]
    made.append(build(TASK, preset_values("quick", "scratch", TASK, "siamese"), "siamese"))
    parts, folder = tuple(part(one, folder) for one in made), folder / "ensemble"
    (objective,) = parse_objectives("roc_auc")
    for method, found in fit_ensembles(data, objective, resamples=10).items():
        arrays = folder.with_name(Artifact.LEVEL1)
        found.combiner.save(arrays)
        if not folder.exists():
            job = EnsembleJob(
                name="",
                parts=parts,
                names=names,
                flips=(False, True, False),
                level1=arrays,
                threshold=0.5,
                examples=_examples(32, ("baseline", "patch")),
                metadata={},
                output=folder,
                code=tuple(SERVED_CODE.values()),
            )
            ensemble.assemble_ensemble(job, None)
        else:
            next(folder.rglob(Artifact.LEVEL1)).write_bytes(arrays.read_bytes())
        yield method, folder


def classes_of(model):
    """The classes that a model directory's Keras file names, with their modules."""
    (path,) = model.rglob("*.keras")
    with zipfile.ZipFile(path) as file:
        return set(classes(json.loads(file.read("config.json"))))


def _saved(tail, folder):
    path = folder / f"tail-{len(list(folder.iterdir()))}.keras"
    tail.save(path)
    return path


def _examples(size, sides):
    return {side: np.full((2, size, size, 1), 20000, np.uint16) for side in sides}


def every_model(folder):
    """What each row is called, and the directory of a model of it, which is gone when the next is asked for."""
    for name, made in experiments().items():
        with tempfile.TemporaryDirectory(dir=folder) as place:
            yield name, save(made, Path(place))
    yield from save_ensembles(folder)


def main():
    """Write the file anew."""
    with tempfile.TemporaryDirectory() as folder:
        found = {one for _, model in every_model(Path(folder)) for one in classes_of(model)}
    by_module = {module: sorted(name for of, name in found if of == module) for module, _ in sorted(found)}
    CLASSES_FILE.write_text(json.dumps(by_module, indent=1) + "\n")


if __name__ == "__main__":
    main()
