"""What a network is fed, in the child: patches, stored activations and numbers, by the names of its inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

import keras
import ml_dtypes
import numpy as np

from mammo_mlflow.data.augmentation import draw_transforms
from mammo_mlflow.jobs.contracts import Emit, ModelJob, StepsDone

Fed = np.ndarray | dict[str, np.ndarray]
"""What a network is fed: an array (m, ...), or several by the names of its inputs."""
Read = TypeVar("Read", bound=Fed, covariant=True)


class Reader(Protocol[Read]):
    """Reads inputs for rows (m,) and views (m,), or (m, 2) where a baseline has views of its own.

    View 0 is the plain patch, 1 and up are augmented.
    """

    def __call__(self, rows: np.ndarray, views: np.ndarray) -> Read:
        """The inputs of these rows."""
        ...

    def in_memory(self, limit: int) -> Read | None:
        """All rows and views (n, views + 1, ...) as float32; None where they are not stored or exceed `limit` bytes."""
        return None


OWN_VIEWS = 2**32
"""Added to a view's number: the transforms of baselines that are augmented independently, on line."""


class StoredActivations(Reader[np.ndarray]):
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


class Patches(Reader[np.ndarray]):
    """The patches in every second row of a tensor file, the first in row `first`, augmented as they are read.

    A call's views are all the same, as in an epoch of on-line training: one number is one transform of each pair.
    """

    def __init__(self, tensor: Path, first: int, policy: str, seed: int, own_views: bool = False) -> None:
        self._patches = np.load(tensor, mmap_mode="r")[first::2]
        self._policy, self._seed, self._shift = policy, seed, OWN_VIEWS if own_views else 0

    def __call__(self, rows: np.ndarray, views: np.ndarray) -> np.ndarray:
        """Patches (m, size, size, 1) float32."""
        plain = np.asarray(self._patches[rows], np.float32)
        view = int(views[0]) if len(views) else 0
        if view == 0 or self._policy == "none":
            return plain[..., None]
        return augment(plain, draw_transforms(self._policy, rows, view + self._shift, plain.shape[1], self._seed))


class Constant(Reader[np.ndarray]):
    """A number for each row (n,), the same in every view."""

    def __init__(self, values: np.ndarray, views: int) -> None:
        self._values, self._views = np.asarray(values, np.float32)[:, None], views

    def in_memory(self, limit: int) -> np.ndarray | None:
        """(n, views + 1, 1); None where it takes more than `limit` bytes."""
        size = 4 * len(self._values) * (self._views + 1)
        return None if size > limit else np.repeat(self._values[:, None], self._views + 1, axis=1)

    def __call__(self, rows: np.ndarray, views: np.ndarray) -> np.ndarray:
        """The numbers (m, 1)."""
        return self._values[rows]


class Inputs(Reader[dict[str, np.ndarray]]):
    """Several readers as one: a dictionary by input, the i-th of which takes the i-th column of (m, 2) views."""

    def __init__(self, readers: Mapping[str, Reader[np.ndarray]]) -> None:
        self._readers = dict(readers)

    def in_memory(self, limit: int) -> dict[str, np.ndarray] | None:
        """What every reader has in memory; None where one has not, or all of it takes more than `limit` bytes."""
        found = {}
        for name, reader in self._readers.items():
            held = reader.in_memory(limit)
            if held is None:
                return None
            limit -= held.nbytes
            found[name] = held
        return found

    def __call__(self, rows: np.ndarray, views: np.ndarray) -> dict[str, np.ndarray]:
        """The inputs of these rows."""
        return {
            name: reader(rows, views if views.ndim == 1 else views[:, number])
            for number, (name, reader) in enumerate(self._readers.items())
        }


def one_or_all(readers: Mapping[str, Reader[np.ndarray]]) -> Reader[Fed]:
    """A lone reader as it is: a model of one input takes an array."""
    return next(iter(readers.values())) if len(readers) == 1 else Inputs(readers)


def augment(patches: np.ndarray, transforms: np.ndarray) -> np.ndarray:
    """Warp patches (n, size, size) by (n, 8) transforms, edge pixels repeated as `ImageDataGenerator` does."""
    images = np.asarray(patches, np.float32)[..., None]
    warped = keras.ops.image.affine_transform(images, transforms, interpolation="bilinear", fill_mode="nearest")
    return keras.ops.convert_to_numpy(warped)


def all_views(patches: np.ndarray, rows: np.ndarray, views: int, policy: str) -> np.ndarray:
    """The plain patch and its augmented views, patch by patch: (rows x (views + 1), size, size, 1) float32."""
    plain = np.asarray(patches[rows], np.float32)[..., None]
    drawn: list[np.ndarray] = [plain]
    for view in range(1, views + 1):
        transforms = draw_transforms(policy, rows, view, plain.shape[1])
        drawn.append(plain if policy == "none" else augment(plain[..., 0], transforms))
    return np.stack(drawn, axis=1).reshape(-1, *plain.shape[1:])


def blocks(job: ModelJob[object], size: int, emit: Emit) -> Iterator[dict[str, np.ndarray]]:
    """Every abnormality of the job's tensor file, so many at once, by input; emits `progress` events."""
    tensor = np.load(job.tensor, mmap_mode="r", allow_pickle=False)
    total = len(tensor) // 2
    for start in range(0, total, size):
        rows = slice(start, min(start + size, total))
        images = {name: np.asarray(tensor[first::2][rows])[..., None] for name, first in job.sides.items()}
        yield images | {name: values[rows, None] for name, values in job.constants.items()}
        emit(StepsDone(rows.stop, total))
