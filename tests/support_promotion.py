"""Candidates with planted predictions, registered in a real store, and the command that decides about them."""

import numpy as np
import pandas as pd
from mlflow.tracking import MlflowClient
from support import call_command

from mammo_mlflow.names import Tag
from mammo_mlflow.tracking.champions import champion_of
from mammo_mlflow.tracking.logged_models import log_model
from mammo_mlflow.tracking.registry import register
from mammo_mlflow.tracking.runs import Writer

N, FOLDS, SIZE = 400, 4, 8
TASK_MODEL = "mammo-mass_calc"
LABELS = np.arange(N) % 2
PATIENTS = np.arange(N) // 2


def predictions(skill, seed=0):
    """Calibrated probabilities (n,): the posterior of a score that is normal with means ± skill / 2."""
    score = np.random.default_rng(seed).normal(skill * (LABELS - 0.5), 1)
    return 1 / (1 + np.exp(-skill * score))


class Place:
    """A store with planted candidates, and the command in it."""

    def __init__(self, where, model, server=None):
        self.where, self.model = where, model
        self.uri = server or f"sqlite:///{where}/mlflow.db"
        self.client = MlflowClient(self.uri)
        artifacts = None if server else (where / "artifacts").as_uri()
        self.experiment = self.client.create_experiment("mammo", artifact_location=artifacts)
        self.writer = Writer(self.client, self.experiment, {})

    def plant(self, name, probabilities, threshold=0.5, views=1, **tags):
        """Register a candidate with these out-of-fold predictions: its version, as `name v1`.

        Several views are of lesions, one of each class a patient.
        """
        run = self.writer.start_run(name, parent=None, tags={}, params={})
        patients = PATIENTS // views
        frame = pd.DataFrame({"patch": np.arange(N), "fold": patients % FOLDS, "label": LABELS})
        frame["probability"], frame["patient_id"] = probabilities, patients
        if views > 1:
            frame["lesion"] = 2 * patients + LABELS
        frame.to_parquet(self.where / "oof.parquet")
        run.log_file(self.where / "oof.parquet")
        run.log_metrics({"test_roc_auc": 0.5, "test_roc_auc_low": 0.4, "test_roc_auc_high": 0.6})
        run.finish()
        self.writer.drain()
        marks = {f"mammo.{key}": value for key, value in ({"task": "mass_calc", "data_sha256": "a"} | tags).items()}
        marks |= {"mammo.folds_sha256": "b", "mammo.threshold": repr(threshold)}
        marks.setdefault("mammo.phantom", "false")
        logged = log_model(self.writer, run.id, "model", self.model, marks, self.where / f"fetched-{run.id}")
        full = f"mammo-mass_calc-{name}"
        number = register(self.writer, full, logged, run.id, marks, "planted")
        return f"{full} v{number}"

    def promote(self, *arguments, code=0):
        """The command, in this process."""
        return call_command("promote", "--task", "mass_calc", "--executor", "inline", *arguments, code=code)

    @property
    def champion(self):
        """What the champion was promoted from."""
        found = champion_of(self.client, "mass_calc")
        return None if found is None else found.tags[Tag.PROMOTED_FROM]

    @property
    def previous(self):
        aliases = self.client.get_registered_model(TASK_MODEL).aliases
        return None if "previous" not in aliases else int(aliases["previous"])

    @property
    def versions(self):
        return sorted(int(one.version) for one in self.client.search_model_versions(f"name = '{TASK_MODEL}'"))

    def decisions(self):
        runs = self.client.search_runs(
            [self.experiment], "tags.`mammo.family` = 'promotion'", order_by=["attributes.start_time ASC"]
        )
        return [(run.data.tags["mammo.decision"], run.info.status) for run in runs]
