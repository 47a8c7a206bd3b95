"""MLflow's own scoring server over one model directory, told apart from `mlflow models serve` by one thing alone.

Before it converts a request to arrays MLflow copies it number by number, though it has just parsed it and nobody else
holds it: that is three times the memory and most of the time of a large request, so it is left out here.
"""

from __future__ import annotations

import os
from typing import Any

from mlflow.pyfunc import scoring_server
from mlflow.utils import proto_json_utils

MODEL = "MAMMO_SERVED_MODEL"
"""The environment variable with the path of the model directory."""


def make_app() -> Any:
    """The ASGI application, for `uvicorn --factory`."""
    vars(proto_json_utils)["deepcopy"] = _as_it_is
    return scoring_server.init(scoring_server.load_model_with_mlflow_config(os.environ[MODEL]))


def _as_it_is(parsed: Any) -> Any:
    return parsed
