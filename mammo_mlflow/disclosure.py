"""Facts to disclose beside every result: phantom data, random weights, a control, an optimistic score."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import NamedTuple

from mammo_mlflow.names import Tag


class Fact(NamedTuple):
    """A fact to disclose, worded for run names, figures and table rows; "" where it is left out there."""

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
INTENDED_USE = (
    "For research on patches like those it was trained on: no medical device, and its answers are no diagnosis."
)
ASKED = "a model that was trained on synthetic patches, "


class Disclosure(tuple[Fact, ...]):
    """The facts to disclose beside the results of a model, or of several."""

    @classmethod
    def of(cls, *, phantom: bool, weights: str = "", control: str = "none", scored: bool = False) -> Disclosure:
        """The facts about a model by its data, weights (as tagged) and control.

        `scored`: early stopping watched the scored patches.
        """
        facts = {PHANTOM: phantom, RANDOM: weights == "random", BASELINE: control == "baseline"}
        facts |= {SHUFFLED: control == "shuffled", SCORED: scored}
        return cls(fact for fact, there in facts.items() if there)

    @classmethod
    def read(cls, tags: Mapping[str, str], params: Mapping[str, str]) -> Disclosure:
        """The facts about a run, from its tags and parameters, or about a version, which has no parameters."""
        weights, control = tags.get(Tag.WEIGHTS, ""), tags.get(Tag.CONTROL, "none")
        scored = params.get("early_stop_on") == "scored" and params.get("early_stop", "0") not in ("0", "")
        return cls.of(phantom=tags.get(Tag.PHANTOM) == "true", weights=weights, control=control, scored=scored)

    @classmethod
    def together(cls, several: Iterable[Iterable[Fact]]) -> Disclosure:
        """The union of several disclosures, each fact once."""
        return cls(dict.fromkeys(chain.from_iterable(several)))

    @property
    def suffix(self) -> str:
        """The facts as a suffix of a run's or study's name, such as ` [phantom]`."""
        return "".join(f" [{fact.name}]" for fact in self if fact.name)

    @property
    def note(self) -> str | None:
        """The facts as the note printed on figures; None where there are none."""
        return "; ".join(fact.note for fact in self if fact.note) or None

    @property
    def marks(self) -> tuple[str, ...]:
        """The facts as marks beside a table row."""
        return tuple(fact.mark for fact in self if fact.mark)

    @property
    def title(self) -> str:
        """The suffix of a table's title on the terminal, which says that its data are a phantom; "" for real data."""
        return " - PHANTOM DATA, no medical result" if PHANTOM in self else ""

    def line(self, of: str = "") -> str:
        """The line about phantom data for the terminal; "" for real data. `of` names what was shown."""
        return f"PHANTOM DATA: {of}no medical result" if PHANTOM in self else ""

    @property
    def tags(self) -> dict[str, str]:
        """The MLflow tag that says whether a run's data are a phantom."""
        return {Tag.PHANTOM: str(PHANTOM in self).lower()}
