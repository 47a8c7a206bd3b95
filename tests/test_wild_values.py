"""Values that nobody means: each is one line and exit code 2, in seconds, and nothing is left behind."""

import os

import pytest
from support import SMALL

from mammo_mlflow.errors import cut, expected, unknown_name

LONG = "x" * 300
TASK = ["--task", "mass_calc", "--executor", "inline", *SMALL]


def refused(outcome, *words):
    assert outcome.code == 2, outcome.err
    assert len(outcome.complaints) == 1, outcome.err
    for word in words:
        assert word in outcome.complaints[0]
    assert len(outcome.complaints[0]) <= 400


WILD = {
    "seeds": ["1000000000", "1" + "0" * 400, "9" * 5000, "inf", "1e999"],
    "workers": ["100000000"],
    "threads": ["100000000", "0"],
    "epochs": ["100000000", "-0"],
    "tuning_epochs": ["100000000"],
    "final_epochs": ["100000000"],
    "early_stop": ["100000000"],
    "batch_size": ["100000000"],
    "folds": ["100000000"],
    "views": ["100000000"],
    "unfrozen_layers": ["100000000"],
    "seed": ["-1", "4294967296"],
    "cache_limit_gb": ["inf", "nan", "1e999", "-0", "1e300"],
    "learning_rate": ["inf", "nan", "1e999", "-0.0", "1e300"],
    "dropout": ["inf", "nan", "1"],
    "holdout": ["nan", "1"],
    "dense": ["9" * 400, "-".join(["8"] * 1000), "٣"],
    "class_weights": ["1:" + "9" * 400, "٣:1"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WILD.items() for value in values])
def test_wild_numbers_of_an_experiment(cli, tmp_path, name, value):
    refused(cli(*TASK, f"--{name.replace('_', '-')}={value}"), f"{name}: expected ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", ["9" * 400, ",".join(["8"] * 1000), "8/12345"])
def test_wild_blocks(cli, value):
    refused(cli("--task", "mass_calc", "--blocks", value, command="scratch"), "blocks: expected filters")


@pytest.mark.parametrize(
    ("command", "arguments", "field"),
    [
        ("search", ["--task", "mass_calc", "--trials", "99999999999"], "trials"),
        ("search", ["--task", "mass_calc", "--timeout", "inf"], "timeout"),
        ("search", ["--task", "mass_calc", "--fresh-seeds", "99999999999"], "fresh_seeds"),
        ("ensemble", ["--task", "mass_calc", "--folds", "99999999999"], "folds"),
        ("promote", ["--task", "mass_calc", "--calibration", "nan"], "calibration"),
        ("serve", ["--model", "models:/a/1", "--workers", "99999999999"], "workers"),
        ("prepare", ["--source", ".", "--out", "made", "--workers", "99999999999"], "workers"),
        ("prepare", ["--source", ".", "--out", "made", "--size", "99999999999"], "size"),
        ("report", ["--data", "phantom", "--phantom-train", "99999999999"], "phantom: train"),
        ("report", ["--data", "phantom", "--phantom-train", "100000", "--phantom-size", "1024"], "phantom"),
    ],
)
def test_wild_numbers_of_other_commands(cli, command, arguments, field):
    refused(cli(*arguments, command=command), f"{field}: expected ")


PATHS = [
    ("pretrained", TASK, "data"),
    ("pretrained", TASK, "cache_dir"),
    ("pretrained", TASK, "weights"),
    ("search", ["--task", "mass_calc"], "space"),
    ("prepare", ["--out", "made"], "source"),
    ("prepare", ["--source", "."], "out"),
    ("prepare", ["--source", ".", "--out", "made"], "csv"),
    ("report", [], "out"),
    ("reproduce", [], "out"),
    ("predict", ["--model", "m/1", "--output", "o.csv"], "input"),
    ("predict", ["--model", "m/1", "--input", "phantom"], "output"),
    ("predict", ["--model", "m/1", "--input", "phantom", "--output", "o.csv"], "overlays"),
    ("request", ["--input", "film.dcm", "--output", "o.json"], "mask"),
]


@pytest.mark.parametrize("value", [LONG, "x/" * 3000, "a\0b", os.fsdecode(b"caf\xe9"), "~no-such-user/x"])
@pytest.mark.parametrize(("command", "arguments", "field"), PATHS)
def test_names_that_no_file_can_have(cli, tmp_path, command, arguments, field, value):
    refused(cli(*arguments, f"--{field.replace('_', '-')}", value, command=command), f"{field}: expected ")
    assert list(tmp_path.iterdir()) == []


def test_a_cache_directory_of_the_environment_is_looked_at_too(cli, monkeypatch):
    monkeypatch.setenv("MAMMO_CACHE_DIR", LONG)
    refused(cli(*TASK), "MAMMO_CACHE_DIR: expected a path that this system can hold")


def test_a_name_that_is_not_utf8_is_a_line_from_the_shell_too(run_command, tmp_path, cache):
    refused(run_command(tmp_path, cache, *TASK, "--data", os.fsdecode(b"caf\xe9")), "data: expected text in UTF-8")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [["--task", "q" * 100_000], ["--backbone", "q" * 100_000], ["--" + "q" * 100_000, "1"]]
)
def test_what_is_repeated_is_cut(cli, arguments):
    refused(cli(*TASK, *arguments), "q" * 100 + "…" + "q" * 50)


def test_a_wild_command_is_cut(cli):
    refused(cli(command="q" * 100_000), "…")


def test_every_message_cuts_what_was_found():
    for problem in (expected("field", "less", "y" * 1_000_000), unknown_name("field", "y" * 1_000_000, ["x"])):
        assert len(str(problem)) < 300
    assert cut("short") == "short"
    assert len(cut("y" * 201)) == 200
    assert cut("a" * 500 + "/name.npy").endswith("a/name.npy")
    assert len(cut("y " * 1_000_000)) == 1000
