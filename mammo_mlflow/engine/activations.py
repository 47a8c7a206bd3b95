"""Compute prefix activations, in a worker process: the outputs of the frozen layers for many views of each patch.

A file holds an array (n, views + 1, ...): index 0 is the plain patch (validation, test), 1 to `views` are augmented
views. float32, or bfloat16 stored as the uint16 of its bits.
"""

from __future__ import annotations

import time

import keras
import ml_dtypes
import numpy as np

from mammo_mlflow.engine.backend import set_threads
from mammo_mlflow.engine.contract import make_engine, notify
from mammo_mlflow.engine.inputs import ModelInput, PatchReader, Reader, StoredActivations, combine_readers
from mammo_mlflow.files import whole
from mammo_mlflow.jobs.contracts import ActivationJob, CalibrateJob, DescribeJob, Emit, FeatureJob, StepsDone, StoreJob
from mammo_mlflow.jobs.descriptions import Description, LayerCut, Network
from mammo_mlflow.models.encoders import build_encoder
from mammo_mlflow.models.network import (
    build_base,
    calibrate_random,
    cut_output,
    deepest_cut,
    load_weights,
    prefix,
    save_weights,
)
from mammo_mlflow.models.siamese import before_head, joined_shape
from mammo_mlflow.models.synthetic import calibration_patches
from mammo_mlflow.models.tensors import Tensor

PROBE_PATCHES = 32
"""The number of patches whose time is measured."""


def describe_network(job: DescribeJob, emit: Emit) -> Description:
    """Find a network's layer cuts and their shapes, and with `probe` measure its speed in patches a second."""
    set_threads(job.threads)
    network = job.network
    base = network_encoder(network)
    tuned = 0 if base.trainable_weights else None
    if network.model.unfrozen_layers:
        tuned = deepest_cut(base, network.model.unfrozen_layers)
    speed = float("nan")
    if job.probe:
        patches = np.zeros((PROBE_PATCHES, network.image_size, network.image_size, 1), np.float32)
        base.predict_on_batch(patches)
        start = time.perf_counter()
        base.predict_on_batch(patches)
        speed = PROBE_PATCHES / (time.perf_counter() - start)
    features = _layer_cut(base, len(base.operations) - 1)
    head = joined_shape(features.shape, network.sides, network.model.difference)
    return Description(
        features=features,
        tuned=None if tuned is None else _layer_cut(base, tuned),
        head=head,
        parameters=base.count_params(),
        patches_per_second=speed,
    )


def calibrate_weights(job: CalibrateJob, emit: Emit) -> None:
    """Draw and calibrate a backbone's random weights, and write them to `job.output`, a Keras weights file."""
    set_threads(job.threads)
    patches = calibration_patches()
    keras.utils.set_random_seed(0)  # for what `calibrate_random` does not draw: depthwise kernels, stochastic depth
    base = build_base(job.backbone, patches.shape[1], "average", "float32")
    calibrate_random(base, patches.astype(np.float32)[..., None])
    with whole(job.output, alone=True) as part:
        save_weights(base, part)


def compute_activations(job: ActivationJob, emit: Emit) -> None:
    """Write the activations at `job.cut` to `job.output`; emits `StepsDone` in patches.

    View v of a pair has the same transform for every seed of an experiment, so that all seeds share the file.
    """
    emit(StepsDone(0, 1))
    set_threads(job.threads)
    base = network_encoder(job.network)
    load_weights(base, job.weights)
    network = prefix(base, job.cut.index, job.start)
    if job.input_file is None:
        _write(job, network, PatchReader(job.tensor, job.first, job.augmentation), emit)
    else:
        _write(job, network, StoredActivations(job.input_file, network.input_shape[1:]), emit)


def compute_features(job: FeatureJob, emit: Emit) -> None:
    """Write the features that enter the head of a trained tail to `job.output`, as `compute_activations` does."""
    emit(StepsDone(0, 1))
    set_threads(job.threads)
    network = before_head(keras.saving.load_model(job.tail, compile=False))
    readers: dict[str, Reader[np.ndarray]] = {name: StoredActivations(path) for name, path in job.input_files.items()}
    if not readers:
        readers |= {name: PatchReader(job.tensor, first, job.augmentation) for name, first in job.sides.items()}
    _write(job, network, combine_readers(readers), emit)


def network_encoder(network: Network, batch_norm: type | None = None) -> keras.Model:
    """Build the encoder of a network, its weights not loaded; `batch_norm` as in `build_encoder`."""
    return build_encoder(network.family, network.model, network.image_size, network.precision, batch_norm)


def _write(job: StoreJob, network: keras.Model, reader: Reader[ModelInput], emit: Emit) -> None:
    """Write the outputs of `network` for all patches of a reader, each plain and in the job's views."""
    total, done = len(np.load(job.tensor, mmap_mode="r")) // 2, 0
    small, engine = job.cut.dtype == "bfloat16", make_engine(job.memory, lambda text: notify(emit, text))
    with job.output.open("wb") as file:
        header = {"descr": np.dtype(np.uint16 if small else np.float32).str, "fortran_order": False}
        np.lib.format.write_array_header_1_0(file, header | {"shape": (total, job.views + 1, *job.cut.shape)})
        for block in engine.outputs(network, reader, total, job.views):
            file.write((block.astype(ml_dtypes.bfloat16) if small else block).tobytes())
            done += len(block)
            emit(StepsDone(done, total))
    engine.written(job.output)


def _layer_cut(base: keras.Model, index: int) -> LayerCut:
    """The layer cut after layer `index`, with the shape and dtype of its output."""
    tensor: Tensor = cut_output(base, index)
    return LayerCut(index, tuple(int(size) for size in tensor.shape[1:]), str(tensor.dtype))
