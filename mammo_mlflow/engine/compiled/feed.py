"""The inputs of fits on the card: arrays that stay there, and how a program picks a batch from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import jax.numpy as jnp
import keras
import ml_dtypes
import numpy as np

from mammo_mlflow.engine.compiled.resident import RESIDENT
from mammo_mlflow.engine.inputs import CombinedReader, ModelInput, NumberReader, PatchReader, Reader, StoredActivations
from mammo_mlflow.models.tensors import Tensor, as_model_input

ALONE = "input"
"""The name that the only input of a network goes by here."""


IDENTITY = np.array([1, 0, 0, 0, 1, 0, 0, 0], np.float32)
"""The transform that leaves a patch, of whole coordinates, as it is."""


class Selection(NamedTuple):
    """What a program picks its inputs by: rows (…,), and for each input what tells the view of each row.

    That is the number of a stored view (…,), a transform (…, 8) of a patch, or nothing.
    """

    rows: Tensor
    views: dict[str, Tensor]


Pick = Callable[[Mapping[str, Tensor], Tensor, Selection], ModelInput]


class Feed:
    """Inputs of fits that share programs: `data` are arrays of the card by input, (sources, n, …).

    Members with the same files read the same source; `sources`, int32 (fits,), says which.
    """

    def __init__(self, readers: Sequence[Reader[ModelInput]]) -> None:
        self._members = [{name: _input(one) for name, one in by_name(reader).items()} for reader in readers]
        identities = [tuple(one.identity for one in inputs.values()) for inputs in self._members]
        distinct = list(dict.fromkeys(identities))
        self.sources = np.array([distinct.index(identity) for identity in identities], np.int32)
        first = [self._members[identities.index(identity)] for identity in distinct]
        self.data = {name: _stack([inputs[name].load() for inputs in first]) for name in self._members[0]}

    def draw(self, fit: int, rows: np.ndarray, views: np.ndarray | None) -> Selection:
        """What picks the inputs of a fit's rows, int (steps, m), in these views; None: in the plain view."""
        drawn: dict[str, np.ndarray] = {}
        for number, (name, one) in enumerate(self._members[fit].items()):
            found = one.views(rows, views if views is None or views.ndim == rows.ndim else views[..., number])
            drawn |= {} if found is None else {name: found}
        return Selection(rows.astype(np.int32), drawn)


def picker(reader: Reader[ModelInput]) -> Pick:
    """A function that picks the inputs (m, …) of a network for one step; it is called while a program is compiled.

    It holds no array, so that a program can be kept longer than what it is fed.
    """
    kinds = {name: type(_input(one)) for name, one in by_name(reader).items()}

    def pick(data: Mapping[str, Tensor], source: Tensor, drawn: Selection) -> ModelInput:
        return as_model_input(
            {name: kind.pick(data[name], source, drawn.rows, drawn.views.get(name)) for name, kind in kinds.items()}
        )

    return pick


class _Input(Protocol):
    """An input of a fit: what tells its values from another's, how they lie on the card, and how one picks them."""

    nbytes: int

    @property
    def identity(self) -> object: ...

    def load(self) -> Tensor: ...

    def views(self, rows: np.ndarray, views: np.ndarray | None) -> np.ndarray | None: ...

    @staticmethod
    def pick(data: Tensor, source: Tensor, rows: Tensor, views: Tensor | None) -> Tensor: ...


class _Stored:
    """Stored activations, (n, views + 1, …), in the dtype that they are stored in."""

    def __init__(self, reader: StoredActivations) -> None:
        self._reader = reader
        self.identity, self.nbytes = (reader.path, _told(reader.places)), reader.stored.nbytes

    def load(self) -> Tensor:
        stored = self._reader.stored
        found = RESIDENT.get(
            self._reader.path, lambda: stored.view(ml_dtypes.bfloat16) if stored.dtype == np.uint16 else stored
        )
        return _placed(found.reshape(stored.shape), self._reader.places)

    def views(self, rows: np.ndarray, views: np.ndarray | None) -> np.ndarray:
        return np.zeros(rows.shape, np.int32) if views is None else views.astype(np.int32)

    @staticmethod
    def pick(data: Tensor, source: Tensor, rows: Tensor, views: Tensor | None) -> Tensor:
        return data[source, rows, views].astype(jnp.float32)


