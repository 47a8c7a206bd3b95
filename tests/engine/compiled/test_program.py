"""What a program costs by itself: its start compiles nothing, whatever the number of heads."""

import jax
import numpy as np
import pytest

from mammo_mlflow.engine.compiled.feed import picker
from mammo_mlflow.engine.compiled.program import Program
from mammo_mlflow.engine.inputs import StoredActivations
from mammo_mlflow.testing.engines import head, stage_fit, stored_activations

pytestmark = pytest.mark.usefixtures("jax_backend")


@pytest.fixture
def compiled():
    """The names of what is compiled from now on."""
    names = []

    def listen(name, seconds, **_):
        if "backend_compile" in name:
            names.append(name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    jax.monitoring.unregister_event_duration_listener(listen)


def test_the_start_compiles_nothing(tmp_path, compiled):
    stored = StoredActivations(stored_activations(tmp_path))
    fits = [stage_fit(head(seed, hidden=3), stored, rate=0.1 * (seed + 1)) for seed in range(5)]
    program = Program(fits[0].network, picker(stored), True, fits[0].spec.loss)
    compiled.clear()
    jax.jit(lambda one: one + 1)(0.0)
    assert len(compiled) == 1  # it is seen
    for count in (1, 2, 5):
        state = jax.device_get(program.start(fits[:count]))
        for place, fit in enumerate(fits[:count]):
            for one, own in zip(state.weights.trained, fit.network.get_weights(), strict=True):
                assert np.array_equal(one[place], own)
        assert np.array_equal(state.optimizer.steps, np.zeros(count))
    assert len(compiled) == 1
    assert {one.shape[0] for one in state.optimizer.first} == {5}
