"""Build the encoder of any family, from a raw patch to features."""

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
    """Build an encoder: raw patches (n, size, size, 1) in, features out; the weights of a backbone are not loaded.

    `image_size` is in pixels, `precision` as in `dtype_policy`. `batch_norm` is the class of batch normalisation layers
    in an encoder trained from scratch. Raises `UserError` for too small patches.
    """
    if family == "texture":
        return build_texture(image_size)
    if spec.backbone in BACKBONES:
        return build_base(spec.backbone, image_size, spec.pooling, precision, spec.input_scaling)
    return build_scratch(spec, image_size, precision, batch_norm)
