"""What other systems lack: a command does without `/proc`, which macOS does not have."""

import shutil
import subprocess

import pytest
from support import command, environment

from mammo_mlflow.jobs import devices
from mammo_mlflow.planning.planner import resolve_precision

HIDE = 'mount --bind /proc "$1" && mount -t tmpfs none /proc && shift && exec "$@"'
"""Hides `/proc`, but for psutil, which asks macOS otherwise and is told where to look here."""
PSUTIL = "import os, psutil\npsutil.PROCFS_PATH = os.environ['HIDDEN_PROC']\n"


def hiding(where):
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", HIDE, "sh", str(where)]


def may_hide(where):
    if shutil.which("unshare") is None:
        return False
    where.mkdir()
    return subprocess.run([*hiding(where), "true"], capture_output=True).returncode == 0


def test_commands_run_without_proc(system, tmp_path, cache):
    """Those that load no TensorFlow, whose build for Linux cannot do without."""
    hidden, here = tmp_path / "hidden", tmp_path / "here"
    if not may_hide(hidden):
        pytest.skip("needs a mount namespace")
    here.mkdir()
    (here / "sitecustomize.py").write_text(PSUTIL)
    surroundings = environment(cache, HIDDEN_PROC=str(hidden))
    surroundings["PYTHONPATH"] = f"{here}:{surroundings['PYTHONPATH']}"
    for name, arguments in (("report", []), ("request", ["--input", "phantom", "--output", "asked.json"])):
        line = [*hiding(hidden), *command(*arguments, name=name)]
        done = subprocess.run(line, cwd=here, env=surroundings, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr


def test_the_precision_is_float32_where_the_processor_is_not_told(monkeypatch):
    monkeypatch.setattr(devices.Path, "read_text", lambda *_, **__: (_ for _ in ()).throw(FileNotFoundError()))
    monkeypatch.setattr(devices.platform, "processor", lambda: "arm")
    assert resolve_precision("auto", devices.Devices()) == "float32"


def test_memory_is_the_resident_set_where_nothing_finer_is_told(keras, monkeypatch):
    from mammo_mlflow.engine import contract

    monkeypatch.setattr(contract.Path, "open", lambda *_, **__: (_ for _ in ()).throw(FileNotFoundError()))
    assert contract.private_memory_bytes() > 1_000_000
