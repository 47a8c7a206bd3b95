"""What is used of MLflow, Optuna and Keras, and may go with any version, is there; else a failure names the version."""

import ast
import importlib
from importlib.metadata import version

import optuna
import pytest
from support import ROOT, syntax_tree

SOURCES = sorted((ROOT / "mammo_mlflow").rglob("*.py"))
UNDOCUMENTED = ("mlflow.store", "mlflow.utils", "mlflow.protos", "mlflow.pyfunc.scoring_server", "optuna.storages._")
"""How modules begin that their library does not document."""
NO_LIBRARY = {"_exit", "_replace", "_gamma"}
"""Names that are documented, or those of others: `os._exit`, `namedtuple._replace`, scikit-learn's `SVC._gamma`."""


def made():
    """An object of each kind of Optuna's whose private names are used, by these names."""
    study = optuna.create_study()
    study.enqueue_trial({"x": 1.0})
    trial = study.ask()
    trial.suggest_float("x", 0, 2)
    (stored,) = study.trials
    return {
        "_storage": study,
        "_study_id": study,
        "_get_trials": study,
        "_trial_id": trial,
        "_values": stored,
        "_contains": stored.distributions["x"],
    }


def imported():
    """The names that modules import from undocumented ones."""
    found = set()
    for path in SOURCES:
        for node in ast.walk(syntax_tree(path)):
            if isinstance(node, ast.ImportFrom):
                found |= {(node.module, one.name) for one in node.names if node.module.startswith(UNDOCUMENTED)}
    return sorted(found)


def private():
    """The private attributes of objects of others that modules use."""
    used, own = set(), set()
    for path in SOURCES:
        for node in ast.walk(syntax_tree(path)):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                own.add(node.name)
            elif isinstance(node, ast.Attribute) and node.attr[0] == "_" and node.attr[:2] != "__":
                used.add(node.attr)
                if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
                    own.add(node.attr)
    return used - own - NO_LIBRARY


def need(there, library, name):
    """Fail unless it is there, with the version in which it is not."""
    assert there, f"{library} {version(library)} has no {name}, which mammo_mlflow uses: see what became of it there"


@pytest.mark.parametrize(("module", "name"), imported())
def test_what_mlflow_does_not_document_is_there(module, name):
    try:
        there = hasattr(importlib.import_module(module), name) or importlib.import_module(f"{module}.{name}")
    except ImportError:
        there = False
    need(there, "mlflow", f"{module}.{name}")


@pytest.mark.parametrize("name", ["_get_alembic_config", "_upgrade_db"])
def test_what_mlflow_upgrades_stores_by_is_there(name):
    need(hasattr(importlib.import_module("mlflow.store.db.utils"), name), "mlflow", f"mlflow.store.db.utils.{name}")


@pytest.mark.parametrize(("name", "one"), made().items())
def test_private_attributes_of_optuna_are_there(name, one):
    need(hasattr(one, name), "optuna", f"{type(one).__name__}.{name}")


def test_private_attributes_of_keras_are_there(keras):
    layer = keras.layers.Dense(1)
    model = keras.Sequential([keras.Input((2,)), layer])
    need(layer._inbound_nodes, "keras", "Layer._inbound_nodes")
    need(layer in model._flatten_layers(), "keras", "Model._flatten_layers")


def test_no_other_private_attribute_is_used():
    known = {"_get_alembic_config", "_upgrade_db", "_flatten_layers", "_inbound_nodes"}
    assert private() - {*made()} == known
