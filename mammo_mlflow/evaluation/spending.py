"""The error that each decision about a champion may spend, so that all decisions of a task keep one bound.

The method is online fallback. Decisions about one data set follow one another without a known end, each on the same
patches. The i-th that compares candidates with a champion may err with probability α γᵢ, one-sided, and Σ γᵢ = 1, so
that all of them together promote an equal model with probability α at most (alpha-spending; Foster & Stine 2008, JRSS B
70:429-444). One that promotes hands its error on to the next one (online fallback; Tian & Ramdas 2021, Statistical
Methods in Medical Research 30:976-993), so that a row of true improvements is not held back; errors are never added up
over true ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

ALPHA = 0.025
"""The one-sided error of all decisions about a task on one data set."""

FIRST = 0.8
"""The first decision's share γ₁. The power of a test falls by less than its level does (a power function is concave in
the level), so that the first decision keeps over 80 % of the power of one that has the whole error to itself."""


@dataclass(frozen=True)
class Spent:
    """An earlier decision: the hash of its question, the error it could spend, and what it handed on to the next.

    `error` is None where it is not known, as of decisions before errors were counted. `handed_on` is 0 for a decision
    that did not promote.
    """

    question: str
    error: float | None
    handed_on: float


def error_share(number: int) -> float:
    """The share γ of the total error for decision `number`, from 1 on: 0.8 for 1, then 0.2 · 6 / π² / (number - 1)²."""
    if number == 1:
        return FIRST
    return (1 - FIRST) * 6 / math.pi**2 / (number - 1) ** 2


def error_of(question: str, earlier: Sequence[Spent]) -> float:
    """The one-sided error that the decision on a question may spend after `earlier` ones, the first one first.

    A question that was decided before keeps its error and spends nothing anew. `earlier` has each question once.
    """
    for one in earlier:
        if one.question == question and one.error is not None:
            return one.error
    others = [one for one in earlier if one.question != question]
    return ALPHA * error_share(len(others) + 1) + (others[-1].handed_on if others else 0.0)
