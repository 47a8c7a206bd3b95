"""With what jobs compute: Keras's backend, the kind of device, and the cards that fits share; what there is of them.

Nothing is spent on a machine without a card: what a driver leaves on the disk is looked at first, and only where it is
there is the backend asked, in a child (`engine.cards`), since this process imports none.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from mammo_mlflow.errors import expected, how_to_install, unknown_name
from mammo_mlflow.names import Tag
from mammo_mlflow.processes import chosen_backend, keras_backend
from mammo_mlflow.wording import in_words

ENGINES = {"tensorflow": "keras_fit", "jax": "compiled"}
"""Which engine trains under each of Keras's backends; `keras_fit` under any other."""
SPELLED = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}
USUAL = "the processor with TensorFlow"
WANTED = ("auto", "cpu", "gpu")
"""What the option `devices` may be."""

DRIVER_FILES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/kfd", "/dev/dxg")
"""What the drivers of NVIDIA, of AMD, and of Windows below Linux make where there is a card."""
DRIVER_TOOL = "nvidia-smi"
CUDA_PLUGINS = ("jax_cuda13_plugin", "jax_cuda12_plugin")
"""The packages by which JAX finds CUDA."""
PATIENCE_SECONDS = 120

SHARED = {
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
}
"""The environment in which no process takes a card's memory for itself, and cards are counted as their driver does."""
DETERMINISTIC = {
    "XLA_FLAGS": "--xla_gpu_deterministic_ops=true --xla_cpu_multi_thread_eigen=false",
    "TF_DETERMINISTIC_OPS": "1",
}
"""The environment in which sums are always taken in the same order."""
HIDDEN = {"CUDA_VISIBLE_DEVICES": "-1", "HIP_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
"""The environment in which no card is seen."""
PROGRAMS = "programs"
"""The folder of the cache directory in which JAX keeps compiled programs."""
PROGRAM_BYTES = 10**9
"""The size limit of JAX's compiled programs on the disk."""


def check_backend() -> None:
    """Check that Keras's backend is one that Keras has, and is installed; nothing is imported. Raises `UserError`."""
    backend = keras_backend()
    if backend not in SPELLED:
        raise unknown_name("KERAS_BACKEND", backend, SPELLED)
    if importlib.util.find_spec(backend) is None:
        raise expected("KERAS_BACKEND", "a backend that is installed", f"'{backend}', of which there is no package")


def engine_of(backend: str) -> str:
    """The name of the engine that trains under a Keras backend: `keras_fit` or `compiled`."""
    return ENGINES.get(backend, "keras_fit")


@dataclass(frozen=True, kw_only=True)
class Card:
    """A graphics card, or under JAX without one the processor in its place; memory in bytes.

    `number` counts the cards as their driver does. `bfloat16`: whether it computes in it. Where nobody can tell the
    memory, as TensorFlow without `nvidia-smi`, it is 0.
    """

    number: int
    name: str
    memory: int
    free: int
    bfloat16: bool

    def __str__(self) -> str:
        """Its name, memory and precision."""
        sizes = [f"{_gigabytes(self.memory)} GB", f"{_gigabytes(self.free)} GB free"] if self.memory else []
        told = ", ".join([*sizes, *(["bfloat16"] if self.bfloat16 else [])])
        return f"{self.name} ({told})" if told else self.name


@dataclass(frozen=True, kw_only=True)
class Devices:
    """With what the jobs of a command compute: `kind` is `cpu` or `gpu`, `reason` says in words why.

    `cards` are those that the compiled engine shares out; none under `keras_fit` on the processor.
    """

    backend: str = "tensorflow"
    kind: str = "cpu"
    cards: tuple[Card, ...] = ()
    reason: str = ""

    @classmethod
    def of_environment(cls, reason: str = "") -> Devices:
        """The processor, with the Keras backend that the environment names."""
        backend = keras_backend()
        if engine_of(backend) != "compiled":
            return cls(backend=backend, reason=reason)
        memory = psutil.virtual_memory()
        bfloat16 = processor_bfloat16()
        card = Card(number=0, name="the processor", memory=memory.total, free=memory.available, bfloat16=bfloat16)
        return cls(backend=backend, cards=(card,), reason=reason)

    @classmethod
    def of_tags(cls, tags: Mapping[str, str]) -> Devices:
        """Those that a run or a version was computed with, as far as keys hash them."""
        return cls(backend=tags.get(Tag.KERAS_BACKEND, "tensorflow"), kind=tags.get(Tag.DEVICE, "cpu"))

    @property
    def engine(self) -> str:
        """The engine that trains fits here."""
        return engine_of(self.backend)

    @property
    def bfloat16(self) -> bool:
        """Whether all of them compute in bfloat16."""
        return all(card.bfloat16 for card in self.cards) if self.cards else processor_bfloat16()

    @property
    def facts(self) -> dict[str, str]:
        """What keys hash of it: the backend, and where they are not what they were before there were others, the rest.

        Kind of device and engine move results as the backend does.
        """
        others = {"device": (self.kind, "cpu"), "engine": (self.engine, "keras_fit")}
        return {"backend": self.backend} | {name: now for name, (now, first) in others.items() if now != first}

    @property
    def tags(self) -> dict[str, str]:
        """The tags of what is computed with them."""
        names = ", ".join(dict.fromkeys(card.name for card in self.cards))
        named = {Tag.DEVICE_NAME: names} if self.kind == "gpu" and names else {}
        return {Tag.KERAS_BACKEND: self.backend, Tag.DEVICE: self.kind, **named}

    @property
    def line(self) -> str:
        """Which they are, their memory and precision, and why, as a line for the log."""
        processor = "the processor (bfloat16)" if self.bfloat16 else "the processor"
        what = ", ".join(map(str, self.cards)) or processor
        why = f": {self.reason}" if self.reason else ""
        return f"devices: {what} with {SPELLED.get(self.backend, self.backend)}{why}"


def computed_on(tags: Mapping[str, str]) -> str:
    """On what a run was computed, in words, by its tags; "" for the usual, the processor with TensorFlow."""
    found = Devices.of_tags(tags)
    if found.facts == Devices().facts:
        return ""
    name = tags.get(Tag.DEVICE_NAME, "a card") if found.kind == "gpu" else "the processor"
    return f"{name} with {SPELLED.get(found.backend, found.backend)}"


def find_devices(wanted: str = "auto", memory_gb: float = 0.0) -> Devices:
    """Find what to compute with: the cards that Keras's backend can use, else the processor.

    Without a backend of the user's choice, that is JAX on cards and TensorFlow on the processor. `wanted` is `auto`,
    `cpu` (no card is asked for) or `gpu` (raises `UserError` where no card can be used). A `memory_gb` above 0 limits
    what each card has `free`.
    """
    if wanted == "cpu":
        found = Devices.of_environment("devices=cpu")
    else:
        backend = chosen_backend() or "jax"
        reason = why_no_card()
        cards, reason = ((), reason) if reason else _ask(backend)
        if not cards and wanted == "gpu":
            where = ", ".join((*DRIVER_FILES, DRIVER_TOOL, *CUDA_PLUGINS))
            who = SPELLED[backend] if backend in ENGINES else "JAX"
            raise expected("devices", f"a card that {who} can use", f"none: {reason} (looked at: {where})")
        of_cards = Devices(backend=backend, kind="gpu", cards=cards)
        found = of_cards if cards else Devices.of_environment(reason)
    if not memory_gb or not found.cards:
        return found
    limited = tuple(replace(card, free=min(card.free, int(memory_gb * 1e9))) for card in found.cards)
    limit = f"card_memory_gb={memory_gb:g}"
    return replace(found, cards=limited, reason=f"{found.reason}, {limit}" if found.reason else limit)


def why_no_card() -> str:
    """Why no card can be used, as far as that can be told without asking the backend; "" where it has to be asked."""
    chosen = chosen_backend()
    if chosen is not None and chosen not in ENGINES:
        return f"Keras's backend is {SPELLED.get(chosen, chosen)}, which trains on the processor here"
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return "CUDA_VISIBLE_DEVICES hides all cards"
    if not any(Path(name).exists() for name in DRIVER_FILES) and shutil.which(DRIVER_TOOL) is None:
        return "no card is here"
    if chosen is None and not _jax_has_cuda():
        return f"a card is here, but not JAX with CUDA: {how_to_install('mammo-mlflow[gpu]')}"
    return ""


def expected_devices(wanted: str) -> Devices:
    """What `find_devices` will most likely find, told without asking the backend; of cards the kind alone."""
    if wanted == "cpu" or why_no_card():
        return Devices.of_environment()
    return Devices(backend=chosen_backend() or "jax", kind="gpu")


def is_usual(wanted: str) -> bool:
    """Whether that is the processor with Keras's fit."""
    found = expected_devices(wanted)
    return found.kind == "cpu" and found.engine == "keras_fit"


def surroundings() -> tuple[str | None, ...]:
    """What of the environment decides how a process computes, which a fork server keeps from its start."""
    backend = keras_backend()
    if engine_of(backend) != "compiled":
        return (backend,)
    return backend, *(os.environ.get(name) for name in (*HIDDEN, "JAX_COMPILATION_CACHE_DIR"))


@contextmanager
def environment(devices: Devices, programs: Path | None = None) -> Iterator[None]:
    """Context: the environment by which processes that start in it compute with `devices`.

    JAX keeps its compiled programs in the folder `programs`, where one is given. What the user has set stays, but for
    the backend and, on the processor, what hides cards. A process that has imported Keras, and the fork server of one
    that has started it, keep what they have.
    """
    kept = {"JAX_DEFAULT_MATMUL_PRECISION": "highest"}  # float32 means float32: cards would round to 10 bits
    if programs is not None:
        kept |= {
            "JAX_COMPILATION_CACHE_DIR": str(programs),
            "JAX_COMPILATION_CACHE_MAX_SIZE": str(PROGRAM_BYTES),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
    needed = {"KERAS_BACKEND": devices.backend} | (HIDDEN if devices.kind == "cpu" else {})
    before = dict(os.environ)
    os.environ.update(SHARED | kept | before | needed)
    try:
        yield
    finally:
        for name in SHARED | kept | needed:
            if name in before:
                os.environ[name] = before[name]
            else:
                del os.environ[name]


def share_cards() -> None:
    """Let no process that this one starts take a card's memory for itself, unless the user wants it to."""
    os.environ.update({name: value for name, value in SHARED.items() if name not in os.environ})


def compute_deterministically() -> None:
    """Let processes that this one starts compute the same bits each time, beside what the user asks of XLA."""
    for name, value in DETERMINISTIC.items():
        before = os.environ.get(name, "")
        if value not in before:
            os.environ[name] = f"{before} {value}".strip() if name == "XLA_FLAGS" else value


def processor_bfloat16() -> bool:
    """Whether the processor computes in bfloat16, as far as the system tells."""
    try:
        flags = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")), "")
    except OSError:
        flags = platform.processor()
    return bool({"avx512_bf16", "amx_bf16"} & set(flags.split()))


def _gigabytes(size: int) -> str:
    """A number of bytes in GB, for people."""
    return f"{size / 1e9:.0f}" if size >= 1e10 else f"{size / 1e9:.2g}"


def _jax_has_cuda() -> bool:
    """Whether JAX is installed with CUDA; nothing is imported."""
    found = {name for name in ("jax", *CUDA_PLUGINS) if importlib.util.find_spec(name) is not None}
    return "jax" in found and len(found) > 1


_asked: dict[str, subprocess.Popen[str]] = {}
"""The children that look for the cards of a backend, whose answers nobody has read yet."""


def ask_ahead(wanted: str) -> None:
    """Start the child that `find_devices` will ask, where it will: it takes seconds, in which others are imported."""
    if wanted != "cpu" and not why_no_card():
        _start_child(chosen_backend() or "jax")


def _start_child(backend: str) -> subprocess.Popen[str]:
    if backend not in _asked:
        line = [sys.executable, "-m", "mammo_mlflow.engine.cards"]
        inherited = SHARED | dict(os.environ) | {"KERAS_BACKEND": backend}
        pipe = subprocess.PIPE
        _asked[backend] = subprocess.Popen(line, env=inherited, stdout=pipe, stderr=pipe, text=True)
    return _asked[backend]


def _ask(backend: str) -> tuple[tuple[Card, ...], str]:
    """Ask a Keras backend, in a child, for the cards that it can use; without any, why."""
    name, child = SPELLED[backend], _start_child(backend)
    try:
        told, said = child.communicate(timeout=PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        return (), f"{name} said nothing about its cards for {PATIENCE_SECONDS} s"
    finally:
        del _asked[backend]
    if child.returncode:
        last = said.strip().splitlines()[-1:] or [f"exit code {child.returncode}"]
        return (), f"{name} can use no card: {in_words(last[0])}"
    cards = tuple(Card(**one) for one in json.loads(told.splitlines()[-1]))
    return cards, "" if cards else f"{name} finds no card that it can use"
