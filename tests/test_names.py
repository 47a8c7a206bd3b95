"""Every name in the store is declared once, and told in the documentation as it is declared."""

import ast
import inspect
import re
import runpy
from functools import cache
from pathlib import Path

import pytest

from mammo_mlflow import names
from mammo_mlflow.names import Artifact, registered_name
from mammo_mlflow.tracking.vetting import SERVED_CODE

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mammo_mlflow"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "names.py")
TABLES = runpy.run_path(str(ROOT / "scripts" / "name_tables.py"))
STRAY = re.compile(r"\bmammo\.[a-z]|\bmammo-(?!mlflow)")


@cache
def literals(source):
    """The texts of a module that are no docstrings, and no names of lock files."""
    tree = ast.parse(source)
    told, found = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr) and ".lock" in ast.unparse(node):
            told |= {id(part) for part in node.values}
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in told:
            found.append(node.value)
    return found


def strays(source):
    return [text for text in literals(source) if STRAY.search(text)]


def test_no_module_spells_a_name_of_the_store():
    assert len(MODULES) > 100
    found = {str(path.relative_to(ROOT)): strays(path.read_text(encoding="utf-8")) for path in MODULES}
    assert {path: texts for path, texts in found.items() if texts} == {}


def test_no_module_spells_a_file_of_the_store():
    files = {value for key, value in vars(Artifact).items() if key.isupper() and "." in value}
    for path in set(MODULES) - set(SERVED_CODE.values()):  # which run without this package
        assert not files & set(literals(path.read_text(encoding="utf-8"))), path


@pytest.mark.parametrize(
    "line", ['x = {"mammo.task": 1}', "f\"tags.`mammo.key` = '{key}'\"", 'f"mammo-{task}-vgg16"', 'f("mammo-x")']
)
def test_a_name_that_is_spelled_is_found(line):
    assert strays(f"y = {line}" if line.startswith("f") else line)


def test_docstrings_and_locks_are_no_names():
    assert not strays('"""`mammo.task`."""\nx = 1\n"""`mammo-<task>`"""\ny = f"mammo-{x}.lock"')


def test_the_documented_tables_are_those_of_the_declared_names():
    page = TABLES["PAGE"].read_text(encoding="utf-8")
    assert TABLES["filled"](page) == page, "run python scripts/name_tables.py"
    for kind, declared in inspect.getmembers(names, inspect.isclass):
        told = [name for row, _ in TABLES["rows"](kind) for name in row]
        assert told == [value for key, value in vars(declared).items() if key.isupper()]
        assert f"<!-- names: {kind} -->" in page


def test_a_registered_name_is_made_of_what_there_is():
    assert registered_name("mass_calc") == "mammo-mass_calc"
    assert (
        registered_name("mass_calc", "pretrained", "vgg16", "", "shuffled")
        == "mammo-mass_calc-pretrained-vgg16-shuffled"
    )
