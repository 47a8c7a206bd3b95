from __future__ import annotations

import ast
import pickle
from pathlib import Path

import numpy as np
import pytest

from mammo_mlflow import level1
from mammo_mlflow.ensembles.stackers import STACKERS
from mammo_mlflow.level1 import Combiner, load


def test_it_imports_numpy_alone():
    tree = ast.parse(Path(level1.__file__).read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {f"{'.' * n.level}{n.module}" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert names == {"__future__", "collections.abc", "dataclasses", "numpy", "numpy.typing", "os", "zipfile"}


def test_weight_one_is_that_member(made):
    p = made().probabilities
    np.testing.assert_allclose(Combiner("weights", {"weights": np.array([0.0, 1, 0])}).predict(p), p[:, 1], atol=1e-7)
    thirds = Combiner("weights", {"weights": np.full(3, 1 / 3)})
    assert thirds.predict(np.ones((1, 3)))[0] == 1  # and not the next float above


@pytest.mark.parametrize("name", [*STACKERS, "weights"])
def test_saved_and_loaded_it_answers_the_same(name, made, tmp_path):
    data = made()
    fitted = Combiner("weights", {"weights": np.array([0.2, 0.3, 0.5])}, "a note")
    if name in STACKERS:
        fitted = STACKERS[name](data.probabilities, data.labels, data.groups, 0)
    fitted.save(tmp_path / "level1")
    again = load(tmp_path / "level1")
    assert (again.kind, again.note, again.members) == (fitted.kind, fitted.note, 3)
    answers = again.predict(data.probabilities)
    np.testing.assert_array_equal(answers, fitted.predict(data.probabilities))
    assert ((answers >= 0) & (answers <= 1)).all()
    np.testing.assert_allclose(again.predict(data.probabilities[:1])[0], answers[0], atol=1e-12)
    assert again.predict(np.empty((0, 3))).shape == (0,)
    with pytest.raises(ValueError, match=r"^probabilities: expected \(n, 3\), found \(5, 2\)$"):
        again.predict(np.zeros((5, 2)))


def test_blocks_of_rows_change_nothing(made, monkeypatch):
    data = made()
    fitted = [STACKERS[name](data.probabilities, data.labels, data.groups, 0) for name in ("knn", "svm")]
    whole = [one.predict(data.probabilities) for one in fitted]
    monkeypatch.setattr(level1, "BLOCK_ROWS", 7)
    np.testing.assert_allclose([one.predict(data.probabilities) for one in fitted], whole, atol=1e-12)


def test_neighbours_at_equal_distance_share_the_last_places():
    points = {"mean": np.zeros(1), "scale": np.ones(1), "points": np.array([[0.5], [0.4], [0.6], [0.9]])}
    two = Combiner("neighbours", points | {"labels": np.array([1, 1, 0, 0]), "k": np.array(2)})
    assert two.predict([[0.5]])[0] == pytest.approx((1 + 0.5) / 2)


def test_files_that_are_no_level_1_are_refused(tmp_path):
    path = tmp_path / "bad.npz"
    np.savez(path, kind="weights", note="", weights=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        load(path)
    np.save(tmp_path / "lone.npy", np.ones(3))
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "cut").write_bytes(path.read_bytes()[:100])
    (tmp_path / "pickle").write_bytes(pickle.dumps({"weights": [1]}))
    for name in ("lone.npy", "empty", "cut", "pickle"):
        with pytest.raises(ValueError, match=r"allow_pickle|expected a file of arrays"):
            load(tmp_path / name)
    for arrays, line in (
        ({"kind": "other", "note": ""}, "expected a kind of weights, .*, found 'other'"),
        ({"kind": "weights", "note": "", "x": np.ones(2)}, "expected weights, found x"),
        ({"kind": "weights", "note": "", "weights": np.array([np.nan])}, "weights: expected finite numbers"),
        ({"kind": "weights", "note": "", "weights": np.array(["a"])}, "weights: expected finite numbers"),
        ({"weights": np.ones(1)}, "expected kind and note"),
    ):
        np.savez(path, **arrays)
        with pytest.raises(ValueError, match=line):
            load(path)
