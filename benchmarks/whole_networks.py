"""The usual ways to do a study's trials, timed on a few steps: whole networks with on-line augmentation.

Started by `search_cost.py`, which says what is compared: `python benchmarks/whole_networks.py JOB.json` prints JSON.
`plain` is `fit` as a user would write it; `keras_tuner` is KerasTuner's `RandomSearch`, its own loop, checkpoints and
oracle, each of its executions of a trial one fold. Pixels are random numbers: only time is measured.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import keras_tuner
import numpy as np
import tensorflow as tf

from mammo_mlflow.backbones import BACKBONES
from mammo_mlflow.engine.contract import OPTIMIZERS, class_weights
from mammo_mlflow.engine.hypermodels import HeadHyperModel
from mammo_mlflow.experiment import ModelSpec, TrainingSpec
from mammo_mlflow.jobs.contracts import DrawJob
from mammo_mlflow.jobs.descriptions import Network
from mammo_mlflow.models.network import convolutions, read_compact
from mammo_mlflow.search.spaces import find_space, read_space

WARM_UP = 2
"""Steps of a `fit` that are not timed: the first one traces the network."""
TUNER_EPOCHS, TUNER_STEPS, TUNER_VALIDATION = 2, 4, 2


class Clock(keras.callbacks.Callback):
    """The seconds of each step of training and of validation."""

    def __init__(self) -> None:
        super().__init__()
        self.train: list[float] = []
        self.validate: list[float] = []
        self._start = 0.0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Start."""
        self._start = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Stop."""
        self.train.append(time.perf_counter() - self._start)

    def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Start."""
        self._start = time.perf_counter()

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        """Stop."""
        self.validate.append(time.perf_counter() - self._start)


def build(job: dict[str, Any], setting: dict[str, Any], unfrozen: int) -> keras.Model:
    """The compiled network of a trial: the backbone, its last `unfrozen` convolutions trained, and the head."""
    keras.config.set_dtype_policy(job["policy"])  # Keras and KerasTuner clear the session, which takes it away
    application = getattr(keras.applications, BACKBONES[job["backbone"]].application)
    base = application(include_top=False, weights=None, input_shape=(job["size"], job["size"], 3))
    if job["weights"] and job["weights_kind"] == "int8":
        base.set_weights(read_compact(Path(job["weights"])))
    elif job["weights"]:
        base.load_weights(job["weights"])
    base.trainable = False
    for index in convolutions(base)[-unfrozen:] if unfrozen else []:
        base.layers[index].trainable = True
    x = keras.layers.GlobalAveragePooling2D(dtype="float32")(base.output)
    if setting["batch_norm"]:
        x = keras.layers.BatchNormalization(dtype="float32")(x)
    for width in str(setting["dense"]).split("-"):
        x = keras.layers.Dense(int(width), activation="relu")(x)
        if setting["dropout"]:
            x = keras.layers.Dropout(setting["dropout"])(x)
    model = keras.Model(base.input, keras.layers.Dense(1, activation="sigmoid", dtype="float32")(x))
    rate = setting["tuning_learning_rate"] if unfrozen else setting["learning_rate"]
    optimizer = OPTIMIZERS[setting["optimizer"]](rate, TrainingSpec(momentum=setting["momentum"]))
    model.compile(optimizer, "binary_crossentropy", metrics=["accuracy"])
    return model


def batches(job: dict[str, Any], count: int) -> tuple[tf.data.Dataset, tf.data.Dataset, np.ndarray]:
    """`count` batches, augmented by Keras's layers ahead of the network and plain, and their labels."""
    images = np.random.default_rng(0).random((count * job["batch"], job["size"], job["size"], 3), np.float32) * 255
    labels = np.arange(len(images)) % 2
    augment = keras.Sequential(
        [keras.layers.RandomFlip(dtype="float32"), keras.layers.RandomRotation(1.0, dtype="float32")]
    )
    plain = tf.data.Dataset.from_tensor_slices((images, labels)).batch(job["batch"])
    training = plain.map(lambda x, y: (augment(x, training=True), y), num_parallel_calls=tf.data.AUTOTUNE).prefetch(2)
    return training, plain, labels


