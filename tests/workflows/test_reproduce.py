"""The whole study as steps: commands that exist, in order, taken up where they ended."""

import json
import sys

import pytest
from support import Running, Store, wait_for

from mammo_mlflow.cli import parse
from mammo_mlflow.commands.reproduce import ReproduceOptions
from mammo_mlflow.report.paper_tables import tables
from mammo_mlflow.workflows import reproduce
from mammo_mlflow.workflows.reproduce import Step, steps


@pytest.mark.parametrize(
    "asked", [ReproduceOptions(), ReproduceOptions(scale="full", data="patches"), ReproduceOptions(scale="full")]
)
def test_every_step_is_a_command_that_exists(asked):
    for step in steps(asked):
        _, found = parse(step.line[3:])
        assert step.given.get("preset") != "quick" or asked.scale == "small"
        for name, value in step.given.items():
            assert str(getattr(found, name)).lower() == value.lower(), (step.name, name)
    names = [step.name for step in steps(asked)]
    assert len(names) == len(set(names))
    assert names[-1] == "report"


def test_what_trains_is_told_what_to_compute_on():
    asked = ReproduceOptions(devices="gpu", card_memory_gb=20.5)
    for step in steps(asked):
        told = step.command in ("scratch", "pretrained", "siamese", "conditioned", "controls")
        where = {name: value for name, value in step.given.items() if name in ("devices", "card_memory_gb")}
        assert where == ({"devices": "gpu", "card_memory_gb": "20.5"} if told else {}), step.name
        parse(step.line[3:])
    keys = {reproduce._key(ReproduceOptions(devices=devices)) for devices in ("auto", "cpu", "gpu")}
    assert len(keys) == 3  # what is done on one is not done on the other


@pytest.mark.parametrize("scale", ["small", "full"])
def test_every_row_of_the_studys_tables_has_its_step(scale):
    todo = list(steps(ReproduceOptions(scale=scale, data="phantom" if scale == "small" else "patches")))
    for table in tables():
        for row in table.rows:
            if row.optimistic:
                continue
            wanted = row.parameters()
            found = [
                step
                for step in todo
                if step.command == row.family
                and step.given["task"] == row.task
                and step.given.get("backbone", "all") in ("all", row.backbone)
                and step.given.get("unfrozen_layers") == wanted.get("unfrozen_layers")
                and step.given.get("members") == wanted.get("members")
                and step.given.get("method") == wanted.get("method")
            ]
            assert len(found) == 1, (table.number, row.label)


def test_a_failed_step_is_told_and_the_next_command_goes_on_there(system, cli, monkeypatch, tmp_path):
    """Steps are processes: here of a line of Python each, which makes a file where there is none yet."""
    todo = [Step("report", {"out": name}, 1) for name in ("first", "taken")]
    monkeypatch.setattr(Step, "name", property(lambda step: step.given["out"]))
    monkeypatch.setattr(
        Step, "line", property(lambda step: [sys.executable, "-c", f"open('{step.given['out']}', 'x')"])
    )
    monkeypatch.setattr(reproduce, "steps", lambda _: todo)
    monkeypatch.setattr(reproduce, "ALWAYS", ())
    (tmp_path / "taken").write_text("precious")
    failed = cli(command="reproduce")
    assert failed.code == 1
    assert "step 2, taken, ended with code 1" in failed.err
    store = Store(tmp_path)
    (first,) = store.runs(family="reproduce")
    assert first.info.status == "FAILED"
    assert json.loads(first.data.tags["mammo.steps"]) == ["first"]
    (tmp_path / "taken").unlink()
    (tmp_path / "first").unlink()
    again = cli(command="reproduce")
    assert again.code == 0, again.err
    assert (tmp_path / "taken").exists()
    assert not (tmp_path / "first").exists()  # that step was done
    assert [run.info.status for run in store.runs(family="reproduce")] == ["FAILED", "FINISHED"]


def test_a_real_step_is_a_command_in_the_same_store(system, cli, monkeypatch, tmp_path):
    monkeypatch.setattr(reproduce, "steps", lambda _: [Step("report", {"out": str(tmp_path / "pages"), "data": ""}, 1)])
    outcome = cli(command="reproduce")
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "pages" / "index.html").exists()
    assert [run.info.status for run in Store(tmp_path).tops()] == ["FINISHED", "FINISHED"]  # the study's, the report's


def test_a_step_that_is_cut_off_ends_its_runs(system, cache, tmp_path):
    running = Running(tmp_path, cache, name="reproduce")
    wait_for(lambda: running.said("step 1 of"))  # the store is whole by then
    wait_for(lambda: len(Store(tmp_path).runs("RUNNING", family="scratch")) > 0)
    running.process.terminate()
    running.process.wait(60)
    store = Store(tmp_path)
    assert store.runs("RUNNING") == []
    assert {run.info.status for run in store.tops()} == {"KILLED"}


def test_other_data_under_the_same_name_are_other_steps(data, tmp_path):
    asked = ReproduceOptions(scale="full", data=str(data))
    before = reproduce._key(asked)
    assert reproduce._key(ReproduceOptions(scale="full", data=str(data), out="elsewhere")) == before
    (data / "train_groups.csv").unlink()
    assert reproduce._key(asked) != before


def test_steps_of_other_code_do_not_count(monkeypatch):
    asked = ReproduceOptions()
    before = reproduce._key(asked)
    monkeypatch.setattr(reproduce, "VERSIONS", (*reproduce.VERSIONS[:-1], 99))
    assert reproduce._key(asked) != before


def test_mistakes_are_one_line(cli):
    for arguments, said in (
        (("--scale", "smal"), "did you mean 'small'"),
        (("--data", "patches"), "data: expected phantom, which scale=small is on"),
    ):
        outcome = cli(*arguments, command="reproduce")
        assert outcome.code == 2
        (line,) = outcome.complaints
        assert said in line
