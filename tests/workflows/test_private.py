"""What a run leaves says nothing of whose folders lay where, or who ran it."""

import shutil
import sqlite3

import h5py
import numpy as np
import pydicom
import pytest
from support import PHANTOM
from support_collection import plan, write_collection

from mammo_mlflow.backbones import BACKBONES
from mammo_mlflow.wording import without_paths

pytestmark = pytest.mark.usefixtures("system")  # whole commands, too slow for the quick tier

SECRET = "of-dr-secret"
"""In the path of everything that a command is given, and the user's name."""
SETTING = ["--task", "mass_calc", "--backbone", "vgg16", "--folds", "2", "--epochs", "1", "--views", "1"]
SETTING += ["--precision", "float32", "--unfrozen-layers", "0", *PHANTOM]


def weights_file(folder):
    """A file of as many numbers as VGG16 has, of any shape: a scripted job does not read it."""
    folder.mkdir()
    with h5py.File(folder / "vgg16_notop_mine.h5", "w") as file:
        file.create_dataset("all", (BACKBONES["vgg16"].parameters,), np.float32, chunks=True, compression="gzip")
    return folder


@pytest.fixture
def home(tmp_path, phantom, monkeypatch):
    home = tmp_path / SECRET
    monkeypatch.setenv("HOME", str(home))
    for name in ("USER", "LOGNAME"):
        monkeypatch.setenv(name, SECRET)
    shutil.copytree(phantom, home / "patches")
    return home


def stored(where):
    """All texts of a store: its tables, but for the places of artifacts, which MLflow keeps, and its files."""
    texts = []
    with sqlite3.connect(where / "mlflow.db") as store:
        for (table,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            columns = [row[1] for row in store.execute(f"PRAGMA table_info({table})")]
            told = [one for one in columns if not one.startswith(("artifact", "storage_location"))]
            texts += [str(row) for row in store.execute(f"SELECT {', '.join(told)} FROM {table}")] if told else []
    files = [path for folder in ("mlruns", "report") for path in (where / folder).rglob("*") if path.is_file()]
    return texts + [path.read_bytes().decode("utf-8", "replace") for path in files]


def test_no_path_and_no_user_is_left_in_store_artifacts_and_pages(pretend, home, tmp_path, cli, monkeypatch):
    where = tmp_path / "work"
    weights = weights_file(home / "weights")
    given = [*SETTING, "--data", str(home / "patches"), "--weights", str(weights)]
    assert pretend(where, *given).code == 0
    found = pretend(where, *given, "--trials", "1", "--fresh-seeds", "0", "--pruner", "none", name="search")
    assert found.code == 0, found.err
    monkeypatch.chdir(where)
    monkeypatch.setenv("MAMMO_CACHE_DIR", str(pretend.cache))
    assert cli(command="report").code == 0
    assert "Training pairs that differ most" in (where / "report" / "index.html").read_text()
    texts = stored(where)
    assert any("sha256:" in text for text in texts) and any("mammo-data:/patches" in text for text in texts)
    assert not [text[:300] for text in texts if SECRET in text]
    again = pretend(where, *SETTING, "--data", str(home / "patches"), "--weights", "sha256:" + "0" * 64)
    assert again.code == 2
    assert "weights: expected those of sha256 000000000000… (give weights=DIR once), found none" in again.err


def test_a_reason_has_no_path_in_it():
    assert without_paths("/home/me/data: Permission denied") == "…/data: Permission denied"
    assert without_paths("x: '~me/my data/a.npy', (/srv/b)") == "x: '…/my data/a.npy', (…/b)"
    assert without_paths("models:/a/1 at http://host/a/b and 1/2") == "models:/a/1 at http://host/a/b and 1/2"


def test_no_name_in_a_film_comes_out_of_prepare(system, cli, tmp_path):
    """Not of films that are cut, not of one that is damaged, not of one of somebody else's."""
    films = tmp_path / "films"
    write_collection(films, plan(3))
    files = sorted(films.rglob("*.dcm"))
    for number, path in enumerate(files):
        film = pydicom.dcmread(path)
        film.PatientName = film.InstitutionName = film.OperatorsName = f"{SECRET}^Jane"
        film.PatientBirthDate, film.PatientComments = "19500101", SECRET
        if number == 0:
            film.PatientID = film.SeriesDescription = SECRET
        film.save_as(path)
    with files[1].open("r+b") as file:
        file.truncate(files[1].stat().st_size // 2)
    found = cli("--source", str(films), "--out", "made", "--workers", "1", command="prepare")
    assert found.code == 0, found.err
    assert "P_0000" in (tmp_path / "made" / "train_groups.csv").read_text()
    told = [found.out, found.err, *stored(tmp_path)]
    told += [path.read_bytes().decode("utf-8", "replace") for path in (tmp_path / "made").iterdir()]
    assert not [text[:200] for text in told if SECRET in text or "19500101" in text]