def plain(job: dict[str, Any]) -> list[dict[str, float]]:
    """For each trial the median seconds of a step: `train`, `validate`, and `tuned` with convolutions unfrozen."""
    training, validation, labels = batches(job, job["steps"] + WARM_UP)
    found = []
    for setting in job["settings"]:
        seconds: dict[str, float] = {}
        for unfrozen in sorted({0, setting["unfrozen_layers"]}):
            keras.utils.clear_session()
            gc.collect()
            clock = Clock()
            model = build(job, setting, unfrozen)
            weights = class_weights(setting["class_weights"], labels)
            few = validation.take(max(2, job["steps"] // 2) + 1)
            model.fit(training, validation_data=few, class_weight=weights, callbacks=[clock], verbose=0)
            seconds["tuned" if unfrozen else "train"] = statistics.median(clock.train[WARM_UP:])
            seconds.setdefault("validate", statistics.median(clock.validate[1:]))
        found.append(seconds)
    return found


class WholeNetworks(keras_tuner.HyperModel):
    """The same networks over the product's own search space; the n-th execution of a trial is fold n."""

    def __init__(self, job: dict[str, Any]) -> None:
        super().__init__()
        self._job, self._fixed = job, job["settings"][0]
        fixed = {"unfrozen_layers": 0, "pooling": "average"}
        space = read_space(find_space("", "pretrained", job["backbone"]), "pretrained", job["backbone"])
        self._drawn = space.narrowed(fixed).parameters
        network = Network(
            family="pretrained",
            model=ModelSpec(backbone=job["backbone"]),
            image_size=job["size"],
            precision=job["policy"],
        )
        self._head = HeadHyperModel(DrawJob(name="head", architecture="head", network=network, head=(1,)))
        self.training, self.validation, self._labels = batches(job, TUNER_STEPS)
        self.train: list[float] = []
        self.validate: list[float] = []

    def _setting(self, hp: keras_tuner.HyperParameters) -> dict[str, Any]:
        drawn = {}
        for item in self._drawn:
            if item.low is None or item.high is None:
                drawn[item.name] = hp.Choice(item.name, list(item.choices or ()))
            else:
                sampling = "log" if item.log else "linear"
                drawn[item.name] = hp.Float(item.name, item.low, item.high, sampling=sampling)
        return self._fixed | drawn | self._head.values(hp)

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        """The compiled network of these hyperparameters."""
        return build(self._job, self._setting(hp), 0)

    def fit(self, hp: keras_tuner.HyperParameters, model: keras.Model, *args: Any, **kwargs: Any) -> Any:
        """KerasTuner's own `fit`, with a clock and the class weights that were drawn."""
        clock = Clock()
        callbacks = [*kwargs.pop("callbacks"), clock]
        weights = class_weights(hp.get("class_weights"), self._labels)
        history = model.fit(*args, callbacks=callbacks, class_weight=weights, **kwargs)
        self.train += clock.train[WARM_UP:]
        self.validate += clock.validate[1:]
        return history


class Search(keras_tuner.RandomSearch):
    """KerasTuner's random search; where the package tensorboard is not installed, without looking for its callbacks."""

    if importlib.util.find_spec("tensorboard") is None:

        def _configure_tensorboard_dir(self, callbacks: Any, trial: Any, execution: int = 0) -> None:
            """KerasTuner imports tensorboard here, whether or not a callback of it is given."""


def tuner(job: dict[str, Any]) -> dict[str, Any]:
    """The median seconds of a step in a small real search, and what else each of its trials takes.

    That is building and tracing the network in each fold, checkpoints and the oracle: all seconds of the search less
    those that its steps take at their median. Raises SystemExit where a trial did not complete.
    """
    networks = WholeNetworks(job)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        search = Search(
            networks,
            objective=keras_tuner.Objective("val_loss", "min"),
            max_trials=job["tuner_trials"],
            executions_per_trial=job["folds"],
            seed=0,
            directory=folder,
        )
        few = networks.validation.take(TUNER_VALIDATION)
        search.search(networks.training, validation_data=few, epochs=TUNER_EPOCHS, verbose=0)
        seconds = time.perf_counter() - start
        states = [trial.status for trial in search.oracle.trials.values()]
        reasons = [trial.message for trial in search.oracle.trials.values() if trial.message]
    if states != ["COMPLETED"] * job["tuner_trials"]:
        raise SystemExit(f"KerasTuner's trials: {states} {reasons[:1]}")
    step, check = statistics.median(networks.train), statistics.median(networks.validate)
    epochs = len(states) * job["folds"] * TUNER_EPOCHS
    counted = epochs * (TUNER_STEPS * step + TUNER_VALIDATION * check)
    return {
        "train": step,
        "validate": check,
        "seconds": seconds,
        "trial_overhead": (seconds - counted) / len(states),
        "tensorboard": importlib.util.find_spec("tensorboard") is not None,
    }


def main() -> None:
    """Do one job and print what it took."""
    job = json.loads(Path(sys.argv[1]).read_text())
    seconds = {"plain": plain, "keras_tuner": tuner}[job["way"]](job)
    print(json.dumps({"seconds": seconds, "tensorflow": tf.__version__, "keras": keras.__version__}))


if __name__ == "__main__":
    main()
