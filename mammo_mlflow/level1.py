"""A fitted level 1 as plain arrays: the members' probabilities in, the ensemble's out.

This module imports NumPy and the standard library alone: it is shipped inside a served ensemble. It reads files of
arrays, never of objects.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Arrays = dict[str, np.ndarray]

BLOCK_ROWS = 256
"""Rows compared with stored points at once."""


@dataclass(frozen=True, eq=False)
class Combiner:
    """`kind` is a name of `KINDS`, `arrays` what it needs; `note` what is to be said beside its figures.

    `map` is a name of `MAPS`, of the recalibrating map that its answers go through last, or "" for none.
    Raises ValueError for another kind or map, arrays that are missing, too many or not finite numbers.
    """

    kind: str
    arrays: Arrays
    note: str = ""
    map: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"level 1: expected a kind of {', '.join(KINDS)}, found '{self.kind}'")
        if self.map and self.map not in MAPS:
            raise ValueError(f"level 1: expected a map of {', '.join(MAPS)}, found '{self.map}'")
        names = KINDS[self.kind][1] + (MAPS[self.map][1] if self.map else ())
        if set(self.arrays) != set(names):
            raise ValueError(f"level 1 '{self.kind}': expected {', '.join(names)}, found {', '.join(self.arrays)}")
        for name, array in self.arrays.items():
            if array.dtype.kind not in "fi" or not np.isfinite(array).all():
                raise ValueError(f"level 1 '{self.kind}': {name}: expected finite numbers, found {array.dtype}")

    @property
    def members(self) -> int:
        """How many members' probabilities it takes."""
        return int(self.arrays[KINDS[self.kind][1][0]].shape[-1])

    def predict(self, probabilities: npt.ArrayLike) -> Floats:
        """Members' probabilities (n, m) to the ensemble's (n,) in [0, 1], float64. ValueError for another m."""
        p = np.asarray(probabilities, dtype=np.float64)
        if p.ndim != 2 or p.shape[1] != self.members:
            raise ValueError(f"probabilities: expected (n, {self.members}), found {p.shape}")
        found = np.clip(KINDS[self.kind][0](self.arrays, p), 0.0, 1.0)
        return MAPS[self.map][0](self.arrays, found) if self.map else found

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the arrays, kind, note and map as an .npz file without pickled objects."""
        facts = {"kind": self.kind, "note": self.note} | ({"map": self.map} if self.map else {})
        with open(path, "wb") as file:  # noqa: PTH123 - a path by name: NumPy would add a suffix
            np.savez(file, **{name: np.array(said) for name, said in facts.items()}, **self.arrays)  # type: ignore[arg-type]


def load(path: str | os.PathLike[str]) -> Combiner:
    """What `save` wrote. Raises ValueError for pickled objects, before any is read, and for what is no level 1."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (zipfile.BadZipFile, EOFError, TypeError) as error:  # TypeError: a lone array has no context
        raise ValueError(f"level 1: expected a file of arrays, found none ({error})") from error
    if "kind" not in arrays or "note" not in arrays:
        raise ValueError(f"level 1: expected kind and note, found {', '.join(arrays)}")
    kind, note, recalibration = (str(arrays.pop(name, "")) for name in ("kind", "note", "map"))
    return Combiner(kind, arrays=arrays, note=note, map=recalibration)


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(-x)) without overflow."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, small) / (1 + small)


def _weighted(arrays: Arrays, p: Floats) -> Floats:
    # rounded so that equal sums stay equal, and none exceeds one
    return np.round(p @ arrays["weights"], 12)


def _linear(arrays: Arrays, p: Floats) -> Floats:
    return sigmoid(p @ arrays["coefficients"] + arrays["intercept"])


def _mlp(arrays: Arrays, p: Floats) -> Floats:
    hidden = np.tanh(p @ arrays["hidden"].T + arrays["hidden_intercept"])
    return sigmoid(hidden @ arrays["coefficients"] + arrays["intercept"])


def _kernel(arrays: Arrays, p: Floats) -> Floats:
    """A kernel machine's decision through a sigmoid (Platt 1999): sigmoid(-(slope × decision + offset))."""
    gamma, coefficients = arrays["gamma"], arrays["coefficients"]
    sums = [np.exp(-gamma * block) @ coefficients for block in _squared_distances(arrays, p)]
    decision = np.concatenate([np.empty(0), *sums]) + arrays["intercept"]
    return sigmoid(-(arrays["slope"] * decision + arrays["offset"]))


def _neighbours(arrays: Arrays, p: Floats) -> Floats:
    """The positives' share of the k nearest points; those that tie for the last places share them."""
    k, labels = int(arrays["k"]), arrays["labels"].astype(np.float64)
    shares = []
    for block in _squared_distances(arrays, p):
        last = np.partition(block, k - 1, axis=1)[:, k - 1, None]
        nearer, tied = (block < last).astype(np.float64), (block == last).astype(np.float64)
        left = k - nearer.sum(axis=1)
        shares.append((nearer @ labels + left * (tied @ labels) / tied.sum(axis=1)) / k)
    return np.concatenate([np.empty(0), *shares])


def _squared_distances(arrays: Arrays, p: Floats) -> Iterator[Floats]:
    """Blocks (b, points) of squared distances to the stored points, after standardising."""
    x, points = (p - arrays["mean"]) / arrays["scale"], arrays["points"]
    for start in range(0, len(x), BLOCK_ROWS):
        block = x[start : start + BLOCK_ROWS]
        squared = np.zeros((len(block), len(points)))
        for member in range(x.shape[1]):
            squared += (block[:, member, None] - points[None, :, member]) ** 2
        yield squared


KINDS: dict[str, tuple[Callable[[Arrays, Floats], Floats], tuple[str, ...]]] = {
    "weights": (_weighted, ("weights",)),
    "linear": (_linear, ("coefficients", "intercept")),
    "mlp": (_mlp, ("hidden", "hidden_intercept", "coefficients", "intercept")),
    "kernel": (_kernel, ("mean", "scale", "points", "coefficients", "intercept", "gamma", "slope", "offset")),
    "neighbours": (_neighbours, ("mean", "scale", "points", "labels", "k")),
}
"""How each kind predicts, and the names of its arrays, the first of which ends in an axis of m members."""


def _platt(arrays: Arrays, p: Floats) -> Floats:
    """The map sigmoid(slope × logit(p) + intercept), p kept `map_least` away from 0 and 1 (Platt 1999)."""
    kept = np.clip(p, arrays["map_least"], 1 - arrays["map_least"])
    return sigmoid(arrays["map_slope"] * np.log(kept / (1 - kept)) + arrays["map_intercept"])


def _isotonic(arrays: Arrays, p: Floats) -> Floats:
    """The map that is linear between the knots (`map_x`, `map_y`), both ascending, and constant beyond them."""
    return np.interp(p, arrays["map_x"], arrays["map_y"])


MAPS: dict[str, tuple[Callable[[Arrays, Floats], Floats], tuple[str, ...]]] = {
    "platt": (_platt, ("map_slope", "map_intercept", "map_least")),
    "isotonic": (_isotonic, ("map_x", "map_y")),
}
"""How each recalibrating map answers, and the names of its arrays."""
