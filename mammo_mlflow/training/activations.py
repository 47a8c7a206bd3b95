"""Prefix activations, in the child: many augmented views of each patch through the frozen layers, once.

The file holds an array (n, views + 1, ...): index 0 is the plain patch (validation, test), 1 to `views` the augmented
ones. bfloat16 values are stored as the uint16 of their bits.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import keras
import ml_dtypes
import numpy as np

from mammo_mlflow.data.augmentation import draw_transforms
from mammo_mlflow.models.network import build_base, calibrate_random, deepest_cut, load_weights, prefix
from mammo_mlflow.training.backend import set_threads
from mammo_mlflow.training.jobs import ActivationJob, CalibrateJob, Cut, DescribeJob, Description, Emit, Network

BATCH = 32
PROBE_PATCHES = 32


def describe(job: DescribeJob, emit: Emit) -> Description:
    """Where the network is cut; with `probe`, its speed on this machine."""
    set_threads(job.threads)
    base = _base(job.network)
    tuned = deepest_cut(base, job.network.model.unfrozen_layers) if job.network.model.unfrozen_layers else None
    speed = float("nan")
    if job.probe:
        patches = np.zeros((PROBE_PATCHES, job.network.image_size, job.network.image_size, 1), np.float32)
        base.predict_on_batch(patches)
        start = time.perf_counter()
        base.predict_on_batch(patches)
        speed = PROBE_PATCHES / (time.perf_counter() - start)
    return Description(_cut(base, len(base.layers) - 1), None if tuned is None else _cut(base, tuned), speed)


def calibrate(job: CalibrateJob, emit: Emit) -> None:
    """Write calibrated random weights, in float32, as a Keras weights file."""
    set_threads(job.threads)
    base = build_base(job.network.model.backbone, job.network.image_size, "average", "float32")
    calibrate_random(base, job.patches.astype(np.float32)[..., None])
    partial = job.target.with_name(f"partial-{job.target.name}")
    try:
        base.save_weights(partial)
        partial.replace(job.target)
    finally:
        partial.unlink(missing_ok=True)


def compute(job: ActivationJob, emit: Emit) -> None:
    """Write the activations at `job.cut` to `job.target`; emits `progress` events (done, total patches).

    View v of a pair has one transform for good, whatever the seed of the experiment, so that all seeds share the file.
    """
    emit({"kind": "progress", "done": 0, "total": 1})
    set_threads(job.threads)
    base = _base(job.network)
    load_weights(base, job.weights)
    network = prefix(base, job.cut.index, job.start)
    patches = np.load(job.tensor, mmap_mode="r")[1::2]
    stored = None if job.source is None else StoredActivations(job.source)
    total, views = len(patches), job.views + 1
    block = max(1, BATCH // views)
    with job.target.open("wb") as file:
        header = {"descr": np.dtype(storage_dtype(job.cut)).str, "fortran_order": False}
        np.lib.format.write_array_header_1_0(file, header | {"shape": (total, views, *job.cut.shape)})
        for start in range(0, total, block):
            rows = np.arange(start, min(start + block, total))
            seen = (
                _all_views(patches, rows, job) if stored is None else stored(rows).reshape(-1, *network.input_shape[1:])
            )
            out = keras.ops.convert_to_numpy(
                keras.ops.cast(network.predict_on_batch(_padded(seen, block * views)), "float32")
            )
            file.write(_to_storage(out[: len(seen)], job.cut).tobytes())
            emit({"kind": "progress", "done": int(rows[-1]) + 1, "total": total})


class StoredActivations:
    """An activation file, mapped: call it with rows (m,), and a view of each, to get float32 arrays (m, ...)."""

    def __init__(self, path: Path) -> None:
        self._array = np.load(path, mmap_mode="r", allow_pickle=False)
        self.shape = self._array.shape[2:]

    def in_memory(self, limit: int) -> np.ndarray | None:
        """All activations (n, views + 1, ...) as float32, or None where they take more than `limit` bytes."""
        if 4 * self._array.size > limit:
            return None
        return self(np.arange(len(self._array)))

    def __call__(self, rows: np.ndarray, views: np.ndarray | slice = slice(None)) -> np.ndarray:
        """The activations of these rows; all their views, plain one first, unless `views` picks one of each."""
        picked = self._array[rows, views]
        return picked.view(ml_dtypes.bfloat16).astype(np.float32) if picked.dtype == np.uint16 else picked


def augment(patches: np.ndarray, transforms: np.ndarray) -> np.ndarray:
    """Warp patches (n, size, size) by (n, 8) transforms, edge pixels repeated as `ImageDataGenerator` does."""
    images = np.asarray(patches, np.float32)[..., None]
    warped = keras.ops.image.affine_transform(images, transforms, interpolation="bilinear", fill_mode="nearest")
    return keras.ops.convert_to_numpy(warped)


def storage_dtype(cut: Cut) -> type:
    """What activations are stored as."""
    return np.uint16 if cut.dtype == "bfloat16" else np.float32


def _all_views(patches: np.ndarray, rows: np.ndarray, job: ActivationJob) -> np.ndarray:
    """The plain patch and its augmented views, patch by patch: (rows x (views + 1), size, size, 1) float32."""
    plain = np.asarray(patches[rows], np.float32)[..., None]
    drawn: list[np.ndarray] = [plain]
    for view in range(1, job.views + 1):
        transforms = draw_transforms(job.augmentation, rows, view, job.network.image_size)
        drawn.append(plain if job.augmentation == "none" else augment(plain[..., 0], transforms))
    return np.stack(drawn, axis=1).reshape(-1, *plain.shape[1:])


def _padded(batch: np.ndarray, size: int) -> np.ndarray:
    """The same batch shape at every call, so that the graph is traced once."""
    return np.pad(batch, [(0, size - len(batch))] + [(0, 0)] * (batch.ndim - 1)) if len(batch) < size else batch


def _to_storage(values: np.ndarray, cut: Cut) -> np.ndarray:
    return values.astype(ml_dtypes.bfloat16).view(np.uint16) if cut.dtype == "bfloat16" else values


def _base(network: Network) -> keras.Model:
    return build_base(network.model.backbone, network.image_size, network.model.pooling, network.precision)


def _cut(base: keras.Model, index: int) -> Cut:
    tensor: Any = base.layers[index].output
    return Cut(index, tuple(int(size) for size in tensor.shape[1:]), str(tensor.dtype))
