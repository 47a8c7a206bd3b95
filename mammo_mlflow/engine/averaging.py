"""Averaged weights under Keras's own loop; see `contract.StageFit.averages`."""

from __future__ import annotations

import keras
import numpy as np

from mammo_mlflow.engine.contract import StageFit


class WeightAverage(keras.callbacks.Callback):
    """Keeps the mean of the trained weights of the last epochs of a stage, for `finish`."""

    def __init__(self, fit: StageFit) -> None:
        super().__init__()
        self._fit = fit
        self._mean: list[np.ndarray] = []

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Add the weights of an epoch of the last ones to the mean."""
        share = np.float32(self._fit.share(epoch))
        if share:
            now = [keras.ops.convert_to_numpy(one) for one in self.model.trainable_variables]
            before = self._mean or now
            self._mean = [old + (new - old) * share for old, new in zip(before, now, strict=True)]

    def finish(self) -> None:
        """Give the network the mean weights, and its batch normalisation their statistics."""
        network = self._fit.network
        for variable, mean in zip(network.trainable_variables, self._mean, strict=True):
            variable.assign(mean)
        layers = batch_norms(network)
        if not layers:
            return
        batches, momenta = self._fit.batches, [layer.momentum for layer in layers]
        measured = [one for layer in layers for one in (layer.moving_mean, layer.moving_variance)]
        sums = [np.zeros(one.shape) for one in measured]
        drawn = list(zip(*batches.draw(self._fit.stage.epochs - 1), strict=True))
        for layer in layers:
            layer.momentum = 0.0  # so that a pass leaves the statistics of its batch
        for rows, views in drawn:
            network(batches.read(rows, views), training=True)
            sums = [total + keras.ops.convert_to_numpy(one) for total, one in zip(sums, measured, strict=True)]
        for variable, total in zip(measured, sums, strict=True):
            variable.assign(total / len(drawn))
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum


def batch_norms(network: keras.Model) -> list[keras.layers.BatchNormalization]:
    """The layers of batch normalisation that are trained; frozen ones keep their statistics."""
    layers = network._flatten_layers()
    return [one for one in layers if isinstance(one, keras.layers.BatchNormalization) and one.trainable]
