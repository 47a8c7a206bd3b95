"""DINOv2, a vision transformer of keras-hub (extra `hub`), which is imported where such a network is built or loaded.

Oquab et al. 2024, "DINOv2: Learning Robust Visual Features without Supervision", TMLR. The layers are keras-hub's, one
after another in our graph, so that it can be cut between any two blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import keras
import numpy as np
from keras import layers

if TYPE_CHECKING:
    from keras_hub.models import DINOV2Backbone

TOKEN = 14
"""The side in pixels of what becomes a token."""
ENLARGED = 1.5
"""How much larger DINOv2 sees a patch, to the nearest multiple of `TOKEN`: 150 pixels as the usual 224."""
TOKEN_DEVIATION = 0.02  # of class token and positions, as keras-hub draws them


def token_maps(settings: Mapping[str, int], scaled: keras.KerasTensor) -> keras.KerasTensor:
    """Build DINOv2 on scaled patches (n, size, size, 3), which it sees enlarged: the maps (n, h, w, f) of its tokens.

    `settings` are those of `DINOV2Backbone`. The maps are the normalised patch tokens of the last block in their grid;
    the class token is left out.
    """
    from keras_hub.src.models.dinov2.dinov2_layers import DINOV2Embedding, DINOV2Layer

    grid, width = round(ENLARGED * scaled.shape[1] / TOKEN), settings["hidden_dim"]
    side = TOKEN * grid
    x = layers.Resizing(side, side, dtype="float32", name="resized")(scaled)
    x = DINOV2Embedding(hidden_dim=width, patch_size=TOKEN, image_shape=(side, side), name="embeddings")(x)
    kind = {name: settings[name] for name in ("hidden_dim", "num_heads", "intermediate_dim")}
    for number in range(settings["num_layers"]):
        x = DINOV2Layer(**kind, name=f"layers_{number}")(x)
    x = layers.LayerNormalization(epsilon=1e-6, name="layernorm")(x)
    x = layers.Cropping1D((1, 0), name="patch_tokens")(x)
    return layers.Reshape((grid, grid, width), name="token_maps")(x)


def is_block(layer: keras.Layer) -> bool:
    """Whether a layer is a transformer block of DINOv2, told without keras-hub."""
    return type(layer).__name__ == "DINOV2Layer"


def draw_tokens(base: keras.Model, rng: np.random.RandomState) -> None:
    """Draw the class token and the positions of a network of `token_maps`, as keras-hub does."""
    embeddings, stored = base.get_layer("embeddings"), dict[str, np.ndarray]()
    embeddings.save_own_variables(stored)
    # which interpolates the positions for the size of the patches
    embeddings.load_own_variables({k: rng.normal(0, TOKEN_DEVIATION, v.shape) for k, v in stored.items()})


def load_dinov2(base: keras.Model, settings: Mapping[str, int], path: Path) -> None:
    """Load a file that keras-hub's `DINOV2Backbone.save_weights` wrote into a network of `token_maps`."""
    whole = _whole(base, settings)
    whole.load_weights(path)
    base.set_weights(whole.get_weights())


def save_dinov2(base: keras.Model, settings: Mapping[str, int], path: Path) -> None:
    """Write the weights of a network of `token_maps` as `DINOV2Backbone.save_weights` does."""
    whole = _whole(base, settings)
    whole.set_weights(base.get_weights())
    whole.save_weights(path)


def _whole(base: keras.Model, settings: Mapping[str, int]) -> DINOV2Backbone:
    """keras-hub's own model of the same layers, with weights in the same order."""
    import keras_hub

    side = base.get_layer("resized").height
    return keras_hub.models.DINOV2Backbone(patch_size=TOKEN, image_shape=(side, side, 3), **settings)
