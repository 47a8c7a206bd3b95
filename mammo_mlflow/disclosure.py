"""What has to be said wherever a result is shown: phantom data, random weights, a control, an optimistic score."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import NamedTuple

from mammo_mlflow.names import Tag


class Fact(NamedTuple):
    """One thing to say, in words for names of runs, for figures and for rows of tables; "" where it is not said."""

    name: str
    note: str
    mark: str


PHANTOM = Fact("phantom", "phantom data: no medical result", "phantom data")
RANDOM = Fact("random weights", "random weights", "random weights")
# of controls the name of a run says more, and says it before all this
BASELINE = Fact("", "control: baseline patches alone", "")
SHUFFLED = Fact("", "control: shuffled labels", "")
SCORED = Fact("", "early stopping watched the scored patches: optimistic", "optimistic validation")
CHOSEN_ON_TEST = Fact("", "", "optimistic")
BANNER = "Every number on this page is of synthetic patches: no medical result."
ASKED = "a model that was trained on synthetic patches, "


class Disclosure(tuple[Fact, ...]):
    """All facts that have to be said of a model, or of several."""

    @classmethod
    def of(cls, *, phantom: bool, weights: str = "", control: str = "none", scored: bool = False) -> Disclosure:
        """The facts of such data, weights (as tagged) and control. `scored`: early stopping watched what is scored."""
        facts = {PHANTOM: phantom, RANDOM: weights == "random", BASELINE: control == "baseline"}
        facts |= {SHUFFLED: control == "shuffled", SCORED: scored}
        return cls(fact for fact, there in facts.items() if there)

    @classmethod
    def read(cls, tags: Mapping[str, str], params: Mapping[str, str]) -> Disclosure:
        """The facts of a run, by its tags and parameters, or of a version, which has no parameters."""
        weights, control = tags.get(Tag.WEIGHTS, ""), tags.get(Tag.CONTROL, "none")
        scored = params.get("early_stop_on") == "scored" and params.get("early_stop", "0") not in ("0", "")
        return cls.of(phantom=tags.get(Tag.PHANTOM) == "true", weights=weights, control=control, scored=scored)

    @classmethod
    def together(cls, several: Iterable[Iterable[Fact]]) -> Disclosure:
        """The facts of all of them, each once."""
        return cls(dict.fromkeys(chain.from_iterable(several)))

    @property
    def suffix(self) -> str:
        """The facts as the end of a run's or study's name, ` [phantom]`."""
        return "".join(f" [{fact.name}]" for fact in self if fact.name)

    @property
    def note(self) -> str | None:
        """The facts as a figure says them below its title; None where there are none."""
        return "; ".join(fact.note for fact in self if fact.note) or None

    @property
    def marks(self) -> tuple[str, ...]:
        """The facts as they stand beside a row of a table."""
        return tuple(fact.mark for fact in self if fact.mark)

    @property
    def title(self) -> str:
        """The end of a table's title on the terminal: whether its data are a phantom."""
        return " - PHANTOM DATA, no medical result" if PHANTOM in self else ""

    def line(self, of: str = "") -> str:
        """The terminal's line about phantom data, `of` what was shown; "" for real data."""
        return f"PHANTOM DATA: {of}no medical result" if PHANTOM in self else ""

    @property
    def tags(self) -> dict[str, str]:
        """The tags that say on any run whether its data are a phantom."""
        return {Tag.PHANTOM: str(PHANTOM in self).lower()}
