"""The keys by which finished work is found again, of every preset and of what else an experiment, a study or an
ensemble may be: nothing is trained, and Keras is not asked.

`python tests/support_keys.py` writes those of the code that is imported to upgrades/keys.json; the README.md there says
when.
"""

import json
import os
import tempfile
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np

from mammo_mlflow.commands import COMMANDS
from mammo_mlflow.commands.ensemble import EnsembleSettings
from mammo_mlflow.ensembles.registered_ensemble import EnsembleSpec, ensemble_key
from mammo_mlflow.experiment import build
from mammo_mlflow.jobs.cache import Cache
from mammo_mlflow.jobs.contracts import CalibrateJob
from mammo_mlflow.jobs.descriptions import Description, LayerCut
from mammo_mlflow.jobs.executors import Executor
from mammo_mlflow.planning.base_models import BaseModel, BaseModels
from mammo_mlflow.planning.planner import Planner
from mammo_mlflow.presets import PRESETS, preset_values
from mammo_mlflow.workflows.search import study_specs

RELEASED = Path(__file__).parent / "upgrades" / "keys.json"
PATCHES = 160
FEATURES, INNER = LayerCut(9, (512,), "float32"), LayerCut(5, (4, 4, 64), "bfloat16")
SAME = {"precision": "float32"}
"""Else the processor's."""
TUNED = (("unfrozen_layers", 1),)
VARIANTS = (
    ("pretrained", "vgg16", TUNED),
    ("pretrained", "resnet50", (*TUNED, ("precision", "bfloat16"))),
    ("pretrained", "inceptionv3", TUNED),
    ("pretrained", "vgg16", (("early_stop", 3), ("optimizer", "sgd"), ("momentum", 0.8))),
    ("pretrained", "vgg16", (("early_stop", 3), ("early_stop_on", "scored"))),
    ("pretrained", "vgg16", (("seed", 7), ("folds", 3), ("threads", 2))),
    ("pretrained", "vgg16", (("holdout", 0.3), ("final", "fold_average"))),
    ("pretrained", "vgg16", (("views", 0), ("final", "none"))),
    ("pretrained", "vgg16", (("weights", "random"),)),
    ("pretrained", "vgg16", (("dense_batch_norm", True), ("feature_dropout", 0.5), ("threshold", "youden"))),
    ("pretrained", "resnet50", (("control", "baseline"),)),
    ("pretrained", "resnet50", (("control", "shuffled"), ("seed", 1))),
    ("scratch", "m1_balanced", (("control", "baseline"),)),
    ("scratch", "m1", (("holdout", 0.3),)),
    ("scratch", "m1", (("first_pool", 3), ("pool_padding", "same"), ("dense_l2", 1e-3), ("seed", 2))),
    ("siamese", "vgg16", TUNED),
    ("siamese", "resnet50", (*TUNED, ("difference", "absolute_product"), ("control", "shuffled"))),
    ("siamese", "scratch", (("holdout", 0.3), ("pair_augmentation", "joint"))),
    ("views", "vgg16", TUNED),
    ("conditioned", "a", (("condition", "class"),)),
    ("conditioned", "b", (("seed", 7), ("final", "none"))),
    ("conditioned", "c", (("condition", "class"), ("views", 3))),
    ("texture", "laws", (("holdout", 0.3),)),
)
"""Family, network and what is other than in its paper's setting."""


class Described(Executor):
    """Answers the two questions that are asked before anything is trained, whatever the network."""

    def attempts(self, next_job, on_event, on_idle):
        while (job := next_job()) is not None:
            if isinstance(job, CalibrateJob):
                job.output.touch()
                yield job, None
            else:
                tuned = INNER if job.network.model.unfrozen_layers else None
                yield job, Description(features=FEATURES, tuned=tuned, head=FEATURES.shape, parameters=1000)


