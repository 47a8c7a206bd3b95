"""An experiment platform for mammography patch classification on MLflow and Optuna.

`import mammo_mlflow as mm`: every command is a function of its options, and `mm.Store` reads what they have stored
(docs/python.md). The import alone brings nothing heavy; `__init__.pyi` has the types.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

__version__ = "0.2.0"

_COMMANDS = (
    *("prepare", "pretrained", "scratch", "siamese", "views", "conditioned", "controls", "ensemble", "search"),
    *(
        "predict",
        "promote",
        "request",
        "serve",
        "report",
        "compare",
        "dashboard",
        "reproduce",
        "publish",
        "verify",
        "doctor",
        "settings",
    ),
)
_OBJECTS = {
    "Store": "api.store",
    "Shown": "api.shown",
    "RunResult": "api.shown",
    "ModelResult": "api.models",
    "EnsembleResult": "api.models",
    "SearchResult": "api.models",
    "SeveralResults": "api.objects",
    "PromotionResult": "api.objects",
    "WrittenResult": "api.shown",
    "UserError": "errors",
    "CommandFailed": "errors",
}


class _Package(ModuleType):
    """The package, whose commands and objects are imported when they are used.

    They are properties, since the rooms `search` and `report` are modules of the same names as their commands.
    """

    def __dir__(self) -> list[str]:
        special = [name for name in super().__dir__() if name.startswith("__")]
        return sorted([*special, *_COMMANDS, *_OBJECTS])


def _used_later(name: str, module: str) -> property:
    def get(package: ModuleType) -> object:
        if name in _COMMANDS:
            return importlib.import_module(f"{__name__}.{module}").FUNCTIONS[name]
        return getattr(importlib.import_module(f"{__name__}.{module}"), name)

    def keep(package: ModuleType, room: object) -> None:
        vars(package)[name] = room  # by the import system, where a room has the name

    return property(get, keep)


for _name in _COMMANDS:
    setattr(_Package, _name, _used_later(_name, "api.functions"))
for _name, _module in _OBJECTS.items():
    setattr(_Package, _name, _used_later(_name, _module))
sys.modules[__name__].__class__ = _Package
