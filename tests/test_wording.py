"""Problems and addresses in words: one line, no names of Python's, no secret."""

import logging

import pytest

from mammo_mlflow import errors
from mammo_mlflow.errors import UserError, how_to_install
from mammo_mlflow.wording import NO_SECRETS, first_line, in_words, reason, scrubbed


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:geheim@host:5000/#/runs", "http://host:5000/#/runs"),
        ("at https://me:ge@heim@host, say", "at https://host, say"),
        ("postgresql+psycopg://me:ge/heim@host/db", "postgresql+psycopg://host/db"),
        ("postgresql:/me:geheim@host/db", "postgresql:/host/db"),
        ("mysql://host/db?user=me&password=geheim&ssl=1", "mysql://host/db?user=me&password=***&ssl=1"),
        ('{"a":"http://host:1","b":"x@y"}', '{"a":"http://host:1","b":"x@y"}'),
        ("http://host:5000/#/runs/a@b", "http://host:5000/#/runs/a@b"),
        ("models:/mammo-mass_calc@champion", "models:/mammo-mass_calc@champion"),
        ("s3://bucket/a@b", "s3://bucket/a@b"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
        ("lr=0.1 a@b", "lr=0.1 a@b"),
    ],
)
def test_what_is_shown_of_an_address(text, shown):
    assert scrubbed(text) == shown


def test_a_password_outside_its_address():
    assert scrubbed("no port 'ge heim'", "postgresql://me:ge%20heim@host/db") == "no port '***'"


def test_a_cut_does_not_leave_half_a_password():
    assert "geh" not in first_line("x http://me:geheim@host", most=16)


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (ValueError("no rows\nTraceback"), "an unexpected value error: no rows"),
        (KeyError(), "an unexpected key error"),
        (MemoryError(), "out of memory"),
        (KeyboardInterrupt(), "interrupted"),
        (SystemExit(143), "interrupted"),
        (PermissionError(13, "Permission denied", "mlruns"), "mlruns: Permission denied"),
        (UserError("folds: expected 2, found 1"), "folds: expected 2, found 1"),
        (RuntimeError("http://me:geheim@host"), "an unexpected runtime error: http://host"),
    ],
)
def test_a_reason_is_in_words(problem, words):
    assert reason(problem) == words


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("ValueError: no rows", "an unexpected value error: no rows"),
        ("keras.src.errors.LayerError: shape", "an unexpected layer error: shape"),
        ("AssertionError", "an unexpected assertion error"),
        ("fold 1: its process ended without an answer", "fold 1: its process ended without an answer"),
    ],
)
def test_the_last_line_of_a_traceback_in_words(line, words):
    assert in_words(line) == words


def test_a_log_line_loses_its_secrets(caplog):
    record = logging.LogRecord("a", logging.INFO, "", 0, "at %s", ("http://me:geheim@host",), None)
    assert NO_SECRETS.filter(record)
    assert record.getMessage() == "at http://host"


def test_how_an_extra_is_installed_works_where_the_package_lies(tmp_path, monkeypatch):
    monkeypatch.setattr(errors, "_CLONE", tmp_path)
    assert how_to_install("mammo-mlflow[gp]") == "pip install 'mammo-mlflow[gp]'"
    (tmp_path / "pyproject.toml").touch()
    assert how_to_install("mammo-mlflow[gp]") == f"pip install -e '{tmp_path}[gp]'"
    monkeypatch.chdir(tmp_path)
    assert how_to_install("mammo-mlflow[gp]") == "pip install -e '.[gp]'"
    assert how_to_install("pymysql") == "pip install pymysql"
