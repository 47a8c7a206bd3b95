"""Look at the database of studies, for the command `doctor`."""

from __future__ import annotations

from collections.abc import Iterator

import optuna
from optuna.trial import TrialState

from mammo_mlflow.databases import examine
from mammo_mlflow.errors import UserError
from mammo_mlflow.findings import BROKEN, FINE, ODD, Finding
from mammo_mlflow.search.storage import Storage
from mammo_mlflow.wording import scrubbed


def check_studies(url: str) -> Iterator[Finding]:
    """Look at the database of studies at an address, and for trials that were cut off."""
    where = f"studies {scrubbed(url)}"
    if url.startswith("sqlite"):
        found = examine(where, url)
        yield found
        if found.advice:
            return
    try:
        storage = Storage(url)
        studies = optuna.get_all_study_summaries(storage.rdb)
    except UserError as problem:
        found_instead = str(problem).partition("found: ")[2] or str(problem)
        yield Finding(BROKEN, where, found_instead, "start the server, or set another storage")
        return
    running = 0
    for summary in studies:
        study = optuna.load_study(study_name=summary.study_name, storage=storage.rdb)
        running += len(study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))
    said = f"{len(studies)} studies"
    if running:
        advice = "the next `search` with the same options takes up those whose process is gone"
        yield Finding(ODD, where, f"{said}, {running} trials RUNNING", advice)
    else:
        yield Finding(FINE, where, f"{said}, no trial RUNNING")
