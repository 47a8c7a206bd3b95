"""What there is to compute with: looked for at no cost where there is no card, else asked of the backend."""

import os
import stat
import subprocess
import sys
from dataclasses import replace

import pytest
from support import ROOT

from mammo_mlflow import processes
from mammo_mlflow.engine import cards
from mammo_mlflow.engine.cards import DriverRow, driver_rows, known_to_driver
from mammo_mlflow.errors import UserError, how_to_install
from mammo_mlflow.jobs import devices
from mammo_mlflow.jobs.devices import Card, Devices, computed_on, environment, find_devices, is_usual, why_no_card
from mammo_mlflow.jobs.executors import make_executor
from mammo_mlflow.testing.executors import answers, calls

GB = 10**9
CARD = Card(number=0, name="NVIDIA H200", memory=150 * GB, free=120 * GB, bfloat16=True)
INSTALL = how_to_install("mammo-mlflow[gpu]")


class Machine:
    """A machine whose drivers and packages are pretended, and what its backends were asked."""

    def __init__(self, patch, folder):
        self.patch, self.folder, self.asked = patch, folder, []
        self.answer = ((CARD,), "")
        for name in ("KERAS_BACKEND", "CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS", *devices.SHARED):
            patch.delenv(name, raising=False)
        patch.setenv("KERAS_HOME", str(folder))
        patch.setenv("PATH", str(folder))
        patch.setattr(devices, "_ask", self.ask)
        self.has(card=False, cuda=False)

    def ask(self, backend):
        self.asked.append(backend)
        return self.answer

    def has(self, *, card, cuda):
        files = (str(self.folder),) if card else (str(self.folder / "nvidiactl"),)
        self.patch.setattr(devices, "DRIVER_FILES", files)
        self.patch.setattr(devices, "CUDA_PLUGINS", ("jax_of_elsewhere", "json" if cuda else "jax_of_nowhere"))


@pytest.fixture
def machine(monkeypatch, tmp_path):
    return Machine(monkeypatch, tmp_path)


@pytest.mark.parametrize(
    ("card", "cuda", "reason"),
    [
        (False, False, "no card is here"),
        (False, True, "no card is here"),
        (True, False, f"a card is here, but not JAX with CUDA: {INSTALL}"),
    ],
)
def test_where_no_card_can_be_used_nothing_is_asked(machine, monkeypatch, card, cuda, reason):
    monkeypatch.setattr(devices, "processor_bfloat16", lambda: False)
    machine.has(card=card, cuda=cuda)
    found = find_devices("auto")
    assert (found.backend, found.kind, found.cards, found.engine) == ("tensorflow", "cpu", (), "keras_fit")
    assert found.line == f"devices: the processor with TensorFlow: {reason}"
    assert is_usual("auto") and is_usual("cpu")
    with pytest.raises(UserError, match="devices: expected a card that JAX can use, found none: ") as problem:
        find_devices("gpu")
    assert reason in str(problem.value)
    assert str(devices.DRIVER_FILES[0]) in str(problem.value)
    assert machine.asked == []


def test_a_card_and_jax_with_cuda_are_taken(machine):
    machine.has(card=True, cuda=True)
    for wanted in ("auto", "gpu"):
        found = find_devices(wanted)
        assert (found.backend, found.kind, found.cards, found.engine) == ("jax", "gpu", (CARD,), "compiled")
        assert found.line == "devices: NVIDIA H200 (150 GB, 120 GB free, bfloat16) with JAX"
    assert machine.asked == ["jax", "jax"]
    assert not is_usual("auto")
    assert find_devices("cpu").line.endswith("with TensorFlow: devices=cpu")
    assert len(machine.asked) == 2


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_hidden_cards_are_not_asked_for(machine, monkeypatch, hidden):
    machine.has(card=True, cuda=True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert find_devices("auto").reason == "CUDA_VISIBLE_DEVICES hides all cards"
    assert machine.asked == []


def test_a_driver_shows_by_its_tool_too(machine):
    tool = machine.folder / "nvidia-smi"
    tool.touch()
    assert why_no_card() == "no card is here"
    tool.chmod(stat.S_IRWXU)
    assert INSTALL in why_no_card()


@pytest.mark.parametrize(("backend", "asked"), [("tensorflow", True), ("jax", True), ("torch", False)])
def test_the_users_backend_is_kept(machine, monkeypatch, backend, asked):
    machine.has(card=True, cuda=False)
    monkeypatch.setenv("KERAS_BACKEND", backend)
    found = find_devices("auto")
    assert (found.backend, found.kind) == (backend, "gpu" if asked else "cpu")
    assert machine.asked == [backend] * asked


def test_what_keras_wrote_itself_is_no_choice(machine):
    """Keras writes its configuration at its first import, with the default."""
    file = machine.folder / "keras.json"
    for text, chosen in (('{"backend": "tensorflow"}', None), ('{"backend": "jax"}', "jax"), ("[", None)):
        file.write_text(text)
        assert processes.chosen_backend() == chosen
        assert processes.keras_backend() == (chosen or "tensorflow")


@pytest.mark.parametrize(
    ("backend", "told"),
    [
        ("Jax", "KERAS_BACKEND: unknown 'Jax', did you mean 'jax'?"),
        ("torch", "KERAS_BACKEND: expected a backend that is installed, found 'torch'"),
    ],
)
def test_a_backend_that_is_not_there_is_told_before_anything_starts(cli, machine, monkeypatch, backend, told):
    monkeypatch.setenv("KERAS_BACKEND", backend)
    there = devices.importlib.util.find_spec
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: None if name == "torch" else there(name))
    outcome = cli("--task", "mass_calc")
    assert outcome.code == 2
    assert told in outcome.err


