"""Time left of `reproduce`: what steps of the same kind took, else relative costs scaled by the steps seen so far."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import geometric_mean, median, pstdev

Row = tuple[float, float]
"""Relative costs of a kind of step: the first of its kind, which computes activations, and another one."""

SMALL: dict[str, Row] = {
    "scratch": (1, 1),  # one network, held out once
    "scratch m1_10fold": (2.5, 2.5),
    "pretrained": (3.5, 3.5),
    "pretrained 1": (4.5, 4.5),
    "siamese": (1.5, 1.5),
    "siamese 1": (2.5, 2.5),
    "ensemble": (1, 1),
    "conditioned": (3.5, 3.5),
    "controls": (3, 3),
    "report": (1, 1),
}
"""Costs with `scale=small`, where starting and compiling weigh most: half a minute each on two cores."""

PROCESSOR: dict[str, Row] = {
    "scratch": (190, 190),  # five settings, one of them with ten folds
    "pretrained": (50, 5),  # three backbones
    "pretrained 1": (140, 110),
    "siamese scratch": (90, 90),
    "siamese": (16, 2),
    "siamese 1": (45, 40),
    "ensemble": (2, 2),
    "conditioned": (6, 6),
    "controls": (8, 6),
    "report": (1, 1),
}
"""Costs with `scale=full` on the processor, about minutes on two cores: trained convolutions take nearly all.

Worked out from what fits and activations take (docs/benchmarks.md); whole steps were not measured.
"""

CARD: dict[str, Row] = {
    "scratch": (200, 200),
    "pretrained": (100, 80),
    "pretrained 1": (165, 150),
    "siamese scratch": (80, 80),
    "siamese": (45, 35),
    "siamese 1": (60, 55),
    "ensemble": (60, 60),  # models are asked on the processor
    "conditioned": (80, 80),
    "controls": (70, 60),
    "report": (20, 20),
}
"""Costs with `scale=full` on a card, about seconds on an H200: starting and compiling weigh as much as training.

Worked out from a few commands of one network each that were measured: 23 to 43 s frozen, 55 s with a convolution
unfrozen, 80 s from scratch.
"""

KNOWN, RELATED = 1.2, 2.0
"""By what factor a step may take longer, or less long, than one of its kind, and than its cost beside its command's."""
UNKNOWN = {1: 3.0, 2: 2.0, 3: 2.0}
"""The same of a command that was not seen, at least, by the number of commands that were."""
UNKNOWN_LATER = 1.5
"""The same where more commands were seen."""
CLOSE, FAR, SHORT = 1.5, 6.0, 600.0
"""Ends of a range by the first factor apart are told as one number, by the second not at all: but an upper end of so
few seconds is told alone.
"""


@dataclass(frozen=True)
class Cost:
    """The kind of a step, and its cost relative to other steps."""

    kind: str
    cost: float


def costs_of(kinds: Iterable[Sequence[str]], table: Mapping[str, Row]) -> list[Cost]:
    """The costs of steps in their order, by a table; each step is given by the words of its kind, the command first.

    The row is that of all words, else of the command with the last of them, else of the command alone.
    """
    found: list[Cost] = []
    usual = median(first for first, _ in table.values())
    for words in kinds:
        kind = " ".join(words)
        row = next((table[key] for key in (kind, f"{words[0]} {words[-1]}", words[0]) if key in table), (usual, usual))
        found.append(Cost(kind, row[any(one.kind == kind for one in found)]))
    return found


@dataclass(frozen=True)
class TimeLeft:
    """The time left of steps, by their number from 1 on, from the seconds that others took.

    `costs`: of each step; `before`: seconds of steps that earlier commands ran on the same devices; `now`: those of
    this command, which count more.
    """

    costs: Sequence[Cost]
    before: Mapping[int, float] = field(default_factory=dict)
    now: dict[int, float] = field(default_factory=dict)

    def took(self, number: int, seconds: float) -> None:
        """Take note of what a step took."""
        self.now[number] = max(seconds, 0.01)

    def bounds(self, left: Collection[int]) -> tuple[float, float] | None:
        """The least and the most seconds that the steps `left` will take; None where no step was seen."""
        seen = self._seen()
        if not seen:
            return None
        paces = self._paces(seen)
        low = high = 0.0
        for number in left:
            least, most = self._step(number, seen, paces)
            low, high = low + least, high + most
        return low, high

    def words(self, left: Collection[int]) -> str:
        """The time left in words: a range where little is known, "" where next to nothing is."""
        found = self.bounds(left) if left else None
        low, high = found or (0.0, math.inf)
        if high < 60:
            return "less than a minute left"
        if high > FAR * low:
            return f"less than {_number(high / 60)} min left" if high < SHORT else ""
        if high <= CLOSE * low:
            low = high = math.sqrt(low * high)
        size, unit = next((pair for pair in _UNITS if high >= 1.5 * pair[0]), _UNITS[-1])
        ends = dict.fromkeys(_number(max(end, 60) / size) for end in (low, high))
        return f"about {' to '.join(ends)} {unit} left"

    def _seen(self) -> dict[int, float]:
        """The seconds of all steps seen, those of an earlier command brought to this one's speed."""
        both = [number for number in self.now if number in self.before]
        speed = sum(self.now[one] for one in both) / sum(self.before[one] for one in both) if both else 1.0
        return {number: seconds * speed for number, seconds in self.before.items()} | self.now

    def _paces(self, seen: Mapping[int, float]) -> dict[str, float]:
        """The seconds that a cost of 1 takes, by command."""
        sums: dict[str, tuple[float, float]] = {}
        for number, seconds in seen.items():
            command = self._command(number)
            total, cost = sums.get(command, (0.0, 0.0))
            sums[command] = total + seconds, cost + self._cost(number)
        return {command: total / cost for command, (total, cost) in sums.items()}

    def _step(self, number: int, seen: Mapping[int, float], paces: Mapping[str, float]) -> tuple[float, float]:
        """The least and the most seconds of a step."""
        cost, command = self._cost(number), self._command(number)
        alike = {one: seconds for one, seconds in seen.items() if self._kind(one) == self._kind(number)}
        if alike:
            # whether the one before had activations to compute that this one finds cannot be told
            scaled = [seconds * cost / self._cost(one) for one, seconds in alike.items()]
            return min(*scaled, *alike.values()) / KNOWN, max(*scaled, *alike.values()) * KNOWN
        if command in paces:
            return paces[command] * cost / RELATED, paces[command] * cost * RELATED
        pace = geometric_mean(paces.values())
        apart = math.exp(pstdev(math.log(one) for one in paces.values()))  # as far as those that were seen
        reach = max(apart, UNKNOWN.get(len(paces), UNKNOWN_LATER))
        return pace * cost / reach, pace * cost * reach

    def _command(self, number: int) -> str:
        return self._kind(number).split()[0]

    def _kind(self, number: int) -> str:
        return self.costs[number - 1].kind

    def _cost(self, number: int) -> float:
        return self.costs[number - 1].cost


_UNITS = ((86_400.0, "days"), (3600.0, "h"), (60.0, "min"))


def _number(value: float) -> str:
    """A number for people: whole from 10 on, else with a digit behind the point where that is no 0."""
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}".removesuffix(".0")
