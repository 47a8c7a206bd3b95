"""Find the weights of a weighted average of members' probabilities, on their out-of-fold predictions.

Every search here does several at once: `left_out` are folds to leave out, None for none, and there is a result for
each. `data` has the probabilities float (n, m) of m members. Of equal scores the one with fewer members wins, then the
one that was tried first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mammo_mlflow.errors import expected
from mammo_mlflow.evaluation.blends import Blends
from mammo_mlflow.evaluation.objectives import Objective, check_metric
from mammo_mlflow.evaluation.out_of_fold import OutOfFold
from mammo_mlflow.evaluation.weighted import Floats

PAPER_LEVELS = (0.0, 0.34, 0.67, 1.0)

EXHAUSTIVE_MEMBERS = 6
EXHAUSTIVE_BLENDS = 2_000_000
"""Up to so many members, and combinations of their levels, all are tried: tenths for six members are 1.8 million."""

TIE = 1e-12
"""Scores closer than this are equal."""


@dataclass(frozen=True, eq=False)
class BlendWeights:
    """Blend weights float64 (m,) ≥ 0 that sum to one, and their score on the rows they were chosen on: optimistic.

    `evaluated`: how many blends were scored to find them.
    """

    weights: Floats
    score: float
    evaluated: int
    note: str = ""


def average(data: OutOfFold, objective: Objective, left_out: Sequence[int | None] = (None,)) -> list[BlendWeights]:
    """Equal weights for all members, the plain average, with their score."""
    scorer = _Scorer(data, objective, left_out)
    weights = np.full(data.members, 1 / data.members)
    return [scorer.result(weights, score, 1) for score in scorer.gains(weights[None])[0]]


def grid(
    data: OutOfFold,
    objective: Objective,
    levels: Sequence[float] = PAPER_LEVELS,
    left_out: Sequence[int | None] = (None,),
) -> list[BlendWeights]:
    """The best weights of all combinations of `levels`, one for each member, normalised to sum to one.

    With more than six members, or two million combinations, only one member's weight changes at a time: from the best
    member alone, round and round, each to its best level, until none gains. The combiner's note says so.
    Raises UserError for levels that are not at least two different numbers ≥ 0.
    """
    if len(set(levels)) < 2 or not all(0 <= level < np.inf for level in levels):
        raise expected("levels", "at least two different numbers, none below 0", f"'{', '.join(map(str, levels))}'")
    steps = np.array(sorted(set(levels), reverse=True), dtype=np.float64)
    scorer = _Scorer(data, objective, left_out)
    if data.members > EXHAUSTIVE_MEMBERS or len(steps) ** data.members > EXHAUSTIVE_BLENDS:
        return [_coordinates(scorer, steps, column) for column in range(len(left_out))]
    tried = candidates(steps, data.members)
    gains = scorer.gains(tried)
    best = [_first(column) for column in gains.T]
    return [scorer.result(tried[row], gains[row, i], len(tried)) for i, row in enumerate(best)]


def grid_fine(data: OutOfFold, objective: Objective, left_out: Sequence[int | None] = (None,)) -> list[BlendWeights]:
    """The best weights on a grid of tenths; of fifths for six members, whose 1.8 million tenths would take minutes."""
    steps = 5 if data.members == EXHAUSTIVE_MEMBERS else 10
    found = grid(data, objective, [step / steps for step in range(steps + 1)], left_out)
    return [replace(one, note="; ".join(filter(None, [f"steps of 1/{steps}", one.note]))) for one in found]


def greedy(
    data: OutOfFold, objective: Objective, bag: int = 50, left_out: Sequence[int | None] = (None,)
) -> list[BlendWeights]:
    """Weights found by greedy selection with replacement (Caruana et al. 2004, ICML, section 2): shares of a bag.

    The bag starts with the N best members, N such that their average is best (sorted initialisation); then the member
    that helps most joins, again and again, until `bag` are in it or none helps.
    """
    scorer = _Scorer(data, objective, left_out)
    return [_select(scorer, bag, column) for column in range(len(left_out))]


Optimiser = Callable[[int, Callable[[Floats], float]], tuple[Floats, int]]
"""From the number of members and a function from weights (m,) to their gain: the best ones, and how many it tried."""


def optimised(
    data: OutOfFold, objective: Objective, optimiser: Optimiser, left_out: Sequence[int | None] = (None,)
) -> list[BlendWeights]:
    """Weights that an optimiser finds; it gets a function from weights float64 (m,) to the score to maximise."""
    scorer, found = _Scorer(data, objective, left_out), []
    for column in range(len(left_out)):
        weights, evaluated = optimiser(data.members, lambda w, c=column: float(scorer.gains(w[None], c)[0]))  # type: ignore[misc]
        found.append(scorer.result(weights, float(scorer.gains(weights[None], column)[0]), evaluated))
    return found


def candidates(levels: Floats, members: int) -> Floats:
    """All combinations of `levels` as weights float64 (B, members) that sum to one; fewer members first.

    Of several that are multiples of one another only the first stays, and all-zero is none.
    """
    index = np.indices((len(levels),) * members, dtype=np.int32).reshape(members, -1).T
    index = index[levels[index].any(axis=1)]
    weights = levels[index]
    # multiples of one another have the same ratios to their largest weight
    ratios = np.round(levels[:, None] / np.where(levels > 0, levels, np.inf), 9)
    distinct, codes = np.unique(ratios, return_inverse=True)
    largest = np.take_along_axis(index, weights.argmax(axis=1)[:, None], axis=1)
    key = codes.reshape(ratios.shape)[index, largest] @ (len(distinct) ** np.arange(members, dtype=np.int64))
    order = np.argsort((weights > 0).sum(axis=1), kind="stable")
    weights = weights[order[np.sort(np.unique(key[order], return_index=True)[1])]]
    return weights / weights.sum(axis=1, keepdims=True)


class _Scorer:
    """Scores weights without each of the folds `left_out`; a gain is a score, or minus it where less is better."""

    def __init__(self, data: OutOfFold, objective: Objective, left_out: Sequence[int | None]) -> None:
        check_metric(objective)
        self._objective = objective
        self._sign = 1.0 if objective.direction == "maximize" else -1.0
        self._blends = Blends(objective.name, data.probabilities, data.labels, data.folds)
        self._kept = np.array([np.unique(data.folds) != fold for fold in left_out], dtype=np.float64)
        self.members = data.members

    def gains(self, weights: Floats, column: int | None = None) -> Floats:
        """Gains (B, S) of weights (B, m) for the S entries of `left_out`, or (B,) for the one in `column`.

        Minus infinity where the objective is undefined.
        """
        kept = self._kept if column is None else self._kept[column : column + 1]
        normal = weights / weights.sum(axis=1, keepdims=True)
        found = np.nan_to_num(self._sign * self._blends.scores(normal, kept), nan=-np.inf)
        return found if column is None else found[:, 0]

    def result(self, weights: Floats, gain: float, evaluated: int, note: str = "") -> BlendWeights:
        """The weights (m,) found, with their score. Raises UserError where the objective is undefined for all."""
        if not np.isfinite(gain):
            raise expected("objective", f"folds in which {self._objective.name} is defined", "none")
        return BlendWeights(weights / weights.sum(), self._sign * float(gain), evaluated, note)


def _first(gains: Floats) -> int:
    return int(np.argmax(gains >= gains.max() - TIE))


def _coordinates(scorer: _Scorer, levels: Floats, column: int) -> BlendWeights:
    alone = scorer.gains(np.eye(scorer.members), column)
    weights = np.eye(scorer.members)[_first(alone)] * levels[0]
    best, evaluated, still = alone.max(), scorer.members, 0
    member = 0
    while still < scorer.members:
        tried = np.repeat(weights[None], len(levels), axis=0)
        tried[:, member] = levels[::-1]  # from none on, so that ties go to fewer members
        tried = tried[tried.sum(axis=1) > 0]
        gains = scorer.gains(tried, column)
        evaluated += len(tried)
        still += 1
        if gains.max() > best + TIE:
            weights, best, still = tried[_first(gains)], gains.max(), 0
        member = (member + 1) % scorer.members
    note = f"one weight at a time: all {len(levels)}^{scorer.members} combinations are too many to try"
    return scorer.result(weights, best, evaluated, note)


def _select(scorer: _Scorer, bag: int, column: int) -> BlendWeights:
    single = np.eye(scorer.members)
    order = np.argsort(-scorer.gains(single, column), kind="stable")
    tops = np.cumsum(single[order], axis=0)[: max(bag, 1)]
    gains = scorer.gains(tops, column)
    chosen = tops[_first(gains)]
    best, evaluated = gains.max(), scorer.members + len(tops)
    while chosen.sum() < bag:
        gains = scorer.gains(chosen + single, column)
        evaluated += scorer.members
        if not gains.max() > best + TIE:
            break
        chosen, best = chosen + single[_first(gains)], gains.max()
    return scorer.result(chosen, best, evaluated)
