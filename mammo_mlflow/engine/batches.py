"""Training batches: the order of rows, and which view of each patch is used, in each epoch."""

from __future__ import annotations

import keras
import numpy as np

from mammo_mlflow.engine.inputs import ModelInput, Reader


class Batches(keras.utils.PyDataset):
    """Shuffled training batches: inputs and labels (m,), with one random view of each patch in each epoch.

    `rows` (n,) are the training rows, `labels` cover all rows of the data set. The last, incomplete batch of an epoch
    is left out. Order and views of epoch e depend on (seed, e) alone. `views` is the number of stored views; with None
    the reader makes view e + 1, a new one each epoch, as on-line augmentation does. With two `columns`, two views of
    each row are drawn, one for each side.
    """

    def __init__(
        self,
        read: Reader[ModelInput],
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
        self.size = min(batch, len(rows))
        self._epoch = -1  # Keras calls `on_epoch_end` once before the first epoch
        self._drawn = self.draw(0)

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        return len(self.rows) // self.size

    def draw(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw an epoch's rows (batches, batch size) and views, the same shape or with a last axis of `columns`."""
        rng = np.random.default_rng([*self._seed, epoch])
        order = rng.permutation(self.rows)[: len(self) * self.size]
        shape = (len(order), *self._shape)
        views = rng.integers(1, self._views + 1, shape) if self._views else np.full(shape, epoch + 1)
        return order.reshape(len(self), -1), views.reshape(len(self), -1, *self._shape)

    def on_epoch_end(self) -> None:
        """Draw rows and views of the next epoch; Keras calls it."""
        self._epoch += 1
        self._drawn = self.draw(self._epoch)

    def __getitem__(self, index: int) -> tuple[ModelInput, np.ndarray]:
        """Inputs and labels (m,) of one batch."""
        rows, views = self._drawn
        return self.read(rows[index], views[index]), self.labels[rows[index]]
