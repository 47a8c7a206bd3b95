"""The parameters of a model as data: encoder, fine-tuning and head."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mammo_mlflow import checks, roles
from mammo_mlflow.backbones import OWN_SCALING, SCALINGS
from mammo_mlflow.roles import CONVOLVED, PENALISED, parameter

INPUT_SCALINGS = (OWN_SCALING, *SCALINGS)
POOLINGS = ("flatten", "average", "max")
POOL_PADDINGS = ("valid", "same")
CONDITIONS = ("probability", "class")
DIFFERENCES = ("subtract", "absolute", "concatenate", "absolute_product")
LEAST_WIDTH = 256
"""The fewest units that a hidden layer has once it is filled up."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """The parameters of a model: its encoder, how much of that is trained, and the head on top."""

    backbone: str = roles.encoder("vgg16", "network: a backbone, a setting, an encoder or an approach", checks.anything)
    weights: str = parameter(
        "imagenet",
        "backbone weights: imagenet, random, or a directory of weight files",
        checks.anything,
        roles.FROZEN,
        moves="activations source",
    )
    input_scaling: str = roles.stored(
        OWN_SCALING,
        "how patches are scaled for these weights: as for the backbone's own of ImageNet, or as they were trained",
        checks.one_of(*INPUT_SCALINGS),
        roles.FROZEN,
        added=True,
    )
    blocks: str = roles.shape(
        "32/2-32-32,64-64,128-128,256",
        "filters of the 3x3 convolutions trained from scratch; /2 is a stride, a pool follows each block",
        checks.spelled_blocks,
        CONVOLVED,
    )
    convolution_batch_norm: bool = roles.shape(
        True, "batch normalisation after each convolution trained from scratch", checks.anything, CONVOLVED
    )
    convolution_batch_norm_momentum: float = parameter(
        0.9, "momentum of that batch normalisation's moving statistics", checks.below_one, CONVOLVED, added=True
    )
    first_pool: int = roles.shape(
        2,
        "side of the pool after the first block; its stride is 2, and so are all of the others'",
        checks.whole_number(2, 64),
        CONVOLVED,
        added=True,
    )
    pool_padding: str = roles.shape(
        "valid",
        "padding of those pools: valid, or same, which keeps the last row of an odd map",
        checks.one_of(*POOL_PADDINGS),
        CONVOLVED,
        added=True,
    )
    pool_dropout: float = roles.shape(
        0.0, "dropout rate after each pool of such convolutions", checks.below_one, CONVOLVED
    )
    l1: float = parameter(0.0, "L1 penalty on the kernels trained from scratch", checks.at_least_zero, PENALISED)
    l2: float = parameter(0.0, "L2 penalty on the kernels trained from scratch", checks.at_least_zero, PENALISED)
    dense_l2: float = parameter(
        0.0,
        "more L2 penalty on the kernels of the hidden layers, beside l2",
        checks.at_least_zero,
        PENALISED,
        True,
    )
    pooling: str = roles.encoder(
        "average",
        "pooling before the head",
        checks.one_of(*POOLINGS),
        roles.POOLED,
    )
    difference: str = roles.shape(
        "subtract",
        f"how baseline and abnormality are joined: {', '.join(DIFFERENCES)}",
        checks.one_of(*DIFFERENCES),
        roles.PAIRED,
    )
    dense: str = parameter(
        "256", "widths of the head's hidden layers, such as 256 or 256-64, or none", checks.spelled_widths
    )
    batch_norm: bool = parameter(False, "batch normalisation of the features before the hidden layer", checks.anything)
    dense_batch_norm: bool = parameter(
        False, "batch normalisation after each hidden layer", checks.anything, added=True
    )
    feature_dropout: float = roles.of_heads(
        0.0, "dropout rate of the features before the hidden layers", checks.below_one, added=True
    )
    dropout: float = roles.of_heads(0.0, "dropout rate after each hidden layer", checks.below_one)
    unfrozen_layers: int = roles.encoder(
        0, "number of last convolutional layers trained after the head", checks.whole_number(0, 1000), roles.FROZEN
    )
    features_from: str = roles.source(
        "",
        "registered benign/malignant model that gives the features; by default the approach's",
        checks.anything,
        roles.CONDITIONED,
    )
    condition_from: str = roles.source(
        "", "registered mass/calcification model that gives the condition", checks.anything, roles.CONDITIONED
    )
    condition: str = parameter(
        "probability",
        "what of that model's answer is joined: the probability of a calcification, or the class, 1 above 0.5",
        checks.one_of(*CONDITIONS),
        roles.GIVEN,
        added=True,
    )

    @property
    def backbones(self) -> tuple[str, ...]:
        """The network's name, or those of the backbones that it joins."""
        return tuple(self.backbone.split(checks.JOIN))

    @property
    def widths(self) -> tuple[int, ...]:
        """The number of units of each hidden layer of the head."""
        return () if self.dense == "none" else tuple(int(width) for width in self.dense.split("-"))

    @property
    def filled(self) -> ModelSpec:
        """The model with as many units in each hidden layer as it is filled up to on cards: a power of two."""
        widths = [max(LEAST_WIDTH, 1 << (width - 1).bit_length()) for width in self.widths]
        return replace(self, dense="-".join(map(str, widths)) or "none")
