"""The precision that layers compute in: float32, or bfloat16 with float32 weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import keras

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
"""Each precision, and Keras's name of its dtype policy."""


@contextmanager
def dtype_policy(precision: str) -> Iterator[None]:
    """Context: Keras layers built inside compute in `precision`, one of `POLICIES`, unless they name a dtype."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(POLICIES[precision])
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
