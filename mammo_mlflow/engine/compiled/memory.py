"""The memory of the card: whether it ran out, and how much of it this process took."""

from __future__ import annotations

import jax

FAILURES = (jax.errors.JaxRuntimeError, ValueError)
"""What JAX raises for want of memory among other things, the second where it reads an array."""


def is_out_of_memory(problem: Exception) -> bool:
    """Whether JAX failed for want of memory."""
    return "RESOURCE_EXHAUSTED" in str(problem) or "out of memory" in str(problem).lower()


def card_memory_bytes() -> int:
    """The most bytes of the card that this process has held at once; 0 where the device does not tell."""
    return int((jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0))
