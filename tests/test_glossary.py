"""One word, one meaning: docs/glossary.md and the public names of the package tell the same story."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest
from support import syntax_tree

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mammo_mlflow"
SHIPPED = "ensembles.served"  # inside registered models: its names cannot follow


def module_name(path):
    """`search.study` of a module, `evaluation.figures` of a folder."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): syntax_tree(path) for path in PACKAGE.rglob("*.py")}
CLASSES = {
    f"{module}.{node.name}"
    for module, tree in MODULES.items()
    for node in tree.body
    if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
}


def read_table(text):
    """The words of each row, and the names in its last column."""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split(" | ")]
        if line.startswith("|") and len(cells) == 3 and cells[0] != "word":
            yield cells[0].split(", "), re.findall(r"`([^`]+)`", cells[2])


ROWS = list(read_table((ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")))


def defined(body):
    """The names that statements define: classes, functions, constants, fields."""
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name, node
        for target in getattr(node, "targets", [getattr(node, "target", None)]):
            for name in ast.walk(target) if target is not None else ():
                if isinstance(name, ast.Name):
                    yield name.id, node


def exists(name):
    """Whether a dotted name is a module, something that a module defines, or something that a class there does."""
    if name in MODULES:
        return True
    module, _, last = name.rpartition(".")
    if module in MODULES:
        return last in dict(defined(MODULES[module].body))
    outer, _, kind = module.rpartition(".")
    found = dict(defined(MODULES[outer].body)).get(kind) if outer in MODULES else None
    return isinstance(found, ast.ClassDef) and last in dict(defined(found.body))


def shared_names(classes):
    """The names that several classes have, with where they are."""
    found = defaultdict(list)
    for one in sorted(classes):
        module, _, name = one.rpartition(".")
        if module != SHIPPED:
            found[name].append(module)
    return {name: modules for name, modules in found.items() if len(modules) > 1}


def singular(word):
    """`Patches` and `patch` are the same word."""
    word = word.lower()
    if word.endswith("ies"):
        return f"{word[:-3]}y"
    return word[:-2] if word.endswith(("ches", "xes")) else word.removesuffix("s")


def not_in_their_row(classes, rows):
    """The classes that end in a word of the glossary whose row names neither them nor their module or folder."""
    named = {singular(word.split()[-1]): names for words, names in rows for word in words}
    for one in sorted(classes):
        word = singular(re.findall("[A-Z][a-z0-9]*|[A-Z]+(?=[A-Z]|$)", one)[-1])
        if word in named and not any(f"{one}.".startswith(f"{name}.") for name in named[word]):
            yield f"{one} ends in '{word}'"


def test_what_the_glossary_says_is_in_the_code_is_there():
    assert len(ROWS) > 20
    assert [name for _, names in ROWS for name in names if not exists(name)] == []
    assert [words for words, names in ROWS if not names] == []


def test_no_word_has_two_rows():
    words = [word for row, _ in ROWS for word in row]
    assert sorted(words) == sorted(set(words))


def test_no_two_public_classes_share_a_name():
    assert shared_names(CLASSES) == {}


def test_a_class_that_ends_in_a_word_of_the_glossary_stands_in_its_row():
    assert list(not_in_their_row(CLASSES, ROWS)) == []


@pytest.mark.parametrize("name", ["planning.plan.Plam", "planning.plam", "experiment.Experiment.kex", "names.Tag.X"])
def test_a_name_that_is_not_there_is_found(name):
    assert not exists(name)


def test_a_word_for_two_things_is_found():
    assert shared_names({"search.study.Cut", "jobs.contracts.Cut", "jobs.cache.Cache"}) == {
        "Cut": ["jobs.contracts", "search.study"]
    }
    found = list(not_in_their_row({*CLASSES, "report.page.PagePlan", "report.page.OddBoxes"}, ROWS))
    assert found == ["report.page.OddBoxes ends in 'box'", "report.page.PagePlan ends in 'plan'"]
