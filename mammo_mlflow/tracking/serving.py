"""Serve one model directory by MLflow's own scoring server, with every request's values checked.

They are checked before they are cast (`invocation`), and patches of another scale than the training patches' are
answered with a warning, none of which `mlflow models serve` does. Reading requests here also leaves out a copy that
MLflow makes of every request, number by number: three times the memory and most of the time of a large one.
"""

from __future__ import annotations

import gc
import io
import logging
import os
import threading

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, INTERNAL_ERROR
from mlflow.pyfunc import PyFuncModel, scoring_server
from mlflow.types import Schema

from mammo_mlflow.answer_sets import read_limits
from mammo_mlflow.errors import LONGEST_LINE, UserError, cut
from mammo_mlflow.experiment import ROWS
from mammo_mlflow.names import METADATA
from mammo_mlflow.pixels import odd_values, summarise
from mammo_mlflow.tracking.invocation import JSON, read_request
from mammo_mlflow.tracking.server_limits import limited
from mammo_mlflow.tracking.vetting import ranges_of_model

MODEL = "MAMMO_SERVED_MODEL"
"""The environment variable with the path of the model directory."""

_log = logging.getLogger(__name__)
_one_at_a_time = threading.Lock()
"""What requests take of memory does not add up, and each alone has all processors."""


def make_app() -> object:
    """Make the ASGI application that serves the directory in `MAMMO_SERVED_MODEL`, behind the limits of requests."""
    vars(scoring_server)["invocations"] = answer_request
    app = scoring_server.init(scoring_server.load_model_with_mlflow_config(os.environ[MODEL]))
    gc.freeze()  # or Python goes over all that was imported again and again while it parses a request
    return limited(app)


def answer_request(
    body: bytes, content_type: str | None, model: PyFuncModel, schema: Schema
) -> scoring_server.InvocationsResponse:
    """Answer a request, in place of MLflow's own function, by JSON: predictions, answer sets, warnings.

    Of a model with answer sets, `set` has the one class of each patch or `refer`, and `coverage` how often it has the
    right one.

    Raises `MlflowException`, which that server answers as JSON: one line with status 400 for what is refused.
    """
    with _one_at_a_time:
        try:
            inputs = read_request(body, content_type, schema)
        except UserError as problem:
            line = cut(" ".join(str(problem).split()), LONGEST_LINE)
            raise MlflowException(line, error_code=BAD_REQUEST) from None
        try:
            found = model.predict(inputs if schema.has_input_names() else next(iter(inputs.values())))
        except Exception:
            _log.exception("a request that was in order was not answered")
            raise MlflowException("the model failed; the server's log says why", INTERNAL_ERROR) from None
    warnings = _warnings(inputs, model)
    more = _sets(found, model) | ({"warnings": warnings} if warnings else {})
    out = io.StringIO()
    scoring_server.predictions_to_json(found, out, more or None)
    return scoring_server.InvocationsResponse(out.getvalue(), 200, JSON)


def _sets(found: np.ndarray | pd.DataFrame, model: PyFuncModel) -> dict[str, object]:
    """The answer sets of the model's answers, and their coverage; nothing where the model has none.

    Probabilities are (n, 1), or the column of an ensemble's table.
    """
    told = (model.metadata.metadata or {}).get(METADATA) or {}
    limits = read_limits(told)
    if limits is None:
        return {}
    probability = found["probability"] if isinstance(found, pd.DataFrame) else np.reshape(found, -1)
    return {"set": limits.in_words(probability, told["classes"]), "coverage": limits.coverage}


def _warnings(inputs: dict[str, np.ndarray], model: PyFuncModel) -> list[str]:
    known = ranges_of_model(model.metadata)
    odd = {name: odd_values(values, known.get(name)) for name, values in inputs.items() if name in ROWS}
    return summarise(odd, range(len(next(iter(inputs.values())))))
