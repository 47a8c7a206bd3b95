"""The lock in the registry: one holder at a time, of hosts that share nothing but the store."""

import subprocess
import sys
import threading
import time

import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from support import environment, wait_for
from support_servers import TrackingServer

from mammo_mlflow.errors import UserError
from mammo_mlflow.tracking import lock as lock_module
from mammo_mlflow.tracking.lock import Lock, alone
from mammo_mlflow.tracking.registry import registered_names

HOST = """
import sys, time
from pathlib import Path
from mlflow.tracking import MlflowClient
from mammo_mlflow.tracking import lock
lock.EXPIRY_SECONDS, lock.RENEW_SECONDS, lock.LOOK_SECONDS = 3.0, 0.5, 0.05
uri, file, times = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
for _ in range(times):
    with lock.alone(MlflowClient(uri), "counted", uri) as held:
        before = int(file.read_text())
        print("in", flush=True)
        time.sleep(0.05 if times > 1 else 600)
        held.check()
        file.write_text(str(before + 1))
"""


@pytest.fixture
def name(request):
    """A lock's name of the test's own."""
    return "".join(letter if letter.isalnum() else "-" for letter in request.node.name)


@pytest.fixture
def soon(monkeypatch):
    """Locks expire within a second."""
    monkeypatch.setattr(lock_module, "EXPIRY_SECONDS", 1.0)
    monkeypatch.setattr(lock_module, "RENEW_SECONDS", 0.2)
    monkeypatch.setattr(lock_module, "LOOK_SECONDS", 0.05)


def models(client):
    return [one.name for one in client.search_registered_models()]


def held(client, name, place):
    made = Lock(client, name, place)
    made.take()
    return made


def test_the_lock_is_gone_when_the_block_ends_however_it_ends(client, name):
    with alone(client, name, client.tracking_uri):
        assert f"mammo.lock-{name}" in models(client)
        assert f"mammo.lock-{name}" not in registered_names(client)
    with pytest.raises(KeyError), alone(client, name, client.tracking_uri):
        raise KeyError
    assert not [one for one in models(client) if name in one]


def test_another_host_waits_for_it(client, name, soon):
    first, second = held(client, name, "here"), Lock(client, name, "there")
    waiting = threading.Thread(target=second.take, daemon=True)
    waiting.start()
    time.sleep(2.5)  # more than twice the expiry, for it is renewed
    assert waiting.is_alive()
    first.check()
    first.give_back()
    waiting.join(10)
    second.check()
    second.give_back()
    assert not [one for one in models(client) if name in one]


def test_a_holder_that_is_not_heard_of_is_replaced_and_told(client, name, soon):
    first = held(client, name, "here")
    first._over.set()  # as if its machine stood still
    began = time.monotonic()
    second = held(client, name, "there")
    assert time.monotonic() - began > 0.9
    with pytest.raises(UserError, match="another command does"):
        first.check()
    first.give_back()
    second.check()
    second.give_back()


def test_on_one_machine_nobody_waits_for_a_dead_holder(client, name):
    held(client, name, "here")._over.set()
    began = time.monotonic()
    second = held(client, name, "here")
    assert time.monotonic() - began < 5
    second.give_back()


def test_who_holds_a_newer_lock_keeps_it_when_an_old_one_is_removed(client, name, monkeypatch):
    """The slowest of those that saw the dead holder removes its lock when another one is there already."""
    holder = held(client, name, "there")
    seen, real = [], lock_module._tags
    monkeypatch.setattr(lock_module, "_tags", lambda *asked: seen.append(asked) or stale(real(*asked), len(seen)))

    def stale(tags, look):
        return {**tags, "mammo.holder": "the dead one"} if look == 1 else tags

    lock_module._remove(client, f"mammo.lock-{name}", "the dead one")
    holder.check()
    holder.give_back()


class BreaksOff:
    """A client every other of whose requests is done, and its answer breaks off, as of a server that ends meanwhile."""

    def __init__(self, client):
        self._client, self._answers = client, 0

    def __getattr__(self, request):
        def asked(*values):
            answer = getattr(self._client, request)(*values)
            self._answers += 1
            if self._answers % 2:
                raise MlflowException(f"API request to {request} failed with exception IncompleteRead(0 bytes read)")
            return answer

        return asked


def test_answers_that_break_off_cost_nobody_the_lock(client, name):
    with alone(BreaksOff(client), name, client.tracking_uri) as lock:
        assert f"mammo.lock-{name}" in models(client)
        lock.check()
    assert not [one for one in models(client) if name in one]


@pytest.fixture(scope="module")
def shared(tmp_path_factory, postgresql):
    """A tracking server over PostgreSQL."""
    made = TrackingServer(tmp_path_factory.mktemp("shared"), backend=postgresql())
    made.start()
    yield made
    made.stop()


@pytest.fixture
def hosts(tmp_path, shared, cache, kill):
    """Starts processes that share nothing but the server, each of which enters the lock so many times."""
    started, file = [], tmp_path / "count"
    file.write_text("0")

    def start(times, count, uri=shared.uri):
        for _ in range(count):
            (tmp := tmp_path / f"tmp-{len(started)}").mkdir()
            line = [sys.executable, "-c", HOST, uri, str(file), str(times)]
            surroundings = environment(cache, TMPDIR=str(tmp))
            started.append(
                subprocess.Popen(line, env=surroundings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            )
        return started[-count:]

    start.count = lambda: int(file.read_text())
    yield start
    for process in started:
        kill(process)
        process.communicate()


def test_one_at_a_time_and_a_killed_holder_is_replaced_once(hosts, shared, kill):
    (dead,) = hosts(1, 1)
    assert dead.stdout.readline() == "in\n"
    kill(dead)
    dead.wait()
    others = hosts(4, 3)  # all of them see that it is dead at about the same moment
    for process in others:
        assert process.wait(120) == 0, process.stderr.read()
    assert hosts.count() == 12
    assert models(MlflowClient(shared.uri)) == []


def test_the_lock_holds_in_postgresql_itself(hosts, postgresql):
    uri = postgresql()
    MlflowClient(uri).search_experiments()
    for process in hosts(3, 3, uri):
        assert process.wait(120) == 0, process.stderr.read()
    assert hosts.count() == 9


def test_a_server_that_is_away_meanwhile_costs_nobody_the_lock(hosts, shared):
    first, second = hosts(8, 2)
    wait_for(lambda: hosts.count() > 2)
    shared.stop()
    time.sleep(1)
    shared.start()
    said = [process.communicate(timeout=120) for process in (first, second)]
    assert (first.returncode, second.returncode, hosts.count()) == (0, 0, 16), said
