"""A tracking store as commands leave it, written without training: models with their tags, figures and files."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param
from mlflow.tracking import MlflowClient

from mammo_mlflow.evaluation.intervals import cluster_note, score_estimates
from mammo_mlflow.evaluation.metrics import scores

REAL = ("d" * 64, "e" * 64)
"""The sha256 of a data set's training and test data."""
PAPERS = {1: 113, 2: 66, 3: 106, 4: 51}


class Models:
    """Writes finished models into a store at `where`."""

    def __init__(self, where, experiment="mammo"):
        where.mkdir(parents=True, exist_ok=True)
        self.where, self.uri = where, f"sqlite:///{where}/mlflow.db"
        self.client = MlflowClient(self.uri)
        found = self.client.get_experiment_by_name(experiment)
        artifacts = (where / "artifacts").as_uri()
        self.experiment = found.experiment_id if found else self.client.create_experiment(experiment, artifacts)
        self.clock = 1_700_000_000_000
        self.count = 0

    def run(self, tags, metrics=None, params=None, status="FINISHED", parent=None, data=None):
        """A run; its id."""
        self.clock += 60_000
        tags = {f"mammo.{name}": str(value) for name, value in tags.items()}
        if parent:
            tags["mlflow.parentRunId"] = parent
        run = self.client.create_run(self.experiment, start_time=self.clock, tags=tags, run_name=f"run {self.clock}")
        key = run.info.run_id
        points = [Metric(name, float(value), self.clock, 0) for name, value in (metrics or {}).items()]
        self.client.log_batch(key, points, [Param(*item) for item in (params or {}).items()], [])
        if data:
            entry = Dataset("data", "0", "local", json.dumps({"uri": str(data)}), None, "{}")
            self.client.log_inputs(key, [DatasetInput(entry, [InputTag("mlflow.data.context", "test")])])
        self.client.set_terminated(key, status, self.clock + 30_000)
        return key

    def model(
        self,
        task="mass_calc",
        family="pretrained",
        backbone="vgg16",
        *,
        unfrozen=0,
        dataset=REAL,
        types=None,
        skill=1.0,
        seed=0,
        patients=True,
        phantom=False,
        params=None,
        data=None,
        files=True,
        **tags,
    ):
        """A cross-validation and its final model, tested on made-up probabilities; the id of the final run."""
        self.count += 1
        kinds = np.repeat(list((types or PAPERS).keys()), list((types or PAPERS).values()))
        labels = (kinds - 1) // 2 if task == "mass_calc" else (kinds - 1) % 2
        rng = np.random.default_rng([seed, len(backbone), len(family), unfrozen])
        p = 1 / (1 + np.exp(-skill * 2 * (labels - 0.5) - rng.normal(size=len(labels))))
        groups = np.arange(len(labels)) // 2 if patients else None
        common = {
            "task": task,
            "family": family,
            "backbone": backbone,
            "unfrozen": unfrozen,
            "preset": "paper",
            "data_sha256": dataset[0],
            "test_sha256": dataset[1],
            "phantom": str(phantom).lower(),
            "control": "none",
            "weights": "imagenet-int8",
            "intervals": cluster_note(groups),
            **tags,
        }
        found = score_estimates(labels, p, groups=groups)
        metrics = {key: value for name, one in found.items() for key, value in one.metrics(f"test_{name}").items()}
        metrics |= {f"test_at_threshold_{name}": value for name, value in scores(labels, p, 0.5).items()}
        metrics |= {"threshold": 0.5, "test_patches": len(labels)}
        metrics = {name: value for name, value in metrics.items() if value == value}  # as the writer does
        if missing := "; ".join(f"test_{name}: {one.reason}" for name, one in found.items() if one.reason):
            common["no_interval"] = missing
        folds = {"fold_accuracy_mean": 0.8 + 0.01 * skill, "fold_accuracy_sd": 0.02, "oof_roc_auc": 0.7 + 0.1 * skill}
        if family != "ensemble":  # whose members have theirs
            folds |= {"fit_seconds": 100.0 + self.count}
        params = params or {"folds": "4", "holdout": "0.0"}
        name = f"mammo-{task}-{family}-{backbone}{'-tuned' if unfrozen else ''}"
        registered = {"registered_name": name, "version": str(self.count)}
        if family == "ensemble":
            key = self.run({**common, **registered}, {**metrics, **folds}, params, data=data)
        else:
            parent = self.run(common, folds, params)
            self.run({**common, "fit": "fold 1"}, {"accuracy": 0.9}, params, parent=parent)
            final = {**common, **registered, "fit": "final", "cv_run_id": parent}
            key = self.run(final, metrics, params, parent=parent, data=data)
        if files:
            frame = pd.DataFrame({"patch": np.arange(len(kinds)), "type": kinds, "label": labels, "probability": p})
            if patients:
                frame["patient_id"] = [f"P{n}" for n in groups]
            with tempfile.TemporaryDirectory() as folder:
                frame.to_parquet(Path(folder) / "test.parquet")
                self.client.log_artifact(key, str(Path(folder) / "test.parquet"))
        return key
