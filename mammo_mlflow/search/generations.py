"""How a study draws its trials: how many in a generation, and what follows from heads being trained all at once."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np

from mammo_mlflow.planning.plan import Plan
from mammo_mlflow.search.study_spec import StudySpec

AUTO = "auto"
HEADS_AT_ONCE = 32
"""The trials of a generation of heads. More would take a card as long for each of them, and teach the sampler less: it
learns nothing of a generation until that is over."""
IN_TURNS = 4
"""Those where convolutions are trained, one network after another: enough for the pruner, and for several cards."""
COPIES = 6
"""How many arrays of a head's size its training needs: weights, gradients, two moments, the best weights, a copy."""
SHARE = 0.5
"""The share of a card's memory that the heads of a generation may take."""
FRESH_SEEDS, FRESH_SEEDS_OF_HEADS = 3, 20
"""The seeds of the closing comparison where each takes minutes, and where all of them take seconds."""


def trains_heads_at_once(spec: StudySpec, paper: Plan) -> bool:
    """Whether all trials of a study are heads on stored activations that one compiled program trains together."""
    drawn = {item.name for item in spec.space.parameters}
    unfrozen = {**spec.base, **spec.space.fixed}.get("unfrozen_layers", 0)
    on_line = paper.experiment.trained_whole or not paper.activations()
    return paper.devices.engine == "compiled" and not (on_line or unfrozen or "unfrozen_layers" in drawn)


def by_generations(spec: StudySpec, paper: Plan, generation: str, pruner: str) -> StudySpec:
    """The specification with the size of its generations, and without a pruner where `auto` chose one for nothing.

    `generation`: a number of trials, or `auto`: as many heads as one program should hold, fewer where networks take
    turns, and none (0) for the engine that trains each fit in a process of its own. `paper`: the first trial's plan.
    """
    if paper.devices.engine != "compiled":
        return replace(spec, generation=0 if generation == AUTO else int(generation))
    heads = trains_heads_at_once(spec, paper)
    size = _held(paper, spec.repeats) if heads else IN_TURNS
    # heads of a generation end at the same time, whatever their first folds are like
    return replace(
        spec,
        generation=size if generation == AUTO else int(generation),
        pruner=None if heads and pruner == AUTO else spec.pruner,
    )


def fresh_seeds(wanted: str, spec: StudySpec, paper: Plan) -> int:
    """The number of seeds of the closing comparison, `auto` or a number."""
    if wanted != AUTO:
        return int(wanted)
    return FRESH_SEEDS_OF_HEADS if trains_heads_at_once(spec, paper) else FRESH_SEEDS


def _held(paper: Plan, repeats: int) -> int:
    """The trials whose heads the smallest card holds at once, a power of two, at most `HEADS_AT_ONCE`."""
    widths = (int(np.prod(paper.description.head)), *paper.experiment.model.widths, 1)
    head = 4 * COPIES * sum(below * above for below, above in pairwise(widths))
    heads = repeats * sum(fit.fold is not None for fit in paper.fits)
    room = SHARE * min(card.memory for card in paper.devices.cards)
    fitting = min(HEADS_AT_ONCE, room // (head * heads)) if room else HEADS_AT_ONCE
    return 2 ** max(0, int(fitting).bit_length() - 1)