class _Patches:
    """Raw patches, uint16 (n, size, size), warped within the program by the very transforms of `data.augmentation`."""

    def __init__(self, reader: PatchReader) -> None:
        self._reader = reader
        self.identity = reader.path, reader.first, _told(reader.places)
        self.nbytes = reader.patches.nbytes

    def load(self) -> Tensor:
        reader = self._reader
        found = RESIDENT.get(reader.path, lambda: np.ascontiguousarray(reader.patches), reader.first)
        return _placed(found, reader.places)

    def views(self, rows: np.ndarray, views: np.ndarray | None) -> np.ndarray | None:
        if views is None or self._reader.policy == "none":
            return None
        found = np.broadcast_to(IDENTITY, (*rows.shape, 8)).copy()
        for view in np.unique(views[views > 0]):
            found[views == view] = self._reader.transforms(rows[views == view], int(view))
        return found

    @staticmethod
    def pick(data: Tensor, source: Tensor, rows: Tensor, views: Tensor | None) -> Tensor:
        patches = data[source, rows].astype(jnp.float32)[..., None]
        return patches if views is None else warp(patches, views)


class _Numbers:
    """One number for each row, (n, 1), the same in every view."""

    def __init__(self, reader: NumberReader) -> None:
        self._reader = reader
        self.identity, self.nbytes = reader.values.tobytes(), reader.values.nbytes

    def load(self) -> Tensor:
        return jnp.asarray(self._reader.values)

    def views(self, rows: np.ndarray, views: np.ndarray | None) -> None:
        return None

    @staticmethod
    def pick(data: Tensor, source: Tensor, rows: Tensor, views: Tensor | None) -> Tensor:
        return data[source, rows]


def _input(reader: Reader[np.ndarray]) -> _Input:
    """The input that a reader gives."""
    if isinstance(reader, StoredActivations):
        return _Stored(reader)
    if isinstance(reader, PatchReader):
        return _Patches(reader)
    if isinstance(reader, NumberReader):
        return _Numbers(reader)
    raise TypeError(f"no way onto the card for what {type(reader).__name__} reads")


def warp(patches: Tensor, transforms: Tensor) -> Tensor:
    """Warp patches (m, size, size, 1) by transforms (m, 8) within a program, as `inputs.augment` does outside."""
    return keras.ops.image.affine_transform(patches, transforms, interpolation="bilinear", fill_mode="nearest")


def is_stored(reader: Reader[ModelInput]) -> bool:
    """Whether all inputs of a reader are stored, so that nothing is computed of patches."""
    return not any(isinstance(one, PatchReader) for one in by_name(reader).values())


def data_bytes(readers: Sequence[Reader[ModelInput]]) -> int:
    """The bytes that the inputs of these readers take on the card, those of one file once."""
    inputs = [(name, _input(one)) for reader in readers for name, one in by_name(reader).items()]
    return sum({(name, one.identity): one.nbytes for name, one in inputs}.values())


def by_name(reader: Reader[ModelInput]) -> Mapping[str, Reader[np.ndarray]]:
    """The readers of a network's inputs, by name."""
    return reader.readers if isinstance(reader, CombinedReader) else {ALONE: reader}  # type: ignore[dict-item]


def _told(places: np.ndarray | None) -> bytes:
    """What tells a reader's places from another's."""
    return b"" if places is None else places.tobytes()


def _placed(array: Tensor, places: np.ndarray | None) -> Tensor:
    """An array (n, …) of the card in the order of its places: a copy of its own, so that programs pick by row alone."""
    return array if places is None else array[jnp.asarray(places, jnp.int32)]


def _stack(arrays: Sequence[Tensor]) -> Tensor:
    """The arrays with a leading axis of sources; a single one is not copied."""
    return arrays[0][None] if len(arrays) == 1 else jnp.stack(arrays)
