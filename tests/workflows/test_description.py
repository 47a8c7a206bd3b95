"""What a command says of itself: on the terminal, to programs, and on its run's page in MLflow."""

import json

import pytest
from support import SMALL, Store

from mammo_mlflow.commands import COMMANDS
from mammo_mlflow.workflows.description import command_line

ASKED = ["--task", "mass_calc", *SMALL, "--final", "none"]
NOTE = "mlflow.note.content"


@pytest.fixture(scope="module")
def once(pretend, tmp_path_factory):
    where = tmp_path_factory.mktemp("once")
    return where, pretend(where, *ASKED)


def test_a_runs_page_says_what_was_asked_what_came_of_it_and_how_to_repeat_it(once):
    where, outcome = once
    (top,) = (run for run in Store(where).runs() if "mlflow.parentRunId" not in run.data.tags)
    page = top.data.tags[NOTE]
    title, header, row, *_ = outcome.out.splitlines()
    assert f"**{title}**" in page and "PHANTOM DATA" in title
    assert all(cell.strip() in page for cell in row.split("  ") if cell)
    assert "| backbone | weights | seed |" in page and header.startswith("backbone")
    assert "`figures/folds.png`" in page
    assert "python -m mammo_mlflow pretrained" in page and "--task mass_calc" in page
    assert "runs?workflowType=machine_learning" in outcome.out


def test_programs_get_the_results_alone(once, pretend):
    where, plain = once
    found = json.loads(pretend(where, *ASKED, "--json").out)
    (table,) = found["tables"]
    assert table["title"] == plain.out.splitlines()[0]
    assert table["rows"][0]["backbone"] == "vgg16"
    assert any(run.info.run_id == found["made"] for run in Store(where).runs())


def test_a_quiet_command_prints_its_results_and_no_progress(once, pretend):
    where, plain = once
    quiet = pretend(where, *ASKED, "--quiet")
    assert quiet.out.splitlines()[:3] == plain.out.splitlines()[:3]
    assert "INFO" in plain.err and "INFO" not in quiet.err


def test_the_line_that_repeats_a_command_tells_no_paths(tmp_path):
    command = COMMANDS["pretrained"]
    options = command.options(task="mass_calc", data=str(tmp_path / "mine"), epochs=3)
    assert command_line(command, options) == "python -m mammo_mlflow pretrained --data mine --task mass_calc --epochs 3"
