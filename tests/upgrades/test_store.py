"""The stores of earlier releases: the commands that made them, issued again, find everything and train nothing."""

import contextlib
import logging
import re
import shlex
import shutil
import signal
import sqlite3
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
from matplotlib.figure import Figure
from support import Store, call_command

from mammo_mlflow.jobs import devices

TRAINED = re.compile(r"(fold \d+|refit): done in ")
STORES = sorted(Path(__file__).parent.glob("store_*.tar.xz"))


def move(database, where):
    """Make the absolute paths in a store those of the folder that it lies in now."""
    with contextlib.closing(sqlite3.connect(database)) as file, file:
        ((first,),) = file.execute("SELECT artifact_location FROM experiments WHERE name = 'mammo'")
        old = first.partition("/mlruns/")[0]
        for (table,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for _, column, *_ in file.execute(f"PRAGMA table_info({table})").fetchall():
                change = f"UPDATE {table} SET {column} = replace({column}, ?, ?) WHERE instr({column}, ?)"
                file.execute(change, (old, str(where), old))


class Upgraded:
    """A store of an earlier release, and what its commands say to the present code."""

    def __init__(self, archive, where):
        shutil.unpack_archive(archive, where)  # `filter` is not there before Python 3.11.4
        move(where / "mlflow.db", where)
        self.where, self.store = where, Store(where)
        self.commands = (where / "commands.txt").read_text().splitlines()
        self.answers = {path.name: pd.read_csv(path) for path in where.glob("*.csv")}
        self.runs, self.versions, self.trials = self.store.runs(), self.registered(), self.studied()
        self.outcomes = {}
        for line in self.commands:
            self.outcomes[line] = self.issue(line)
            if TRAINED.search(self.outcomes[line].err):  # at once, since all that follows would be trained too
                pytest.fail(f"{line}\ntrains again:\n{self.outcomes[line].err}")
        self.again, self.versions_again = self.store.runs()[len(self.runs) :], self.registered()

    def issue(self, line, *more):
        """A command in this process, which has TensorFlow already."""
        inline = () if line.startswith("report") else ("--executor", "inline")
        return call_command(*shlex.split(line), *more, *inline, code=None)

    def registered(self):
        """The names and numbers of all versions."""
        return {(one.name, int(one.version)) for one in self.store.client.search_model_versions()}

    def studied(self):
        """The trials of the study."""
        return optuna.load_study(study_name=None, storage=f"sqlite:///{self.where}/optuna.db").trials


def trained(runs):
    """The keys of the fits and final models that these runs have made themselves."""
    return {run.data.tags["mammo.key"] for run in runs if "mammo.fit" in run.data.tags and not reused(run)}


def reused(run):
    return "mammo.reused_from" in run.data.tags


@pytest.fixture(scope="module", params=STORES, ids=[path.name.partition(".")[0] for path in STORES])
def upgraded(request, tmp_path_factory, keras):
    """The commands' figures are made but not drawn, which would take half of the time."""
    where = tmp_path_factory.mktemp("upgraded")
    handlers, on_term = logging.root.handlers[:], signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MAMMO_CACHE_DIR", str(where / "cache"))
        patch.chdir(where)
        patch.setattr(devices, "processor_bfloat16", lambda: True)  # as where the store was made: `auto` is in its keys
        with patch.context() as undrawn:
            undrawn.setattr(Figure, "savefig", lambda figure, file, **settings: file.write(b"\x89PNG\r\n\x1a\n"))
            made = Upgraded(request.param, where)
        yield made
    logging.root.handlers[:] = handlers
    signal.signal(signal.SIGTERM, on_term)


def test_every_command_does_what_it_did(upgraded):
    assert {line: one.err for line, one in upgraded.outcomes.items() if one.code} == {}
    families = {run.data.tags.get("mammo.family") for run in upgraded.again}
    assert families >= {"pretrained", "scratch", "siamese", "conditioned", "texture", "ensemble"}


def test_every_fit_is_found_and_none_is_trained(upgraded):
    assert trained(upgraded.again) == set()
    for line, one in upgraded.outcomes.items():
        found = re.findall(r"(\d+) of (\d+) fits were finished before and are reused", one.err)
        assert all(some == every for some, every in found)
        assert found or line.split()[0] in ("ensemble", "promote", "predict")


def test_every_registered_model_is_found_and_none_is_made(upgraded):
    assert len(upgraded.versions) == 10
    assert upgraded.versions_again == upgraded.versions


def test_a_finished_study_has_no_more_trials_and_goes_on_where_it_is_asked_for_more(upgraded):
    (line,) = (line for line in upgraded.commands if line.startswith("search"))
    assert "4 complete" in upgraded.outcomes[line].out
    before = upgraded.store.runs()
    assert upgraded.issue(line, "--trials", "5").code == 0
    now = upgraded.studied()
    assert [(one.params, one.values) for one in now[:4]] == [(one.params, one.values) for one in upgraded.trials]
    assert len(now) == 5
    more = trained(upgraded.store.runs()[len(before) :])
    assert more and not more & trained(upgraded.runs)


def test_models_answer_as_they_did(upgraded):
    assert set(upgraded.answers) == {"champion.csv", "ensemble.csv", "conditioned.csv"}
    for name, then in upgraded.answers.items():
        now = pd.read_csv(upgraded.where / name)
        assert then["probability"].std() > 1e-3
        for column in then.select_dtypes("number"):
            np.testing.assert_allclose(now[column], then[column], atol=1e-4)


def test_a_model_is_promoted(upgraded):
    """The champion there was stays; the other task gets its first one."""
    found = upgraded.issue("promote --task benign_malignant --calibration 1")
    assert "champion of benign_malignant: mammo-benign_malignant v1 (" in found.out
    champion = upgraded.store.client.get_model_version_by_alias("mammo-mass_calc", "champion")
    assert int(champion.version) == 1


def test_the_report_has_the_figures_that_were_stored(upgraded):
    data = " ".join(re.findall(r"--phantom-\w+ \d+", upgraded.commands[0]))
    assert upgraded.issue(f"report --out report {data}").code == 0
    assert (upgraded.where / "report" / "index.html").is_file()
    table = pd.read_csv(upgraded.where / "report" / "tables" / "tables.csv").dropna(subset=["model"])
    table = table[(table["split"] == "test") & (table["metric"] == "accuracy")]
    then = {
        f"{run.data.tags['mammo.registered_name']} v{run.data.tags['mammo.version']}": run.data.metrics["test_accuracy"]
        for run in upgraded.runs
        if "mammo.registered_name" in run.data.tags and "test_accuracy" in run.data.metrics
    }
    shown = dict(zip(table["model"], table["value"], strict=True))
    assert len(shown) >= 5
    assert shown == pytest.approx({name: then[name] for name in shown}, abs=1e-5)