def planner(cache):
    """Plans on a data set of which nothing but its types, patients and hashes counts."""
    train = SimpleNamespace(
        types=np.tile([1, 2, 3, 4], PATCHES // 4),
        patient_ids=np.array([f"p{i // 4}" for i in range(PATCHES)]),
        other_views=lambda: np.arange(PATCHES) ^ 1,
    )
    data = SimpleNamespace(
        directory=Path("data"),
        train=train,
        train_sha256="train",
        test_sha256="test",
        files={"train_tensor.npy": "tensor"},
        image_size=150,
        train_duplicates=np.arange(PATCHES),
        phantom=True,
    )
    made = Planner(data, Described(), Cache(cache))

    def find_base_models(experiment, folds):
        """The models that the setting names, with its folds."""
        named = (experiment.model.features_from, experiment.model.condition_from)
        found = []
        for name in (name for name in named if name):
            task, family, backbone = name.split("-")[1:4]
            values = preset_values("quick", backbone, task, family) | SAME
            values |= {"seed": experiment.cv.seed, "unfrozen_layers": int(name.endswith("-tuned"))}
            plan = made.plans([build(task, values, family)])[0]
            tails = dict.fromkeys(f.name for f in plan.fits)
            version = SimpleNamespace(name=name)
            found.append(BaseModel(field="", version=version, plan=plan, tails=tails, out_of_fold=folds))
        condition = found[1] if len(found) > 1 else None
        return BaseModels(found[0], condition, experiment.model.condition == "class")

    made.find_base_models = find_base_models
    return made


def experiments():
    """By name: every row of the presets, and the variants."""
    found = {}
    for preset, table in PRESETS.items():
        for family, backbone, task in table:
            values = preset_values(preset, backbone, task, family) | SAME
            found[f"{preset} {task} {family} {backbone}"] = build(task, values, family)
    for family, backbone, changes in VARIANTS:
        values = preset_values("paper", backbone, "benign_malignant", family) | SAME | dict(changes)
        name = " ".join([family, backbone, *(f"{key}={value}" for key, value in changes)])
        found[name] = build("benign_malignant", values, family)
    return found


def keys_of(plan):
    """Those of a plan, of each of its fits, of its cache entries, and of its registered model."""
    return {
        "plan": plan.key,
        "final": plan.final_key(plan.experiment.registered_name),
        "fits": {fit.name: fit.key for fit in plan.fits},
        "activations": [entry.key for entry in plan.activations()],
    }


def studies(made):
    """By name: the study's key for each network and task that can be searched, in the spaces that are shipped."""
    found = {}
    for family in ("pretrained", "scratch", "siamese"):
        for spec in study_specs(COMMANDS["search"].options(family=family, task="all", **SAME)):
            paper = made.plans([build(spec.task, spec.paper, family)])[0]
            found[f"{spec.task} {family} {spec.base['backbone']}"] = spec.key(paper)
    return found


def ensembles():
    """By name: the key of an ensemble of two members."""
    asked = {
        "pretrained average": ("average", EnsembleSettings(method="average")),
        "a,b svm": ("svm", EnsembleSettings(members="a,b", method="svm", threshold="youden", folds=3, seed=7)),
    }
    return {
        name: ensemble_key(["a", "b"], method, EnsembleSpec(**settings.model_dump()), "test")
        for name, (method, settings) in asked.items()
    }


def all_keys():
    """All of them, as what keys.json holds."""
    with tempfile.TemporaryDirectory() as folder:
        home = {"KERAS_BACKEND": "tensorflow", "KERAS_HOME": folder, "MAMMO_OFFLINE": "1"}
        with patch.dict(os.environ, home):
            os.environ.pop("MAMMO_WEIGHTS_DIR", None)
            made = planner(Path(folder))
            known = experiments()
            plans = {name: made.plans([one])[0] for name, one in known.items()}
            return {
                "experiments": {name: keys_of(plan) for name, plan in plans.items()},
                "studies": studies(made),
                "ensembles": ensembles(),
            }


if __name__ == "__main__":
    RELEASED.write_text(json.dumps(all_keys(), indent=1, sort_keys=True) + "\n")
