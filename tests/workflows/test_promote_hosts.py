"""Promotions from several hosts on one tracking server: one chain of champions."""

import subprocess

import pytest
from mlflow.tracking import MlflowClient
from support import command, environment
from support_promotion import Place, predictions
from support_servers import Host, PostgreSQL, TrackingServer, need_hosts, need_postgresql

from mammo_mlflow.names import Tag

pytestmark = pytest.mark.usefixtures("keras")


@pytest.fixture
def hosts(tmp_path, system):
    """Two hosts in network namespaces, which reach this machine at an address of its own."""
    need_hosts()
    need_postgresql()
    with Host(1) as first, Host(2) as second:
        yield first, second
    Host.clear()


@pytest.fixture
def place(tmp_path, hosts, planted_model, monkeypatch):
    """A tracking server that the hosts reach, over PostgreSQL, with planted candidates."""
    database = PostgreSQL(Host.NETWORK)
    database.start()
    server = TrackingServer(tmp_path, backend=database.make(), host=Host.GATEWAY)
    try:
        server.start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        yield Place(tmp_path, planted_model, server.uri)
    finally:
        server.stop()
        database.remove()


def test_promotions_of_two_hosts_at_once_make_one_chain(place, hosts):
    names = [place.plant(f"model-{number}", predictions(1.0 + number)) for number in range(3)]
    place.promote("--candidate", "mammo-mass_calc-model-0")
    line = command("--task", "mass_calc", name="promote")
    both = [
        subprocess.Popen(
            host.line(*line, "--candidate", f"mammo-mass_calc-model-{number}"),
            cwd=place.where,
            env=environment(place.where, MLFLOW_TRACKING_URI=place.uri, **host.surroundings),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number, host in enumerate(hosts, 1)
    ]
    said = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    waited = [err for _, err in said if "waiting for another command that decides" in err]
    assert len(waited) == 1, said
    assert "mammo-host-" in waited[0]
    champion = place.client.get_model_version_by_alias("mammo-mass_calc", "champion")
    assert champion.tags[Tag.PROMOTED_FROM] == names[2]
    decisions = [outcome for outcome, status in place.decisions() if status == "FINISHED"]
    assert len(decisions) == 3
    # model 1 was promoted between, or came last and did not beat model 2
    assert place.versions == list(range(1, decisions.count("promoted") + 1))
    assert champion.tags[Tag.PREVIOUS] == str(int(champion.version) - 1)
    assert [one.name for one in MlflowClient(place.uri).search_registered_models("name LIKE 'mammo.%'")] == []
