"""Arrays that stay on the card between the jobs of one process: patches, and activations that were computed on it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from mammo_mlflow.models.tensors import Tensor

LIMIT = 4 * 2**30
"""The most bytes that stay on the card for a later job."""


class Resident:
    """The latest arrays of the card, of at most `limit` bytes, by the file that each was read from or written to.

    A file is known by its place on the disk and when it was written, so that a cache entry stays known when it gets its
    name, and a file that is written anew is read anew.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._arrays: OrderedDict[tuple[int, ...], Tensor] = OrderedDict()

    def get(self, path: Path, read: Callable[[], np.ndarray], part: int = 0) -> Tensor:
        """A part of a file as an array of the card: the one that is there, else what `read` gives."""
        known = _identity(path, part)
        found = self._arrays.pop(known, None)
        if found is None:
            found = jax.device_put(read())
        self._keep(known, found)
        return found

    def put(self, path: Path, array: Tensor, part: int = 0) -> None:
        """Keep an array of the card that was written to a file."""
        self._keep(_identity(path, part), array)

    def clear(self) -> None:
        """Let go of all arrays."""
        self._arrays.clear()

    def _keep(self, known: tuple[int, ...], array: Tensor) -> None:
        self._arrays[known] = array
        while sum(one.nbytes for one in self._arrays.values()) > self._limit:
            self._arrays.popitem(last=False)


RESIDENT = Resident(LIMIT)
"""The arrays of this process, which all of its jobs share."""


def _identity(path: Path, part: int) -> tuple[int, ...]:
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size, part
