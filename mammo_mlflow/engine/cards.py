"""Tell the cards that Keras's backend can use: `python -m mammo_mlflow.engine.cards` writes a line of JSON."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import NamedTuple

from mammo_mlflow.jobs.devices import DRIVER_TOOL, Card
from mammo_mlflow.processes import keras_backend

ASKED = "index,uuid,memory.total,memory.free,mig.mode.current"
MIB = 2**20


class DriverRow(NamedTuple):
    """A card as NVIDIA's driver knows it, memory in bytes."""

    number: int
    uuid: str
    memory: int
    free: int


def find_cards() -> list[Card]:
    """The cards that the backend can use, with the numbers and the memory that their driver tells.

    What the driver does not tell stays as the backend says it, such as the memory of a part of a card.
    """
    driver = driver_rows()  # first: the backend takes some memory, which would not be free
    if keras_backend() == "jax":
        from mammo_mlflow.engine.compiled.cards import jax_cards

        cards = jax_cards()
    else:
        from mammo_mlflow.engine.backend import tensorflow_cards

        cards = tensorflow_cards()
    return known_to_driver(cards, driver, os.environ.get("CUDA_VISIBLE_DEVICES"))


def known_to_driver(cards: Sequence[Card], driver: Sequence[DriverRow], visible: str | None) -> list[Card]:
    """The cards with the driver's numbers and memory; `visible` are those that the backend sees, in its order."""
    named = None if visible is None else [name.strip() for name in visible.split(",")]
    found = []
    for card in cards:
        name = str(card.number) if named is None else named[card.number]
        row = next((one for one in driver if name == str(one.number) or one.uuid.startswith(name)), None)
        found.append(card if row is None else replace(card, number=row.number, memory=row.memory, free=row.free))
    return found


def driver_rows() -> list[DriverRow]:
    """What `nvidia-smi` tells of each card that is not divided into parts; none where it cannot be asked."""
    line = [DRIVER_TOOL, f"--query-gpu={ASKED}", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(line, capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    found = []
    for row in csv.reader(told.splitlines(), skipinitialspace=True):
        try:
            number, uuid, memory, free, divided = row
            if divided != "Enabled":
                found.append(DriverRow(int(number), uuid, int(memory) * MIB, int(free) * MIB))
        except ValueError:  # "[N/A]", where memory is the system's
            continue
    return found


if __name__ == "__main__":
    sys.stdout.write(f"{json.dumps([asdict(card) for card in find_cards()])}\n")
