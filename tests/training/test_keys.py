"""The keys by which finished work is found again, pinned: whoever changes one sees it here."""

from types import SimpleNamespace

import numpy as np
import pytest

from mammo_mlflow import experiment as experiments
from mammo_mlflow.ensembles import methods
from mammo_mlflow.experiment import build
from mammo_mlflow.jobs.contracts import Cut, Description
from mammo_mlflow.models import weights
from mammo_mlflow.models.weights import NO_WEIGHTS, Weights
from mammo_mlflow.planning import plan as plans
from mammo_mlflow.planning.planner import _plan

PATCHES = 48
IMAGENET = Weights("file", "imagenet", "w" * 64, "here")
FROZEN = Description(Cut(9, (512,), "float32"), None, (512,), 1000)
TUNED = Description(Cut(9, (512,), "float32"), Cut(5, (4, 4, 64), "bfloat16"), (512,), 1000)

PINNED = {
    ("pretrained", ()): (
        "7172c9675b36a09d943da65ce10d2e25a95f367cf1b2086d868cc555d69fe3fe",
        "3520f26ef0468d1cefc4593cecf413c0460cb9d4d43897bbe3329f18675e913f",
        "78918df3cfa3d87286b70f771764b0d2a148dafc9f9687e5eb1ceb39445b9828",
    ),
    ("pretrained", (("backbone", "resnet50"), ("unfrozen_layers", 1), ("precision", "bfloat16"))): (
        "79867885daab27c27dc365aed7e2d8161d6beb895ba2e3c3521b9bc5593986b0",
        "c259467586cf394ac574abba684fdd9d886e14dacd70ff48a6244b4c6d91baa7",
        "6af7572a0fe77e1044ac7b6822ba9ef56a9caab75fc46aa5f97e13a9aed61dbd",
        "9619921930ce33f24e46a2774dd763ecca19a93d859d72efc831adb1b129234b",
    ),
    ("pretrained", (("early_stop", 3), ("optimizer", "sgd"), ("control", "shuffled"))): (
        "a1a3704b52f584344753f214efc050028a4ca55a771a06ac593e65f7d1498e11",
        "990f8159c7ee685fd3df3b6ea37963ff8f33adf8d74f461e3eae623c8c9b3951",
        "78918df3cfa3d87286b70f771764b0d2a148dafc9f9687e5eb1ceb39445b9828",
    ),
    ("scratch", (("backbone", "m1_balanced"),)): (
        "b21da6b26b08bab667913d0d204f260c30d81db37d513d20fe26e9982a9928ed",
        "5bc2eebb5b35625e75f953d03139de9cc459915974b26ce44d9de05ddafb0039",
    ),
    ("scratch", (("backbone", "m1"), ("holdout", 0.3))): (
        "850073a29f253f1cf9017fae3c35a771da075d9f8c454aea0badf96a29d74675",
        "3bb467533334688b67ca9d5ecf686b178c2786b2eede6d66493cb251de92384e",
    ),
    ("siamese", (("backbone", "scratch"),)): (
        "48344df2a66afe4149a3dea1af6beffdf67eb537aa4aa1771463bc46e6e3ccf7",
        "7c7b73a9950ccbc4f66becc13f824254a46f045c0ad7649e29240e4f5c70268e",
    ),
    ("siamese", (("backbone", "vgg16"), ("unfrozen_layers", 1))): (
        "e980b068c29efca928059904a188d907a326c0a2fba2e81c83e8f34f826eaa82",
        "ce40ee529eeac4d5f25f406b1605c61cba11cc2db7623d121cc75880a7c2e7bf",
        "e67ddc3328fa9aac70586d1c5755bef2e9f3dc657167d72c399989275687ea66",
        "50fbc977d48a756d65d695efe1c4cc45152c6f7cf2e45cf04767e77490ab0679",
        "0f37f335793f1a3a38a0fe443d8d76b94abf25b51f759dc56f43e30dd6f52c71",
        "78918df3cfa3d87286b70f771764b0d2a148dafc9f9687e5eb1ceb39445b9828",
    ),
    ("conditioned", (("backbone", "b"),)): (
        "dc205314dd285387a7708dc4ffb3bcd66b5acb8b745df81b15d5817b32590b6d",
        "048b6d683d99d4081d8afa111a0908896ae20edc33d2c01bfd642cee3ba87be8",
    ),
    ("texture", (("backbone", "laws"),)): (
        "4a52ffaed118e72176cde8a500a8b8d2f245f7924b3b7d2fd06f16372db51835",
        "e354f81bb09a61cbf5d9d4065ace00b69792c89e2988605c5f14150d3267e32c",
        "aa5c4b4af14e598db07c36f29ba78c2493b77294263057a21b3badad25395337",
    ),
}
"""Family, values → the keys of fold 1, of the plan, and of its cache entries."""


@pytest.fixture(autouse=True)
def _tensorflow(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")


def planned(family="pretrained", values=(), task="benign_malignant"):
    """A plan on a data set of which nothing but its hashes counts."""
    train = SimpleNamespace(
        types=np.tile([1, 2, 3, 4], PATCHES // 4), patient_ids=np.array([f"p{i // 2}" for i in range(PATCHES)])
    )
    data = SimpleNamespace(
        train=train,
        train_sha256="train",
        test_sha256="test",
        files={"train_tensor.npy": "tensor"},
        image_size=32,
        train_duplicates=np.arange(PATCHES),
    )
    made = build(task, dict(values), family)
    source = IMAGENET if family in ("pretrained", "siamese") and not made.trained_whole else NO_WEIGHTS
    return _plan(made, data, source, np.arange(PATCHES) // 2 % 4, TUNED if made.model.unfrozen_layers else FROZEN)


def keys(found):
    entries = () if found.experiment.family == "conditioned" else found.activations()
    return (found.fits[0].key, found.key, *(entry.key for entry in entries))


@pytest.mark.parametrize(("family", "values"), PINNED)
def test_keys_are_those_of_earlier_stores(family, values):
    """Another key trains the folds of every user again: see docs/extending.md for the version that is meant."""
    assert keys(planned(family, values)) == PINNED[family, values]


def test_each_version_is_that_of_what_it_changes(monkeypatch):
    before = keys(planned())

    def moved():
        return tuple(one != other for one, other in zip(before, keys(planned()), strict=True))

    for module, name in ((weights, "RANDOM_WEIGHTS_VERSION"), (methods, "ENSEMBLE_VERSION")):
        monkeypatch.setattr(module, name, 99)
    assert moved() == (False, False, False)
    monkeypatch.setattr(plans, "ACTIVATIONS_VERSION", 99)
    assert moved() == (False, False, True)
    monkeypatch.undo()
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    monkeypatch.setattr(experiments, "RESULTS_VERSION", 99)
    assert moved() == (True, True, False)
