"""Whatever shows a figure says what it is of: on figures, in names of runs, in tables, on pages and the terminal."""

import ast
import re
from pathlib import Path

import pytest
from support import syntax_tree

from mammo_mlflow.disclosure import CHOSEN_ON_TEST, Disclosure
from mammo_mlflow.evaluation import figures
from mammo_mlflow.names import Tag

PACKAGE = Path(__file__).parents[1] / "mammo_mlflow"
MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if not path.is_relative_to(PACKAGE / "evaluation")]
DRAWING = set(figures.__all__) - {"save"} | {"study_figures"}
SILENT = {
    "dry_run.py": "nothing was trained",
    "settings.py": "settings, no results",
    "prepare.py": "counts, whose last line says it",
    "ensemble.py": "the table of methods stands below that of members, whose title says it",
}
"""The modules whose titles say nothing in one table, and why."""

ALL = Disclosure.of(phantom=True, weights="random", control="shuffled", scored=True)


def test_everything_is_said_in_the_words_of_each_place():
    assert ALL.suffix == " [phantom] [random weights]"
    assert ALL.note == (
        "phantom data: no medical result; random weights; control: shuffled labels; "
        "early stopping watched the scored patches: optimistic"
    )
    assert ALL.marks == ("phantom data", "random weights", "optimistic validation")
    assert ALL.title == " - PHANTOM DATA, no medical result"
    assert ALL.line("films that a program drew, ") == "PHANTOM DATA: films that a program drew, no medical result"
    assert ALL.line() == "PHANTOM DATA: no medical result"
    assert ALL.tags == {"mammo.phantom": "true"}
    assert Disclosure.of(phantom=False, control="baseline").note == "control: baseline patches alone"


def test_of_real_data_and_weights_nothing_is_said():
    nothing = Disclosure.of(phantom=False, weights="imagenet")
    assert (nothing.suffix, nothing.note, nothing.marks, nothing.title, nothing.line("x")) == ("", None, (), "", "")
    assert nothing.tags == {"mammo.phantom": "false"}


@pytest.mark.parametrize("params", [{}, {"early_stop_on": "scored", "early_stop": "0"}, {"early_stop_on": "scored"}])
def test_without_early_stopping_nothing_was_watched(params):
    assert Disclosure.read({Tag.PHANTOM: "false"}, params) == ()
    assert Disclosure.read({}, {**params, "early_stop_on": "scored", "early_stop": "3"}).marks == (
        "optimistic validation",
    )


def test_of_several_all_is_said_once():
    real, random = Disclosure.of(phantom=False), Disclosure.of(phantom=False, weights="random")
    assert Disclosure.together([real, random, random, ALL]).marks == (
        "random weights",
        "phantom data",
        "optimistic validation",
    )
    assert Disclosure.together([random, [CHOSEN_ON_TEST]]).marks == ("random weights", "optimistic")


def calls(path, wanted):
    for node in ast.walk(syntax_tree(path)):
        if isinstance(node, ast.Call):
            called = [node, *node.args] if ast.unparse(node.func) == "partial" else [node]
            names = {getattr(one, "attr", getattr(one, "id", "")) for one in [node.func, *called[1:]]}
            if names & wanted:
                yield ast.unparse(node)


def test_every_figure_is_drawn_with_what_has_to_be_said():
    found = [(path.name, call) for path in MODULES for call in calls(path, DRAWING)]
    assert len(found) > 20
    assert [one for one in found if not re.search(r"note\b", one[1])] == []


def test_every_table_of_results_says_it_in_its_title():
    silent = {(path.name, call) for path in MODULES for call in calls(path, {"show_table"}) if ".title" not in call}
    assert {name for name, _ in silent} == set(SILENT)


def test_no_module_has_words_of_its_own_for_it():
    told = re.compile(r"\[phantom|\[random|PHANTOM DATA|phantom data: |control: (?:baseline|shuffled)")
    for path in [*MODULES, *PACKAGE.rglob("*.html")]:
        if path.name != "disclosure.py":
            text = re.sub(r'""".*?"""', "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
            assert not told.search(text), path
