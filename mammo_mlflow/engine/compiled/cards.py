"""The cards that JAX can use."""

from __future__ import annotations

import re

import jax

from mammo_mlflow.jobs.devices import Card

FIRST_WITH_BFLOAT16 = 8
"""The generation of NVIDIA's cards, by the first number of their compute capability (Ampere), that computes in it."""


def jax_cards(platform: str = "gpu") -> list[Card]:
    """The cards that JAX can use, numbered in its order; their memory is what JAX may take of it.

    Raises RuntimeError where there is none.
    """
    found = []
    for number, device in enumerate(jax.devices(platform)):
        memory = device.memory_stats() or {}
        limit = int(memory.get("bytes_limit", 0))
        generation = re.match(r"\d+", str(getattr(device, "compute_capability", "")))
        card = Card(
            number=number,
            name=str(device.device_kind),
            memory=limit,
            free=limit - int(memory.get("bytes_in_use", 0)),
            bfloat16=generation is not None and int(generation[0]) >= FIRST_WITH_BFLOAT16,
        )
        found.append(card)
    return found
