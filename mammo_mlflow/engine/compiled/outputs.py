"""Compute activations on the card: patches lie there, and are warped in the program of the network that follows."""

from __future__ import annotations

import gc
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import keras
import numpy as np

from mammo_mlflow.engine.compiled.feed import Feed, Selection, picker
from mammo_mlflow.engine.compiled.memory import FAILURES, is_out_of_memory
from mammo_mlflow.engine.compiled.resident import LIMIT, RESIDENT
from mammo_mlflow.engine.compiled.weights import Variables, read_weights
from mammo_mlflow.engine.inputs import ModelInput, Reader
from mammo_mlflow.models.tensors import Tensor

BATCHES = (32, 128)
"""The fewest and the most views that are computed at once."""
BESIDE = 8
"""How many times the largest activations of a network are taken to lie on the card at once."""
AHEAD = 2
"""How many blocks the card computes while the host writes one."""


class Outputs:
    """The outputs of a network for the rows of a reader, in blocks of as many views as fit `memory` bytes (0: few)."""

    def __init__(
        self, network: keras.Model, reader: Reader[ModelInput], memory: int, notice: Callable[[str], None]
    ) -> None:
        self._network, self._feed, self._notice = network, Feed([reader]), notice
        self._pick = picker(reader)
        self._weights = read_weights(network)
        largest = max(math.prod(layer.output.shape[1:]) for layer in network.layers)
        free = memory - sum(array.nbytes for array in self._feed.data.values())
        self._batch = min(max(BATCHES[0], free // (4 * BESIDE * largest)), BATCHES[1])
        self._made: list[Tensor] | None = []

    def blocks(self, patches: int, views: int) -> Iterator[np.ndarray]:
        """Yield the outputs of `patches` rows, plain and in `views` views each: float32 (m, views + 1, ...).

        Where the card has less memory than it said, blocks become smaller.
        """
        done = 0
        while True:
            try:
                for block in self._blocks(done, patches, views):
                    done += len(block)
                    yield block
            except FAILURES as problem:
                if not is_out_of_memory(problem) or self._batch <= views + 1:
                    raise
            else:
                return
            self._made = None
            RESIDENT.clear()
            gc.collect()  # the error held the blocks that were waited for
            self._batch //= 2
            self._notice(f"out of memory: activations of {self._batch} views at once from now on")

    def _blocks(self, first: int, patches: int, views: int) -> Iterator[np.ndarray]:
        compute = jax.jit(self._compute)
        block = min(max(1, self._batch // (views + 1)), patches)
        waiting: deque[tuple[Tensor, int]] = deque()
        for start in range(first, patches, block):
            rows = np.arange(start, start + block).clip(max=patches - 1)
            each = np.broadcast_to(np.arange(views + 1), (block, views + 1))
            drawn = self._feed.draw(0, rows.repeat(views + 1), each.ravel())
            out = compute(self._weights, self._feed.data, jax.tree.map(jnp.asarray, drawn))
            waiting.append((out.reshape(block, views + 1, *out.shape[1:]), min(block, patches - start)))
            if len(waiting) > AHEAD:
                yield self._fetch(*waiting.popleft())
        for out, count in waiting:
            yield self._fetch(out, count)

    def keep(self, path: Path) -> None:
        """Keep the outputs on the card for whoever reads the file that they were written to, where there was room."""
        if self._made:
            RESIDENT.put(path, jnp.concatenate(self._made))
        self._made = None

    def _fetch(self, out: Tensor, count: int) -> np.ndarray:
        """A block as float32 on the host; it stays on the card, as it will be stored, as long as all of them fit."""
        if self._made is not None:
            self._made.append(out[:count])
            if sum(one.nbytes for one in self._made) > LIMIT // 2:  # the joined array comes beside them
                self._made = None
        return np.asarray(out[:count].astype(jnp.float32))

    def _compute(self, weights: Variables, data: Mapping[str, Tensor], drawn: Selection) -> Tensor:
        inputs = self._pick(data, jnp.int32(0), drawn)
        return self._network.stateless_call(*weights, inputs, training=False)[0]
