"""The code of the pages that say how things are added fits where its first line says."""

import ast
import importlib
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from mammo_mlflow.commands.base import Command
from mammo_mlflow.evaluation.blends import Blends
from mammo_mlflow.evaluation.objectives import parse_objectives
from mammo_mlflow.evaluation.out_of_fold import OutOfFold
from mammo_mlflow.jobs.executors import Executor
from mammo_mlflow.search.spaces import read_space

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"```(python|yaml)\n# ([\w/.-]+?)(?:: (\w+))?\n(.*?)```", re.DOTALL)
BLOCKS = BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
EXTENDING = [ROOT / "docs" / "extending.md", ROOT / "docs" / "how-to" / "add-family.md"]


@pytest.fixture
def place(monkeypatch):
    """The names of the module that a block is for: a copy, or those of a new one that can be imported."""
    modules = {}

    def find(path):
        name = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        if name not in modules:
            there = (ROOT / path).exists()
            modules[name] = types.ModuleType(name)
            modules[name].__dict__.update(vars(importlib.import_module(name)) if there else {})
            monkeypatch.setitem(sys.modules, name, modules[name])
        return modules[name].__dict__

    return find


def put(blocks, place, monkeypatch):
    """Put blocks of Python where they belong: rows into tables, fields into classes, all else into modules."""
    for path in {path for _, path, _, _ in blocks}:  # before copies stand for any of them
        if (ROOT / path).exists() and path.startswith("mammo_mlflow/"):
            importlib.import_module(path.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
    for language, path, where, code in blocks:
        if language == "yaml" or path.startswith("tests/"):
            continue
        names = place(path)
        table = names.get(where)
        if not where:
            exec(compile(code, path, "exec", dont_inherit=True), names)
        elif isinstance(table, dict):
            key, value = row(code, names)
            assert type(value) in map(type, table.values())
            monkeypatch.setitem(table, key, value)
        else:
            added = dict(names)
            exec(f"class Added({where}):\n" + re.sub("^", "    ", code, flags=re.MULTILINE), added)
            assert [name for name in vars(added["Added"]) if not name.startswith("__")]


def row(code, names):
    """The one row that a block adds to a table, after its imports."""
    imports = "".join(line for line in code.splitlines(keepends=True) if line.startswith("from "))
    exec(imports, names)
    ((key, value),) = eval(f"{{{code.removeprefix(imports)}}}", names).items()
    return key, value


def test_every_block_of_code_says_where_it_belongs():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert len(BLOCKS) == len(re.findall("```(?:python|yaml)\n", text)) > 10


def test_every_block_fits_where_it_belongs(place, monkeypatch):
    put(BLOCKS, place, monkeypatch)
    assert isinstance(place("mammo_mlflow/jobs/executors/__init__.py")["EXECUTORS"]["timed"](1), Executor)
    declared = place("mammo_mlflow/commands/count.py")["COMMAND"]
    assert isinstance(declared, Command)
    assert place("mammo_mlflow/workflows/count.py")[declared.run.partition(":")[2]]


def test_blocks_of_tests_are_classes_of_a_contract():
    for _, path, _, code in (block for block in BLOCKS if block[1].startswith("tests/")):
        (made,) = ast.parse(code).body
        assert made.bases[0].id in {
            node.name for node in ast.parse((ROOT / path).read_text()).body if hasattr(node, "name")
        }


def test_the_search_space_is_read(tmp_path):
    ((_, path, _, code),) = (block for block in BLOCKS if block[0] == "yaml")
    file = tmp_path / Path(path).name
    file.write_text(code.replace("resnet101", "resnet50"))
    assert read_space(file, "pretrained", "resnet50").parameters


@pytest.mark.parametrize("page", EXTENDING, ids=lambda page: page.stem)
def test_what_touches_more_than_one_place_fits_there_too(page, place, monkeypatch, keras):
    text = page.read_text(encoding="utf-8")
    blocks = BLOCK.findall(text)
    assert len(blocks) == len(re.findall("```python\n", text)) >= 4
    put(blocks, place, monkeypatch)
    if page.stem == "add-family":
        encoder = place("mammo_mlflow/models/thumbnail.py")["build_thumbnail"](48)
        assert encoder.output_shape == (None, 64)
        assert place("mammo_mlflow/commands/families.py")["THUMBNAIL"].family == "thumbnail"
        return
    labels, probabilities = np.array([0, 1, 0, 1]), np.array([0.2, 0.9, 0.4, 0.6])
    data = OutOfFold(labels=labels, probabilities=probabilities, folds=np.array([0, 0, 1, 1]))
    assert place("mammo_mlflow/evaluation/gates.py")["informative"](data).passed
    (objective,) = parse_objectives("brier")
    blended = Blends("brier", probabilities[:, None], labels, data.folds).scores(np.ones((1, 1)))
    assert blended.item() == pytest.approx(objective.value(data, 0.0)) == pytest.approx(0.0925)