def test_a_card_that_is_likely_is_expected_before_anyone_has_looked(machine):
    """The server of workers starts then; it is another's where the backend says no."""
    assert (devices.expected_devices("auto").backend, devices.expected_devices("auto").kind) == ("tensorflow", "cpu")
    machine.has(card=True, cuda=True)
    assert (devices.expected_devices("auto").backend, devices.expected_devices("auto").kind) == ("jax", "gpu")
    assert devices.expected_devices("cpu").kind == "cpu"
    assert machine.asked == []


def test_workers_compute_with_what_the_latest_command_asks_for(system):
    """Also where the server that they are forked from has started with another backend."""
    found = {}
    for backend in ("tensorflow", "jax"):
        with environment(Devices(backend=backend)):
            executor = make_executor("process", 1)
            ((_, found[backend]),) = answers(executor, calls("backend_here", 0, module="support_jobs"))
            executor.close()
    assert found == {"tensorflow": "tensorflow", "jax": "jax"}


def test_a_backend_that_can_use_none_is_told(machine):
    machine.has(card=True, cuda=True)
    machine.answer = ((), "JAX can use no card: the driver is too old")
    found = find_devices("auto")
    assert (found.backend, found.kind) == ("tensorflow", "cpu")
    assert found.line.endswith("with TensorFlow: JAX can use no card: the driver is too old")
    with pytest.raises(UserError, match="found none: JAX can use no card: the driver is too old"):
        find_devices("gpu")


def test_the_memory_to_take_is_limited_to_what_is_asked(machine):
    machine.has(card=True, cuda=True)
    machine.answer = ((CARD, replace(CARD, number=1, free=5 * GB)), "")
    found = find_devices("auto", 20)
    assert [card.free for card in found.cards] == [20 * GB, 5 * GB]
    assert found.line.endswith("with JAX: card_memory_gb=20")
    assert [card.free for card in find_devices("auto").cards] == [120 * GB, 5 * GB]


def test_under_jax_the_processor_stands_for_a_card(machine, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    found = find_devices("auto", 0.5)
    (card,) = found.cards
    assert (found.kind, found.engine, card.name, card.free) == ("cpu", "compiled", "the processor", GB // 2)
    assert card.memory > card.free
    assert card.bfloat16 == found.bfloat16 == devices.processor_bfloat16()
    assert not is_usual("cpu")


def test_facts_and_words_of_each():
    made = [
        Devices(backend=backend, kind=kind) for backend in ("tensorflow", "jax", "torch") for kind in ("cpu", "gpu")
    ]
    assert made[0].facts == {"backend": "tensorflow"}
    assert made[4].facts == {"backend": "torch"}
    assert len({tuple(one.facts.items()) for one in made}) == len(made)
    for one in made:
        assert Devices.of_tags(one.tags).facts == one.facts
    assert Devices.of_tags({}) == Devices()
    assert computed_on({}) == computed_on(made[0].tags) == ""
    of_cards = Devices(backend="jax", kind="gpu", cards=(CARD, replace(CARD, number=1)))
    assert of_cards.tags["mammo.device_name"] == "NVIDIA H200"
    assert computed_on(of_cards.tags) == "NVIDIA H200 with JAX"
    assert computed_on(Devices(backend="jax").tags) == "the processor with JAX"


def test_the_environment_of_children_is_set_and_restored(machine, monkeypatch, tmp_path):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "true")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    before = dict(os.environ)
    with environment(Devices(backend="jax", kind="gpu", cards=(CARD,)), tmp_path / "programs"):
        assert os.environ["KERAS_BACKEND"] == "jax"
        assert os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "true"  # the user's
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
        assert os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"
        assert os.environ["JAX_DEFAULT_MATMUL_PRECISION"] == "highest"
        assert os.environ["JAX_COMPILATION_CACHE_DIR"] == str(tmp_path / "programs")
        assert "JAX_PLATFORMS" not in os.environ
    assert dict(os.environ) == before
    with environment(Devices()):
        assert (os.environ["CUDA_VISIBLE_DEVICES"], os.environ["JAX_PLATFORMS"]) == ("-1", "cpu")
        assert os.environ["KERAS_BACKEND"] == "tensorflow"
        assert "JAX_COMPILATION_CACHE_DIR" not in os.environ
    assert dict(os.environ) == before


def test_no_command_lets_a_process_take_a_card_for_itself(cli, monkeypatch):
    for name in devices.SHARED:
        monkeypatch.setenv(name, "")
        del os.environ[name]
    monkeypatch.setenv("TF_FORCE_GPU_ALLOW_GROWTH", "false")  # the user's
    assert cli("pretrained", "--task", "mass_calc", command="settings").code == 0
    assert os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    assert os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] == "false"


