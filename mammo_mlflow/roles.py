"""The roles of an experiment's parameters: which families use a parameter, and what another value changes.

`cut`: the encoder's layers and shapes. `activations`: which of its own are cached. `training`: what is learned, and
nothing before it. `judging`: which patches a fit is trained and scored on, and with which labels. `final`: what is made
after the folds. `source`: where something is looked for that has an identity of its own, which keys hash instead.
`place`: where, and how exactly, it is computed. `vector`: fits that differ in it can share compiled programs; with
`heads` beside it, only heads on stored features can. Whoever needs a list of parameters asks for these
(`experiment.that_move`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from functools import partial
from typing import Any, NamedTuple, TypeVar

from mammo_mlflow import checks
from mammo_mlflow.backbones import BACKBONES

NETWORKS: dict[str, tuple[str, ...]] = {
    "pretrained": tuple(BACKBONES),
    "scratch": ("m1", "m1_balanced", "m1_early_stop", "m2", "m1_10fold", "m1_author"),
    "siamese": ("scratch", *BACKBONES),
    "conditioned": ("a", "b", "c"),
    "texture": ("laws",),
    "views": tuple(BACKBONES),
}
"""What `backbone` may be in each family: a pretrained network, a setting of the paper's chapter 4, an encoder, an
approach of its chapter 8, the encoder of both views of a lesion."""
FAMILIES = tuple(NETWORKS)
JOINED_IN = "pretrained"
"""The family whose networks may join several backbones, frozen, in front of one head: `resnet50+densenet121`."""

T = TypeVar("T", bound=checks.Value)


class Users(NamedTuple):
    """The experiments that use a parameter: those of `families`; `whole`: only of networks trained whole, or only not.

    For an experiment of which `counts` is false the parameter changes no result, and no key.
    """

    families: tuple[str, ...] = FAMILIES
    whole: bool | None = None
    counts: Callable[[Any], bool] = lambda experiment: True


ALL = Users()
SGD = Users(counts=lambda experiment: experiment.training.optimizer == "sgd")
ADAMW = Users(counts=lambda experiment: experiment.training.optimizer == "adamw")
WARMED = Users(counts=lambda experiment: experiment.training.schedule != "one_cycle")
FOCAL = Users(counts=lambda experiment: experiment.training.loss == "focal")
STOPPED = Users(counts=lambda experiment: experiment.training.early_stop > 0)
ENCODED = Users(("pretrained", "scratch", "siamese", "texture", "views"))
POOLED = Users(("pretrained", "scratch", "siamese", "views"))
TURNED = Users(("pretrained", "scratch", "siamese", "conditioned", "views"))
FROZEN = Users(("pretrained", "siamese", "views"), whole=False)
TUNED = FROZEN._replace(counts=lambda experiment: experiment.model.unfrozen_layers > 0)
PENALISED = Users(("scratch", "siamese"))
CONVOLVED = PENALISED._replace(whole=True)
PAIRED = Users(("siamese",))
CONDITIONED = Users(("conditioned",))
GIVEN = CONDITIONED._replace(counts=lambda experiment: experiment.model.backbone != "c")
CACHED = Users(tuple(n for n in FAMILIES if n != "scratch"), False, lambda experiment: not experiment.trained_whole)


def network_of(family: str, *others: str) -> checks.OneOf:
    """Make a check that a name is a network of a family, joined backbones included, or one of `others`."""
    known = (*NETWORKS[family], *others)
    return checks.OneOrJoined(known, tuple(BACKBONES)) if family == JOINED_IN else checks.one_of(*known)


def parameter(
    default: T, help: str, check: checks.Check, only: Users = ALL, added: bool = False, moves: str = "training"
) -> T:
    """Make a dataclass field for a parameter: default, help, check, users, and what another value changes (`moves`).

    `only` are the experiments that use it, `moves` is some of the words that this module's docstring defines.

    One that was `added` to families that had results already is in their keys only where it is not the default.
    """
    said = {"help": help, "check": check, "users": only, "added": added, "moves": frozenset(moves.split())}
    return field(default=default, metadata=said)


encoder, shape = partial(parameter, moves="cut activations"), partial(parameter, moves="cut")
stored, source = partial(parameter, moves="activations"), partial(parameter, moves="source")
judging, finishing = partial(parameter, moves="judging"), partial(parameter, moves="final")
place, precise = partial(parameter, moves="place"), partial(parameter, moves="activations place")
of_heads = partial(parameter, moves="training vector heads")
"""Parameters by what another value moves."""
