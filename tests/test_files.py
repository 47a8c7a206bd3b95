"""Files that are whole or not there, hashes that stay, locks that say who waits."""

from __future__ import annotations

import hashlib
import logging
import threading

import pytest

from mammo_mlflow.errors import UserError
from mammo_mlflow.files import canonical_json, check_writable, json_sha256, locked, sha256, tree_sha256, whole


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_has_its_name_once_it_is_whole(tmp_path):
    target = tmp_path / "out.csv"
    target.write_text("old")
    with whole(target) as part:
        part.write_text("new")
        assert part.suffix == ".csv"  # what libraries tell a format by
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert names(tmp_path) == ["out.csv"]


def test_nothing_stays_of_what_failed(tmp_path):
    target = tmp_path / "out.csv"
    target.write_text("old")
    with pytest.raises(RuntimeError), whole(target) as part:
        part.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert names(tmp_path) == ["out.csv"]


def test_a_folder_is_replaced_by_the_new_one(tmp_path):
    target = tmp_path / "report"
    for name in ("old", "new"):
        with whole(target) as part:
            part.mkdir()
            (part / name).touch()
    assert names(target) == ["new"]
    assert names(tmp_path) == ["report"]


def test_what_a_killed_process_left_goes_where_nobody_else_is_at_work(tmp_path):
    (tmp_path / "entry.partial" / "entry").mkdir(parents=True)
    with whole(tmp_path / "entry", alone=True) as part:
        part.mkdir()
    assert names(tmp_path) == ["entry"]


def test_a_lock_that_is_taken_is_waited_for_or_told(tmp_path, caplog):
    file, order = tmp_path / "lock", []
    caplog.set_level(logging.INFO)

    def second():
        with locked(file, "waiting for the first"):
            order.append("second")

    with locked(file):
        with pytest.raises(UserError, match="taken"), locked(file, UserError("taken")):
            pytest.fail("two processes have a lock")
        thread = threading.Thread(target=second)
        thread.start()
        while "waiting for the first" not in caplog.messages:
            thread.join(0.01)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_hashes_are_those_of_the_keys_that_are_stored(tmp_path):
    assert sha256("a") == sha256(b"a") == hashlib.sha256(b"a").hexdigest()
    assert canonical_json({"b": [1, 2.0], "a": None}) == '{"a":null,"b":[1,2.0]}'
    assert json_sha256({"b": 1, "a": 2}) == sha256('{"a":2,"b":1}')
    (tmp_path / "below").mkdir()
    for name in ("b", "below/a", "note"):
        (tmp_path / name).write_text(name)
    rows = "".join(f"{name}\0{sha256(name)}\0" for name in ("b", "below/a"))
    assert tree_sha256(tmp_path, "note") == sha256(rows) != tree_sha256(tmp_path)


def test_a_folder_that_is_not_there_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match=r"out: expected a place that can be written to, found '.*gone': No such file"):
        check_writable("out", tmp_path / "gone")
