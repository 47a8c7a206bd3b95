"""The command `request`: write patches as the JSON that a served model takes, for `curl`."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np

from mammo_mlflow.commands.request import RequestOptions
from mammo_mlflow.errors import expected, unknown_name
from mammo_mlflow.experiment import BASELINE, OTHER_VIEW, PATCH, ROWS
from mammo_mlflow.files import target_file, whole
from mammo_mlflow.terminal import say
from mammo_mlflow.workflows.input_pairs import find_input_pairs


def run(options: RequestOptions) -> Path:
    """Run `request`: write the JSON request of every input pair (see `find_input_pairs`); return its path.

    Raises `UserError`.
    """
    target = target_file("output", options.output)
    inputs = options.inputs.split(",")
    for name in inputs:
        if name not in ROWS:
            raise unknown_name("inputs", name, ROWS)
    if PATCH not in inputs:
        raise expected("inputs", f"{PATCH}, {PATCH},{BASELINE} or {PATCH},{OTHER_VIEW}", f"'{options.inputs}'")
    with tempfile.TemporaryDirectory() as folder:
        found = find_input_pairs(options, options.size, BASELINE in inputs, Path(folder))
        pairs = np.load(found.tensor, mmap_mode="r", allow_pickle=False)
        places = found.places(inputs)
        sides = {name: pairs[ROWS[name] :: 2, :, :, None][places.get(name, slice(None))].tolist() for name in inputs}
    body = {"inputs": sides if len(inputs) > 1 else sides[PATCH]}
    with whole(target) as part:
        part.write_text(json.dumps(body), encoding="utf-8")
    say(f"{len(sides[PATCH])} abnormalities, {' and '.join(inputs)}: {target}")
    say(f"curl localhost:5001/invocations -H 'Content-Type: application/json' -d @{target}")
    return target
