"""Two coordinators on one study in PostgreSQL share its trials, and one takes over what the other left when killed."""

import os
import signal

import optuna
import pytest
from mlflow.tracking import MlflowClient
from optuna.trial import TrialState
from support import LOG_LINE, PHANTOM, environment, start, wait_for

from mammo_mlflow.search.storage import Storage

TRIALS = 12
SPACE = """
family: pretrained
parameters:
  learning_rate: {low: 1e-4, high: 1e-2, log: true}
  optimizer: {choices: [adam, rmsprop, sgd]}
  momentum: {low: 0.5, high: 0.9, when: {optimizer: sgd}}
"""
SETTING = ["--task", "mass_calc", "--backbone", "vgg16", "--weights", "random", *PHANTOM, "--folds", "2"]
SETTING += ["--epochs", "1", "--views", "1", "--precision", "float32", "--dense", "16", "--unfrozen-layers", "0"]
SETTING += ["--fresh-seeds", "0", "--final", "none", "--executor", "inline", "--study", "shared"]


class Together:
    """A directory with two coordinators of one study at work; Optuna and MLflow each in a database of one server."""

    def __init__(self, where, cache, storage, tracking, trials):
        self.where, self.storage, self.tracking = where, storage, tracking
        (where / "space.yaml").write_text(SPACE)
        line = ["search", *SETTING, "--storage", storage, "--space", "space.yaml", "--trials", str(trials)]
        self.logs = [where / "first", where / "second"]
        self.processes = []
        for log in self.logs:
            self.processes.append(start(where, environment(cache, MLFLOW_TRACKING_URI=tracking), line, log, log))

    @property
    def said(self):
        return [log.read_text() for log in self.logs]

    @property
    def complaints(self):
        """Warnings and errors of either's log; TensorFlow, inline, has a format of its own."""
        lines = [line for said in self.said for line in said.splitlines()]
        return [
            line
            for line in lines
            if "Traceback" in line or (LOG_LINE.match(line) and line.split()[1] in ("WARNING", "ERROR"))
        ]

    @property
    def study(self):
        return optuna.load_study(study_name="shared", storage=Storage(self.storage).rdb)

    @property
    def runs(self):
        client = MlflowClient(self.tracking)
        experiment = client.get_experiment_by_name("mammo").experiment_id
        return client.search_runs([experiment])

    def finished(self):
        """How many trials each coordinator says it has ended."""
        return [sum(f"INFO trial {number}: " in said for number in range(TRIALS)) for said in self.said]

    def check(self, trials):
        """The study is whole, and both stores say the same of it."""
        found = self.study.trials
        assert [trial.number for trial in found] == list(range(trials))
        assert {trial.state for trial in found} <= {TrialState.COMPLETE, TrialState.PRUNED}
        assert len({tuple(sorted(trial.params.items())) for trial in found}) == trials
        runs = [run for run in self.runs if run.data.tags.get("mammo.level") == "trial"]
        assert sorted(int(run.data.tags["mammo.trial"]) for run in runs) == list(range(trials))
        values = {int(run.data.tags["mammo.trial"]): run.data.metrics["objective_roc_auc"] for run in runs}
        assert all(values[trial.number] == trial.value for trial in found if trial.state == TrialState.COMPLETE)
        assert [run for run in self.runs if run.info.status == "RUNNING"] == []


@pytest.fixture
def together(tmp_path, cache, phantom, postgresql, kill):
    """Starts two coordinators at once, whose study is to have so many trials."""
    started = []

    def both(trials):
        started.append(Together(tmp_path, cache, postgresql(), postgresql(), trials))
        return started[-1]

    yield both
    for process in (process for one in started for process in one.processes):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_two_coordinators_share_a_study(together):
    pair = together(TRIALS)
    assert [process.wait(240) for process in pair.processes] == [0, 0], pair.said
    pair.check(TRIALS)
    shares = pair.finished()
    assert sum(shares) == TRIALS
    assert min(shares) >= TRIALS // 10, shares
    assert pair.complaints == []


def test_the_trial_of_a_killed_coordinator_is_taken_over(together):
    pair = together(TRIALS)
    wait_for(lambda: min(pair.finished()) >= 2)
    killed, other = pair.processes
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert other.wait(240) == 0, pair.said[1]
    pair.check(TRIALS)
    owners = {trial.user_attrs["process"] for trial in pair.study.trials}
    assert len(owners) == 2
    assert pair.complaints == []
