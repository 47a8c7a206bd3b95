"""Write `mammo_mlflow/__init__.pyi`, the types of `import mammo_mlflow as mm`, from the declared commands.

python scripts/python_stub.py
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import mammo_mlflow
from mammo_mlflow.api.functions import result_type, signature
from mammo_mlflow.commands import COMMANDS
from mammo_mlflow.commands.base import Command

ROOT = Path(__file__).parents[1]
WIDTH = 120
HEAD = '''\
"""The types of the package from Python. Written by `python scripts/python_stub.py` from mammo_mlflow/commands/."""

from os import PathLike
from typing import Any, Literal

'''


def stub() -> str:
    """The text of the stub."""
    lines = [HEAD.rstrip("\n"), ""]
    origins = sorted((module, name) for name, module in mammo_mlflow._OBJECTS.items())
    lines += [f"from mammo_mlflow.{module} import {name} as {name}" for module, name in origins]
    lines += ["", "__version__: str", ""]
    for command in COMMANDS.values():
        lines += [*_function(command), ""]
    return "\n".join(lines).rstrip() + "\n"


def _function(command: Command) -> Iterator[str]:
    yield f"def {command.name}("
    yield "    *,"
    for parameter in signature(command).parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            yield f"    **{parameter.name}: Any,"
            continue
        default = "" if parameter.default is inspect.Parameter.empty else f" = {_spelled(parameter.default)}"
        line = f"    {parameter.name}: {_type(parameter.annotation)}{default},"
        if len(line) > WIDTH:  # the names of a literal, one a line
            begin, _, rest = line.partition("[")
            names, _, end = rest.rpartition("]")
            line = "\n        ".join([f"{begin}[", *(f"{name}," for name in names.split(", "))]) + f"\n    ]{end}"
        yield line
    yield f") -> {result_type(command)}:"
    yield f'    """{command.summary[0].upper()}{command.summary[1:]}."""'


def _type(annotation: Any) -> str:
    """An annotation as the stub spells it."""
    if get_origin(annotation) is Literal:
        return f"Literal[{', '.join(map(_spelled, get_args(annotation)))}]"
    if isinstance(annotation, types.UnionType) or str(get_origin(annotation)) == "typing.Union":
        return " | ".join(map(_type, get_args(annotation)))
    if annotation is type(None):
        return "None"
    return {"os.PathLike[str]": "PathLike[str]"}.get(str(annotation), getattr(annotation, "__name__", str(annotation)))


def _spelled(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


if __name__ == "__main__":
    (ROOT / "mammo_mlflow" / "__init__.pyi").write_text(stub(), encoding="utf-8")