def test_jax_reads_what_it_is_set_by(system, tmp_path):
    """Names that JAX does not know would be of no effect, without a word."""
    asked = "import jax; c = jax.config; print(c.jax_default_matmul_precision, c.jax_compilation_cache_dir, "
    asked += "c.jax_compilation_cache_max_size, c.jax_persistent_cache_min_compile_time_secs, c.jax_platforms)"
    with environment(Devices(backend="jax"), tmp_path):
        told = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True).stdout
    assert told.split() == ["highest", str(tmp_path), "1000000000", "0.0", "cpu"]


DRIVER = [DriverRow(0, "GPU-aa", 80, 70), DriverRow(1, "GPU-bb", 40, 30), DriverRow(2, "GPU-bc", 20, 10)]
SEEN = [replace(CARD, number=0, memory=1, free=1), replace(CARD, number=1, memory=2, free=2)]


@pytest.mark.parametrize(
    ("visible", "found"),
    [
        (None, [(0, 80, 70), (1, 40, 30)]),
        ("2,1", [(2, 20, 10), (1, 40, 30)]),
        ("GPU-bc, GPU-a", [(2, 20, 10), (0, 80, 70)]),
        ("MIG-aa,0", [(0, 1, 1), (0, 80, 70)]),  # of a part of a card the driver's numbers are not told
    ],
)
def test_cards_are_numbered_and_measured_by_their_driver(visible, found):
    known = known_to_driver(SEEN, DRIVER, visible)
    assert [(card.number, card.memory, card.free) for card in known] == found
    assert known_to_driver(SEEN, [], None) == SEEN


def test_what_the_driver_tells_is_read(monkeypatch):
    told = "0, GPU-aa, 143771, 120000, Disabled\n1, GPU-bb, 81559, 500, Enabled\n2, GPU-cc, [N/A], [N/A], [N/A]\n\n"
    done = subprocess.CompletedProcess([], 0, told)
    monkeypatch.setattr(cards.subprocess, "run", lambda *_, **__: done)
    assert driver_rows() == [DriverRow(0, "GPU-aa", 143771 * 2**20, 120000 * 2**20)]


ASK = "from mammo_mlflow.jobs import devices; devices.DRIVER_FILES = ('/',); print(devices.find_devices('gpu').line)"
PROCESSOR_AS_CARD = """
import sys
if "mammo_mlflow.engine.cards" in " ".join(sys.orig_argv):
    from mammo_mlflow.engine.compiled import cards
    cards.jax_cards.__defaults__ = ("cpu",)
"""


def ask_for_real(folder, **more):
    surroundings = {**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": f"{folder}:{ROOT}", **more}
    surroundings.pop("CUDA_VISIBLE_DEVICES", None)
    return subprocess.run([sys.executable, "-c", ASK], env=surroundings, capture_output=True, text=True, timeout=120)


def test_jax_itself_is_asked_in_a_child(system, tmp_path):
    """JAX's processor in the place of a card, and a program in that of the driver's."""
    done = ask_for_real(tmp_path, JAX_PLATFORMS="cpu")
    assert "UserError: devices: expected a card that JAX can use, found none: JAX can use no card: " in done.stderr
    assert "Unknown backend: 'gpu' requested" in done.stderr
    (tmp_path / "sitecustomize.py").write_text(PROCESSOR_AS_CARD)
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 0, GPU-aa, 143771, 120000, Disabled\n")
    tool.chmod(stat.S_IRWXU)
    done = ask_for_real(tmp_path, JAX_PLATFORMS="cpu", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert done.stdout == "devices: cpu (151 GB, 126 GB free) with JAX\n", done.stderr


def test_tensorflow_tells_its_cards(keras, monkeypatch):
    import tensorflow as tf

    from mammo_mlflow.engine.backend import tensorflow_cards

    about = {"old": {"device_name": "Tesla T4", "compute_capability": (7, 5)}, "new": {"compute_capability": (9, 0)}}
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: list(about) if kind == "GPU" else [])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", about.get)
    assert [(c.number, c.name, c.bfloat16) for c in tensorflow_cards()] == [(0, "Tesla T4", False), (1, "a card", True)]
    assert str(tensorflow_cards()[0]) == "Tesla T4"
