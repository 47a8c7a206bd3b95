"""Read the inputs of a network, in a worker process: patches, stored activations and numbers, by input name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

import keras
import ml_dtypes
import numpy as np

from mammo_mlflow.data.augmentation import draw_transforms
from mammo_mlflow.jobs.contracts import Emit, FitJob, ModelJob, StepsDone

ModelInput = np.ndarray | dict[str, np.ndarray]
"""The input of a network: an array (m, ...), or a dictionary of arrays by input name."""
Read = TypeVar("Read", bound=ModelInput, covariant=True)


class Reader(Protocol[Read]):
    """Reads the inputs of given rows (m,) in given views (m,), or (m, 2) where the baseline has views of its own.

    View 0 is the plain patch, views from 1 on are augmented.
    """

    def __call__(self, rows: np.ndarray, views: np.ndarray) -> Read:
        """The inputs (m, ...) of these rows in these views."""
        ...

    def in_memory(self, limit: int) -> Read | None:
        """All rows and views, float32 (n, views + 1, ...); None where they are not stored or exceed `limit` bytes."""
        return None


OWN_VIEWS_OFFSET = 2**32
"""Added to the view numbers of baselines that are augmented independently on line, for transforms of their own."""


class StoredActivations(Reader[np.ndarray]):
    """Reads stored activations from a mapped file: float32 (m, ...) for rows (m,) and a view of each.

    `shape` is that of activations; by default the one that they are stored in. With `places`, int (n,), row i is read
    at place `places[i]`.
    """

    def __init__(self, path: Path, shape: tuple[int, ...] | None = None, places: np.ndarray | None = None) -> None:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
        self.places = places
        self.path, self.stored = path, stored if shape is None else stored.reshape(*stored.shape[:2], *shape)

    def in_memory(self, limit: int) -> np.ndarray | None:
        """All activations, float32 (n, views + 1, ...), or None where they take more than `limit` bytes."""
        if 4 * self.stored.size > limit:
            return None
        return self(np.arange(len(self.stored)))

    def __call__(self, rows: np.ndarray, views: np.ndarray | slice = slice(None)) -> np.ndarray:
        """The activations of rows (m,): float32 (m, ...) in `views` (m,); by default all views, (m, views + 1, ...)."""
        picked = self.stored[rows if self.places is None else self.places[rows], views]
        return picked.view(ml_dtypes.bfloat16).astype(np.float32) if picked.dtype == np.uint16 else picked


class PatchReader(Reader[np.ndarray]):
    """Reads and augments patches, for on-line training: every second row of a tensor file, from row `first` on.

    All views of a call have to be equal, as they are in an epoch of on-line training. `places` are as in
    `StoredActivations`: a patch has the transforms of its place.
    """

    def __init__(
        self,
        tensor: Path,
        first: int,
        policy: str,
        seed: int = 0,
        own_views: bool = False,
        places: np.ndarray | None = None,
    ) -> None:
        self.path, self.first, self.policy, self.places = tensor, first, policy, places
        self.patches = np.load(tensor, mmap_mode="r")[first::2]
        self._seed, self._shift = seed, OWN_VIEWS_OFFSET if own_views else 0

    def __call__(self, rows: np.ndarray, views: np.ndarray) -> np.ndarray:
        """The patches of rows (m,): float32 (m, size, size, 1)."""
        plain = np.asarray(self.patches[self._placed(rows)], np.float32)
        view = int(views[0]) if len(views) else 0
        if view == 0 or self.policy == "none":
            return plain[..., None]
        return augment(plain, self.transforms(rows, view))

    def transforms(self, rows: np.ndarray, view: int) -> np.ndarray:
        """The transforms of augmented view `view` of rows (m,): float32 (m, 8), as of `draw_transforms`."""
        return draw_transforms(self.policy, self._placed(rows), view + self._shift, self.patches.shape[1], self._seed)

    def _placed(self, rows: np.ndarray) -> np.ndarray:
        return rows if self.places is None else self.places[rows]


class NumberReader(Reader[np.ndarray]):
    """Reads one number for each row, the same in every view, from `values` (n,)."""

    def __init__(self, values: np.ndarray, views: int) -> None:
        self.values, self._views = np.asarray(values, np.float32)[:, None], views

    def in_memory(self, limit: int) -> np.ndarray | None:
        """The numbers repeated for each view, float32 (n, views + 1, 1); None where they exceed `limit` bytes."""
        size = 4 * len(self.values) * (self._views + 1)
        return None if size > limit else np.repeat(self.values[:, None], self._views + 1, axis=1)

    def __call__(self, rows: np.ndarray, views: np.ndarray) -> np.ndarray:
        """The numbers of rows (m,): float32 (m, 1)."""
        return self.values[rows]


class CombinedReader(Reader[dict[str, np.ndarray]]):
    """Combines a reader for each input; with views (m, 2), the i-th reader takes the i-th column."""

    def __init__(self, readers: Mapping[str, Reader[np.ndarray]]) -> None:
        self.readers = dict(readers)

    def in_memory(self, limit: int) -> dict[str, np.ndarray] | None:
        """All rows and views by input; None where a reader has none, or together they exceed `limit` bytes."""
        found = {}
        for name, reader in self.readers.items():
            held = reader.in_memory(limit)
            if held is None:
                return None
            limit -= held.nbytes
            found[name] = held
        return found

    def __call__(self, rows: np.ndarray, views: np.ndarray) -> dict[str, np.ndarray]:
        """The inputs (m, ...) of these rows, by name."""
        return {
            name: reader(rows, views if views.ndim == 1 else views[:, number])
            for number, (name, reader) in enumerate(self.readers.items())
        }


def combine_readers(readers: Mapping[str, Reader[np.ndarray]]) -> Reader[ModelInput]:
    """Make one reader of a model's readers by input; a single one is returned as it is (it gives an array)."""
    return next(iter(readers.values())) if len(readers) == 1 else CombinedReader(readers)


