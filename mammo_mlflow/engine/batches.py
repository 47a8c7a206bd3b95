"""Batches of training rows: their order and the views drawn of each patch, epoch by epoch."""

from __future__ import annotations

import keras
import numpy as np

from mammo_mlflow.engine.inputs import Fed, Reader


class Batches(keras.utils.PyDataset):
    """Shuffled training batches; each epoch draws one view of each patch. The last, incomplete batch is left out.

    Order and views of epoch e depend on (seed, e) alone. `views=None` asks the reader for view number e + 1: a fresh
    one each epoch, as on-line augmentation does. With several `columns`, so many views are drawn of each patch.
    """

    def __init__(
        self,
        read: Reader[Fed],
        rows: np.ndarray,
        labels: np.ndarray,
        batch: int,
        views: int | None,
        seed: list[int],
        columns: int = 1,
    ) -> None:
        super().__init__()
        self._shape = () if columns == 1 else (columns,)
        self.read, self.rows, self.labels = read, rows, labels
        self._views, self._seed = views, seed
        self._batch = min(batch, len(rows))
        self._epoch = -1  # Keras ends an epoch once before the first
        self._drawn = self.draw(0)

    def __len__(self) -> int:
        return len(self.rows) // self._batch

    def draw(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The rows of an epoch (batches, batch size) and their views, of the same shape or with the columns behind."""
        rng = np.random.default_rng([*self._seed, epoch])
        order = rng.permutation(self.rows)[: len(self) * self._batch]
        shape = (len(order), *self._shape)
        views = rng.integers(1, self._views + 1, shape) if self._views else np.full(shape, epoch + 1)
        return order.reshape(len(self), -1), views.reshape(len(self), -1, *self._shape)

    def on_epoch_end(self) -> None:
        """Draw the next epoch."""
        self._epoch += 1
        self._drawn = self.draw(self._epoch)

    def __getitem__(self, index: int) -> tuple[Fed, np.ndarray]:
        rows, views = self._drawn
        return self.read(rows[index], views[index]), self.labels[rows[index]]
