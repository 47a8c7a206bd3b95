"""The encoder of every family, from a raw patch to features, built by one function."""

from __future__ import annotations

import keras

from mammo_mlflow.backbones import BACKBONES
from mammo_mlflow.experiment import ModelSpec
from mammo_mlflow.models.network import build_base
from mammo_mlflow.models.scratch import build_scratch
from mammo_mlflow.models.texture import build_texture


def build_encoder(
    family: str, spec: ModelSpec, image_size: int, precision: str, batch_norm: type | None = None
) -> keras.Model:
    """Raw patches (n, size, size, 1) in, features out. A backbone's weights are still to be loaded.

    `batch_norm` is the layer's class where the encoder is trained from scratch. Raises `UserError` for too small
    patches.
    """
    if family == "texture":
        return build_texture(image_size)
    if spec.backbone in BACKBONES:
        return build_base(spec.backbone, image_size, spec.pooling, precision)
    return build_scratch(spec, image_size, precision, batch_norm)
