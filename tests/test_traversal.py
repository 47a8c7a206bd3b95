"""Names, paths and addresses that try to lead elsewhere, to be run or to be markup: nothing is written or run."""

import csv
import io
import json
import logging
import os
import signal

import pytest
from mlflow.entities import Dataset, DatasetInput
from support_malformed import WORDS

from mammo_mlflow.cli import main
from mammo_mlflow.files import below
from mammo_mlflow.wording import no_formula

pytestmark = pytest.mark.usefixtures("system")  # whole commands, too slow for the quick tier

GIVEN = {
    "predict": ["--input", "phantom", "--output", "o.csv", "--model"],
    "serve": ["--model"],
    "promote": ["--task", "mass_calc", "--executor", "inline", "--candidate"],
    "ensemble": ["--task", "mass_calc", "--executor", "inline", "--members"],
    "settings": ["search", "--task", "mass_calc", "--backbone", "vgg16", "--space"],
}
"""Commands that look something up in store, registry or folders, and the option whose value is tried."""


@pytest.fixture
def place(models, tmp_path, phantom, cache, monkeypatch):
    """A folder with a store, in a folder that is watched."""
    where = tmp_path / "a" / "b"
    where.mkdir(parents=True)
    (tmp_path / "mlflow.db").rename(where / "mlflow.db")
    monkeypatch.chdir(where)
    monkeypatch.setenv("MAMMO_CACHE_DIR", str(cache))
    handlers, on_term = logging.root.handlers[:], signal.getsignal(signal.SIGTERM)
    yield where
    logging.root.handlers[:] = handlers
    signal.signal(signal.SIGTERM, on_term)


def everything(folder):
    return sorted(str(path) for path in folder.rglob("*") if not path.name.startswith("mlflow.db"))


@pytest.mark.parametrize("name", GIVEN)
def test_what_is_asked_for_by_such_a_name_is_refused(place, tmp_path, capfd, name):
    before = everything(tmp_path)
    words = [word for word in WORDS if word or name != "settings"]  # no space is the usual one
    if name == "predict":
        words += [spelled.format(word) for word in WORDS for spelled in ("models:/{}", "{}@champion")]
    for word in words:
        assert main([name, *GIVEN[name][:-1], f"{GIVEN[name][-1]}={word}"]) == 2, word
        lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("mammo_mlflow: ")]
        assert lines and all(len(line) <= 400 for line in lines), word
        assert everything(tmp_path) == before, word


@pytest.mark.parametrize("number", range(0, len(WORDS), 4))
def test_mlflow_experiments_of_such_names_are_no_folders(place, tmp_path, monkeypatch, number, capfd):
    name = WORDS[number]
    if "\0" in name or not name.strip():
        pytest.skip("no environment variable holds it, or it is none")
    monkeypatch.setitem(os.environb, b"MLFLOW_EXPERIMENT_NAME", name.encode("utf-8", "surrogateescape")[:500])
    main(["promote", "--task", "mass_calc", "--executor", "inline"])
    assert {path.name for path in tmp_path.rglob("*") if ".db" not in path.name} <= {"a", "b", "mlruns"}
    assert "Traceback" not in capfd.readouterr().err


def test_a_store_that_somebody_else_wrote_is_data_alone(models, place, tmp_path, capfd):
    models.client = type(models.client)(f"sqlite:///{place}/mlflow.db")
    words = [word for word in WORDS if word and "\0" not in word and word.isprintable() and len(word) < 400]
    words.sort(key=lambda word: word[0] in "=@")  # the newest are shown
    for number, word in enumerate(words):
        run = models.model(
            backbone=("vgg16", "resnet50", "inceptionv3")[number % 3],
            unfrozen=number % 2,
            weights=word,
            intervals=word,
            preset=word,
            no_interval=f"test_roc_auc: {word}",
            device_name=word,
        )
        models.client.set_tag(run, "mammo.registered_name", word)
        models.client.set_tag(run, "mlflow.runName", word)
        source = Dataset(word, "0", "local", json.dumps({"uri": word}), None, "{}")
        models.client.log_inputs(run, [DatasetInput(source, [])])
    assert main(["report"]) == 0
    text = (place / "report" / "index.html").read_text()
    for markup in ("<script>alert", 'onload="alert', "{{7*7}}x", "\u202e<"):
        assert markup not in text
    assert ">49<" not in text
    with (place / "report" / "tables" / "tables.csv").open() as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell[:1] in "=@+\t" and cell]
    assert {path.name for path in tmp_path.iterdir()} <= {"a", "artifacts"}
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"b"}
    assert not [path for path in tmp_path.rglob("*outside*")]


def test_a_name_of_a_store_is_no_way_out_of_a_folder(tmp_path):
    for word in WORDS:
        assert below(tmp_path, word).resolve().parent == tmp_path.resolve(), word
    assert below(tmp_path, "0f3a") == tmp_path / "0f3a"
    assert below(tmp_path, "mammo-mass_calc v3") == tmp_path / "mammo-mass_calc v3"


def test_a_cell_is_no_formula_and_numbers_stay():
    told = [no_formula(cell) for cell in ("=1+1", "+1", "-0.5", "-x", "@a", "\t=1", "plain", -0.5, "+0.012", "-inf")]
    assert told == ["'=1+1", "+1", "-0.5", "'-x", "'@a", "'\t=1", "plain", -0.5, "+0.012", "-inf"]
    text = io.StringIO()
    csv.writer(text).writerow(told)
    assert "\n=" not in text.getvalue()
