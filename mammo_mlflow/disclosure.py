"""What has to be said wherever a figure is shown: that data are no patients', weights random, a score optimistic."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import NamedTuple

from mammo_mlflow.names import Tag


class Fact(NamedTuple):
    """One thing to say: in names of runs, on figures, and beside rows of tables; "" where it is not said."""

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
BANNER = "Every figure on this page is of synthetic patches: no medical result."
ASKED = "a model that was trained on synthetic patches, "


class Disclosure(tuple[Fact, ...]):
    """All that has to be said of a model, or of several."""

    @classmethod
    def of(cls, *, phantom: bool, weights: str = "", control: str = "none", scored: bool = False) -> Disclosure:
        """What is to be said of such data, weights (as in the tag) and control; `scored`: early stopping watched it."""
        facts = {PHANTOM: phantom, RANDOM: weights == "random", BASELINE: control == "baseline"}
        facts |= {SHUFFLED: control == "shuffled", SCORED: scored}
        return cls(fact for fact, there in facts.items() if there)

    @classmethod
    def read(cls, tags: Mapping[str, str], params: Mapping[str, str]) -> Disclosure:
        """What is to be said of a run, or of a version, which has no parameters."""
        weights, control = tags.get(Tag.WEIGHTS, ""), tags.get(Tag.CONTROL, "none")
        scored = params.get("early_stop_on") == "scored" and params.get("early_stop", "0") not in ("0", "")
        return cls.of(phantom=tags.get(Tag.PHANTOM) == "true", weights=weights, control=control, scored=scored)

    @classmethod
    def together(cls, several: Iterable[Iterable[Fact]]) -> Disclosure:
        """All that is to be said of any of them, each fact once."""
        return cls(dict.fromkeys(chain.from_iterable(several)))

    @property
    def suffix(self) -> str:
        """What ends the name of a run or study."""
        return "".join(f" [{fact.name}]" for fact in self if fact.name)

    @property
    def note(self) -> str | None:
        """What a figure says below its title."""
        return "; ".join(fact.note for fact in self if fact.note) or None

    @property
    def marks(self) -> tuple[str, ...]:
        """What stands beside a row of a table."""
        return tuple(fact.mark for fact in self if fact.mark)

    @property
    def title(self) -> str:
        """What ends the title of a table on the terminal."""
        return " - PHANTOM DATA, no medical result" if PHANTOM in self else ""

    def line(self, of: str = "") -> str:
        """The line of it on the terminal, `of` what was shown; "" where there is nothing to say."""
        return f"PHANTOM DATA: {of}no medical result" if PHANTOM in self else ""

    @property
    def tags(self) -> dict[str, str]:
        """What tells of the data on any run."""
        return {Tag.PHANTOM: str(PHANTOM in self).lower()}
