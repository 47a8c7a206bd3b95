"""What the coordinator knows of a network without Keras: how it is built, where it can be cut, how large it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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

    @property
    def each(self) -> tuple[Network, ...]:
        """The network of each of its backbones alone; where it has one, that is itself."""
        return tuple(replace(self, model=replace(self.model, backbone=name)) for name in self.model.backbones)


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
    `patches_per_second` its measured speed, NaN if not measured. `joined` are those of the backbones that it joins.
    """

    features: LayerCut
    tuned: LayerCut | None
    head: tuple[int, ...]
    parameters: int
    patches_per_second: float = float("nan")
    joined: tuple[Description, ...] = ()

    @classmethod
    def join(cls, each: Sequence[Description]) -> Description:
        """The description of frozen backbones whose features (n, f) are joined; of a single one its own."""
        if len(each) == 1:
            return each[0]
        width = sum(one.features.shape[0] for one in each)
        return cls(
            features=LayerCut(0, (width,), "float32"),  # of no layer: the cut is before the tail
            tuned=None,
            head=(width,),
            parameters=sum(one.parameters for one in each),
            patches_per_second=1 / sum(1 / one.patches_per_second for one in each),
            joined=tuple(each),
        )

    @property
    def trained(self) -> LayerCut:
        """The layer cut at which the tail starts: all that is trained lies behind it."""
        return self.tuned or self.features
