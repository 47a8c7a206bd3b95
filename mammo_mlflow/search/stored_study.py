"""An Optuna study in its storage: opened by name and key, its best trial, settings, notes for the dashboard."""

from __future__ import annotations

import json
import math
import uuid
import warnings

import optuna
import pandas as pd
from optuna import Study as Study  # what callers of this module are given
from optuna.trial import FrozenTrial, TrialState

from mammo_mlflow.checks import Value
from mammo_mlflow.errors import expected, unknown_name
from mammo_mlflow.files import canonical_json
from mammo_mlflow.names import Attribute, Metric
from mammo_mlflow.search.storage import Storage
from mammo_mlflow.search.study_spec import StudySpec


def open_study(storage: Storage, spec: StudySpec, key: str) -> optuna.Study:
    """Open the Optuna study of a name, or create it. Raises `UserError` where its key is another."""
    directions = [objective.direction for objective in spec.objectives]
    with storage.alone():
        study = optuna.create_study(
            storage=storage.rdb,
            study_name=spec.name,
            sampler=optuna.samplers.RandomSampler(),  # draws nothing: a trial is given what `TrialProposer` settled
            pruner=spec.pruner or optuna.pruners.NopPruner(),
            directions=directions,
            load_if_exists=True,
        )
        asked = study.user_attrs.get(Attribute.KEY, key), [found.name.lower() for found in study.directions]
        if asked != (key, directions):
            wanted = "the name of a new study, or of one with the same data, folds, space and objective"
            raise expected("study", wanted, f"'{study.study_name}'")
        if Attribute.ID not in study.user_attrs:
            with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
                study.set_metric_names([objective.name for objective in spec.objectives])
            study.set_user_attr(Attribute.KEY, key)
            study.set_user_attr(Attribute.SPACE, canonical_json(spec.space.facts()))
            study.set_user_attr(Attribute.ID, uuid.uuid4().hex)
    return study


def find_study(storage: Storage, name: str) -> optuna.Study:
    """Open a study that is there. Raises `UserError` for a name that none has."""
    names = optuna.get_all_study_names(storage.rdb)
    if name not in names:
        raise unknown_name("study", name, names)
    return optuna.load_study(study_name=name, storage=storage.rdb)


def trials_table(study: optuna.Study) -> pd.DataFrame:
    """A row for each trial: number, state, its values of the objectives, what it drew, its attributes, duration."""
    values = "values" if len(study.directions) > 1 else "value"
    table = study.trials_dataframe(attrs=("number", "state", values, "params", "user_attrs", "duration"))
    table.columns = [name.removeprefix("params_").removeprefix("user_attrs_") for name in table.columns]
    return table.drop(columns=[Attribute.SETTING], errors="ignore")


def is_full(study: optuna.Study, spec: StudySpec) -> bool:
    """Whether the study has all its trials, and none of them is running."""
    states = [trial.state for trial in study.get_trials(deepcopy=False)]
    finished = sum(state.is_finished() for state in states)
    return finished >= (spec.trials or math.inf) and TrialState.RUNNING not in states


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """The complete trial with the best first objective, of equal ones the first; None without a complete trial."""
    complete = [trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.COMPLETE]
    sign = -1 if study.directions[0] == optuna.study.StudyDirection.MAXIMIZE else 1
    return min(complete, key=lambda trial: (sign * trial.values[0], trial.number), default=None)


def setting_of(trial: FrozenTrial) -> dict[str, Value]:
    """The values of a trial's experiment."""
    return json.loads(trial.user_attrs[Attribute.SETTING])


def write_note(what: optuna.Trial | optuna.Study, text: str) -> None:
    """Store a note in Markdown, which optuna-dashboard shows with a trial or study."""
    from optuna_dashboard import save_note  # takes a second, which is better spent while folds train

    save_note(what, text)


def metric_name(objective: str) -> str:
    """The name of an objective's MLflow metric, which may not contain `=`."""
    return f"{Metric.OBJECTIVE}{objective.replace('=', '_')}"
