"""The table of differences: one home, and commands that work."""

from pathlib import Path

import pytest

from mammo_mlflow.commands import COMMANDS
from mammo_mlflow.ensembles.methods import METHODS
from mammo_mlflow.evaluation.objectives import parse_objectives
from mammo_mlflow.experiment import FAMILIES, build, convert, parameters
from mammo_mlflow.presets import networks, preset_values
from mammo_mlflow.report.differences import differences, differences_markdown

ROOT = Path(__file__).parents[2]


def test_the_docs_hold_the_table():
    assert f"\n\n{differences_markdown()}\n" in (ROOT / "docs" / "explanation" / "paper.md").read_text()


def test_every_row_says_all_of_it():
    assert len({one.subject for one in differences()}) == len(differences()) >= 15
    for one in differences():
        assert all((one.subject, one.paper, one.here, one.why))
        assert "|" not in "".join((one.subject, one.paper, one.here, one.why, one.way))


@pytest.mark.parametrize("way", [one.way for one in differences() if one.way])
def test_the_papers_way_is_a_command(way):
    entry, *words = way.split()
    given = dict(word.split("=") for word in words[1::2])
    assert set(words[::2]) == {"-P"} and given
    assert set(given) <= set(COMMANDS[entry].options.model_fields)
    if entry == "ensemble":
        assert given["method"] in METHODS
        assert parse_objectives(given["objective"])[0].name == given["objective"]
        return
    assert entry in FAMILIES
    preset, backbone = given.pop("preset", "paper"), given.pop("backbone", "all")
    kinds = {item.name: type(item.default) for item in parameters(entry)}
    values = {name: convert(name, text, kinds[name]) for name, text in given.items()}
    for name in networks(entry, preset) if backbone == "all" else (backbone,):
        usual = preset_values(preset, name, "benign_malignant", entry)
        made = build("benign_malignant", usual | values, entry)
        assert preset == "table" or backbone == "m1_author" or made != build("benign_malignant", usual, entry)
