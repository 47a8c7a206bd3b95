"""Servers that are away when a command starts: one line within thirty seconds, in which no password is."""

import time

import mlflow
import pytest
from support_servers import Answering, Silent

from mammo_mlflow import servers
from mammo_mlflow.errors import UserError
from mammo_mlflow.search.storage import check_address
from mammo_mlflow.tracking.store import check_store, open_store

HTML = b"<html>hello</html>"


@pytest.fixture
def given(tmp_path, monkeypatch):
    """Tells MLflow of a tracking store, or of a registry."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mlflow.tracking._tracking_service.utils, "_tracking_uri", None)
    monkeypatch.setattr(mlflow.tracking._model_registry.utils, "_registry_uri", None)
    return lambda uri, variable="MLFLOW_TRACKING_URI": monkeypatch.setenv(variable, uri)


@pytest.fixture
def soon(monkeypatch):
    """Servers have little time to answer."""
    monkeypatch.setattr(servers, "ANSWER_SECONDS", 1.0)


def line(ask, within=5):
    """The line of a refusal, which comes in time."""
    began = time.monotonic()
    with pytest.raises(UserError) as raised:
        ask()
    assert time.monotonic() - began < within
    said = str(raised.value)
    assert "\n" not in said
    assert "geheim" not in said
    return said


def test_no_command_waits_longer_than_half_a_minute():
    assert servers.ANSWER_SECONDS <= 10  # beside what a command takes to start


@pytest.mark.parametrize("variable", ["MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"])
@pytest.mark.parametrize(
    ("server", "found"),
    [
        (Silent(), "no answer within 1 s"),
        (Answering(503), "status 503 (Service Unavailable)"),
        (Answering(500, b'{"error": 1}', "application/json"), "status 500"),
        (Answering(302), "status 302"),
        (Answering(404, b"{}", "application/json"), "status 404"),
        (Answering(200, HTML), "text/html, which is not what MLflow answers"),
        (Answering(200, b"[]", "application/json"), "not what MLflow answers"),
        (Answering(401), "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD say who it is"),
        (Answering(403, b"Invalid Host header"), "Invalid Host header"),
    ],
    ids=["silent", "503", "500", "redirect", "404", "html", "list", "401", "403"],
)
def test_a_server_that_is_no_mlflow_server(given, tmp_path, soon, variable, server, found):
    with server as address:
        given(f"http://me:geheim@{address}", variable)
        for ask in (check_store, open_store):
            said = line(ask)
            assert said.startswith("tracking store" if "TRACKING" in variable else "model registry")
            assert found in said
    assert list(tmp_path.iterdir()) == []  # nor was the other store made


@pytest.mark.parametrize("uri", ["http://me:geheim@127.0.0.1:1", "https://me:geheim@127.0.0.1:1"])
def test_a_server_that_refuses(given, uri):
    given(uri)
    assert "Connection refused" in line(check_store)


def test_a_name_that_does_not_exist(given, soon):
    given("http://me:geheim@no-such-host.invalid:5000")
    assert "no-such-host.invalid" in line(check_store)


def test_databases_that_do_not_answer(given, soon):
    pytest.importorskip("psycopg", reason="needs psycopg: pip install 'mammo-mlflow[postgresql]'")
    with Silent() as address:
        uri = f"postgresql://me:geheim@{address}/runs"
        given(uri)
        assert "no answer within 1 s" in line(check_store)
        assert "no answer within 1 s" in line(lambda: check_address(uri))
    for uri in ("postgresql://me:geheim@127.0.0.1:1/runs", "postgresql://me:geheim@no-such-host.invalid/runs"):
        given(uri)
        assert "127.0.0.1:1" in (said := line(check_store)) or "no-such-host" in said
        assert line(lambda uri=uri: check_address(uri)).startswith("storage: ")


def test_an_own_address_that_looks_like_none(given):
    given("http://")
    assert line(check_store).startswith("tracking store")
