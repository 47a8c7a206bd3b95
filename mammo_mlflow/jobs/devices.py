"""With what jobs compute: Keras's backend, the kind of device, and the cards that fits share."""

from __future__ import annotations

from dataclasses import dataclass

from mammo_mlflow.processes import keras_backend

ENGINES = {"tensorflow": "keras_fit", "jax": "compiled"}
"""Which engine trains under each of Keras's backends; `keras_fit` under any other."""


def engine_of(backend: str) -> str:
    """The name of the engine that trains under a Keras backend: `keras_fit` or `compiled`."""
    return ENGINES.get(backend, "keras_fit")


@dataclass(frozen=True, kw_only=True)
class Card:
    """A graphics card, or under JAX without one the processor in its place; memory in bytes.

    `number` counts the cards as their driver does. `bfloat16`: whether it computes in it.
    """

    number: int
    name: str
    memory: int
    free: int
    bfloat16: bool


@dataclass(frozen=True, kw_only=True)
class Devices:
    """With what the jobs of a command compute: `kind` is `cpu` or `gpu`, `reason` says in words why.

    `cards` are those that the compiled engine shares out; none under `keras_fit` on the processor.
    """

    backend: str = "tensorflow"
    kind: str = "cpu"
    cards: tuple[Card, ...] = ()
    reason: str = ""

    @classmethod
    def of_environment(cls) -> Devices:
        """The processor, with the Keras backend that the environment names."""
        return cls(backend=keras_backend())

    @property
    def engine(self) -> str:
        """The engine that trains fits here."""
        return engine_of(self.backend)

    @property
    def facts(self) -> dict[str, str]:
        """What keys hash of it: the backend, and where they are not what they were before there were others, the rest.

        Kind of device and engine move results as the backend does.
        """
        others = {"device": (self.kind, "cpu"), "engine": (self.engine, "keras_fit")}
        return {"backend": self.backend} | {name: now for name, (now, first) in others.items() if now != first}
