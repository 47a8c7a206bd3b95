"""Prepare a command: change to the folder that it was called from, and check the paths that it was given.

`mlflow run` starts a command in the project's folder, which for a git URI is a temporary clone, and passes a relative
address of the store on as it is. So the command first changes to the folder of whoever called it: every relative path
means there what the caller meant, and nothing is written into a clone.
"""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import psutil

from mammo_mlflow.checks import utf8
from mammo_mlflow.commands.base import CommandOptions, options_of
from mammo_mlflow.errors import expected

WORDS = ("", "phantom", "imagenet", "random")
SURROUNDINGS = ("MAMMO_CACHE_DIR", "MAMMO_WEIGHTS_DIR", "KERAS_HOME")
ROOM_BESIDE = ".unfinished-123456"
"""What is put beside a file may have a name that is longer by this much."""
SHELLS = ("sh", "bash", "dash", "zsh")


def go_to_caller() -> None:
    """Under `mlflow run`, change to the folder that `mlflow run` was called from.

    Raises `UserError` where that folder cannot be found and the project's folder is a temporary clone.
    """
    project = Path.cwd()
    if not os.environ.get("MLFLOW_RUN_ID", "").strip() or not (project / "MLproject").is_file():
        return
    caller = _caller()
    if caller is None:
        if Path(tempfile.gettempdir()).resolve() not in project.resolve().parents:
            return
        wanted = "a folder that stays (call `mlflow run` on a folder, with absolute paths)"
        raise expected("current folder", wanted, f"'{project}', a temporary clone, and no way to tell who called")
    os.chdir(caller)
    # processes that are started here look for the package in the current folder, and it may not be installed
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(project), os.environ.get("PYTHONPATH")]))


def _caller() -> Path | None:
    """Return the current folder of the process that started this one, past the shells that MLflow uses."""
    try:
        above = psutil.Process().parent()
        while above is not None and _is_given_line(above.cmdline()):
            above = above.parent()
        return None if above is None else Path(above.cwd())
    except (psutil.Error, OSError):
        return None


def _is_given_line(words: list[str]) -> bool:
    return len(words) > 1 and Path(words[0]).name in SHELLS and words[1] == "-c"


def check_paths(options: CommandOptions) -> None:
    """Check that every path is one that the system can hold. Raises `UserError` for the first that is not."""
    for name, about in options_of(type(options)).items():
        value = getattr(options, name)
        for part in str(value or "").split(";") if about.path else ():
            check_path(name, part.strip())
    for name in SURROUNDINGS:
        utf8(name, os.environ.get(name, ""))
        check_path(name, os.environ.get(name, ""))


def check_path(field: str, name: str) -> None:
    """Check that a path is one that this system can hold, whether or not it exists. Raises `UserError`."""
    if name in WORDS:
        return
    try:
        os.lstat(f"{Path(name).expanduser()}{ROOM_BESIDE}")
    except RuntimeError:
        raise expected(field, "a path", f"'{name}': there is no such user") from None
    except ValueError:  # a NUL
        raise expected(field, "a path", ascii(name)) from None
    except OSError as problem:
        if problem.errno == errno.ENAMETOOLONG:
            raise expected(field, "a path that this system can hold", f"one that is too long, '{name}'") from None
