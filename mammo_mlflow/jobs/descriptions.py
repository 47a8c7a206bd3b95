"""What the coordinator knows of a network without Keras: how it is built, where it can be cut, how large it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mammo_mlflow.experiment import PATCH, ModelSpec


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network to build, without its weights: family, parameters, patch size in pixels, precision, image inputs."""

    family: str
    model: ModelSpec
    image_size: int
    precision: str
    sides: tuple[str, ...] = (PATCH,)


@dataclass(frozen=True)
class LayerCut:
    """A layer cut of a network: the index of the layer before it, and shape and dtype of that layer's output."""

    index: int
    shape: tuple[int, ...]
    dtype: str

    def stored_bytes(self, patches: int, views: int) -> int:
        """The size in bytes of the activations of `patches` patches, each plain and in `views` augmented views."""
        return int(np.prod(self.shape)) * (2 if self.dtype == "bfloat16" else 4) * patches * (views + 1)


@dataclass(frozen=True, kw_only=True)
class Description:
    """The layer cuts and sizes of a network.

    `features` is the cut after the encoder, of one side; `tuned` the cut before the first trained layer of the encoder
    (None if all are frozen). `head` is the shape of the head's input, `parameters` the number of the encoder's weights,
    `patches_per_second` its measured speed, NaN if not measured.
    """

    features: LayerCut
    tuned: LayerCut | None
    head: tuple[int, ...]
    parameters: int
    patches_per_second: float = float("nan")

    @property
    def trained(self) -> LayerCut:
        """The layer cut at which the tail starts: all that is trained lies behind it."""
        return self.tuned or self.features
