"""Malformed inputs of every kind: one line each and exit code 2, or a status of 4xx, and nothing is left behind."""

import logging
import signal

import pytest
from support_malformed import KINDS, Room, ask, peak_memory
from support_server import save_mean_model

COUNT = 24
SEED = 7


@pytest.fixture(scope="module")
def room(tmp_path_factory, phantom, empty_stores, cache):
    where = tmp_path_factory.mktemp("malformed")
    model = save_mean_model(tmp_path_factory.mktemp("model"))
    handlers, on_term = logging.root.handlers[:], signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MAMMO_CACHE_DIR", str(cache))
        yield Room(where, phantom, empty_stores, model)
    logging.root.handlers[:] = handlers
    signal.signal(signal.SIGTERM, on_term)


@pytest.mark.parametrize("kind", KINDS)
def test_each_is_refused_in_a_line_and_leaves_nothing(room, kind):
    before = peak_memory()
    for number in range(COUNT):
        found, wrong = ask(room, kind, SEED, number)
        assert not wrong, (number, wrong, found.said)
        assert found.seconds < 10
    assert peak_memory() - before < 1e9