def stored_reader(job: FitJob, files: Mapping[str, Path], views: int) -> Reader[ModelInput]:
    """Make the reader of activations stored in so many views, by input, and of the job's constants."""
    readers: dict[str, Reader[np.ndarray]] = {
        name: StoredActivations(path, places=job.places.get(name)) for name, path in files.items()
    }
    return combine_readers(readers | {name: NumberReader(values, views) for name, values in job.constants.items()})


def augment(patches: np.ndarray, transforms: np.ndarray) -> np.ndarray:
    """Warp patches (n, size, size) by transforms (n, 8): float32 (n, size, size, 1), edge pixels repeated outwards."""
    images = np.asarray(patches, np.float32)[..., None]
    warped = keras.ops.image.affine_transform(images, transforms, interpolation="bilinear", fill_mode="nearest")
    return keras.ops.convert_to_numpy(warped)


def all_views(reader: Reader[ModelInput], rows: np.ndarray, views: int) -> ModelInput:
    """The inputs (m x (views + 1), ...) of rows (m,), plain and in `views` views, those of a row after one another."""
    each = [reader(rows, np.full(len(rows), view)) for view in range(views + 1)]
    return keras.tree.map_structure(lambda *one: np.stack(one, axis=1).reshape(-1, *one[0].shape[1:]), *each)


def read_batches(job: ModelJob[object], size: int, emit: Emit) -> Iterator[dict[str, np.ndarray]]:
    """Read the inputs of all abnormalities of a job's tensor file, `size` at a time, by name; emits `StepsDone`."""
    tensor = np.load(job.tensor, mmap_mode="r", allow_pickle=False)
    total = len(tensor) // 2
    for start in range(0, total, size):
        rows = slice(start, min(start + size, total))
        images = {
            name: np.asarray(tensor[first::2][job.places[name][rows] if name in job.places else rows])[..., None]
            for name, first in job.sides.items()
        }
        yield images | {name: values[rows, None] for name, values in job.constants.items()}
        emit(StepsDone(rows.stop, total))
