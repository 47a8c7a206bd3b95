"""The whole study as steps: commands that exist, in order, taken up where they ended."""

import json
import re
import sys
from types import SimpleNamespace

import pytest
from support import Running, Store, wait_for

from mammo_mlflow.cli import parse
from mammo_mlflow.commands import COMMANDS
from mammo_mlflow.commands.reproduce import ReproduceOptions
from mammo_mlflow.jobs.devices import Card, Devices
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
        assert step.trains == told
        assert told == ("devices" in COMMANDS[step.command].options.model_fields)
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
    todo = [Step("report", {"out": name}) for name in ("first", "taken")]
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


CARD = Card(number=0, name="NVIDIA H200", memory=150 * 10**9, free=120 * 10**9, bfloat16=True)
ON_CARDS, ON_PROCESSOR = Devices(backend="jax", kind="gpu", cards=(CARD,)), Devices()


@pytest.fixture
def played(cli, monkeypatch):
    """The study with steps of scripted seconds, ended at one: played(seconds, on=…, fails="its line") -> log lines."""

    def play(seconds, *arguments, on=ON_PROCESSOR, fails=None):
        clock = SimpleNamespace(now=0.0)

        def call(line, _):
            clock.now += seconds(line)
            return 3 if fails is not None and fails in " ".join(line) else 0

        monkeypatch.setattr(reproduce, "find_devices", lambda *_: on)
        monkeypatch.setattr(reproduce, "time", SimpleNamespace(monotonic=lambda: clock.now))
        monkeypatch.setattr(reproduce, "_call", call)
        outcome = cli(*arguments, command="reproduce")
        assert outcome.code == (1 if fails else 0), outcome.err
        return re.findall(r" INFO step \d+ of \d+: (.*)", outcome.err)

    return play


def minutes_left(line):
    """The least and the most minutes that a line of the log tells are left; None where it tells nothing."""
    told = re.search(r"about ([\d.]+)(?: to ([\d.]+))? (min|h|days) left", line)
    if told is None:
        return None
    size = {"min": 1, "h": 60, "days": 1440}[told[3]]
    return float(told[1]) * size, float(told[2] or told[1]) * size


def scratch_is_slow(line):
    """A machine on which a network from scratch takes ten minutes, and anything else twenty seconds."""
    return 600 if "scratch" in line else 20


def test_the_log_says_what_each_step_computes_on_and_how_long_it_still_takes(system, played, tmp_path):
    lines = played(scratch_is_slow, on=ON_CARDS)
    todo = list(steps(ReproduceOptions()))
    assert [line.split(",")[0] for line in lines] == [step.name for step in todo]
    for step, line in zip(todo, lines, strict=True):
        assert (", on NVIDIA H200 with JAX" in line) == step.trains
    assert minutes_left(lines[1]) is None  # one network from scratch says nothing of all others
    left = [sum(scratch_is_slow(step.line) for step in todo[at:]) / 60 for at in range(len(todo))]
    told = [(*minutes_left(line), true) for line, true in zip(lines, left, strict=True) if minutes_left(line)]
    assert len(told) > len(todo) / 3
    assert [(low, true, high) for low, high, true in told if not low / 2 <= true <= 2 * high] == []
    assert re.search("less than (a minute|.* min) left", lines[-1])
    (run,) = Store(tmp_path).runs(family="reproduce")
    assert (run.data.tags["mammo.device"], run.data.tags["mammo.device_name"]) == ("gpu", "NVIDIA H200")


def test_steps_of_an_earlier_command_on_the_same_devices_tell_the_time(system, played):
    first = played(scratch_is_slow, fails="benign_malignant")
    assert ", on the processor with TensorFlow" in first[0]
    again = played(scratch_is_slow)
    assert again[0].startswith(first[-1].split(",")[0])
    todo = list(steps(ReproduceOptions()))
    low, high = minutes_left(again[0])
    assert low <= sum(scratch_is_slow(step.line) for step in todo[-len(again) :]) / 60 <= high


def test_what_cards_took_says_nothing_of_the_processor_where_the_study_goes_on(system, played):
    """It goes on there with what is left; a step that was cut off on cards is done on the processor."""
    first = played(scratch_is_slow, on=ON_CARDS, fails="siamese --task mass_calc")
    again = played(lambda line: 50 * scratch_is_slow(line))
    assert len(first) + len(again) - 1 == len(list(steps(ReproduceOptions())))
    assert "on the processor with TensorFlow" in again[0]
    assert minutes_left(again[0]) is None


def test_a_step_that_an_earlier_command_did_in_part_is_not_taken_for_a_whole_one(system, played):
    played(scratch_is_slow, fails="scratch --task benign_malignant")
    rest = iter([2.0])
    played(lambda line: next(rest, scratch_is_slow(line)), fails="m1_balanced")
    lines = played(scratch_is_slow)
    todo = list(steps(ReproduceOptions()))
    low, high = minutes_left(lines[0])
    assert low <= sum(scratch_is_slow(step.line) for step in todo[-len(lines) :]) / 60 <= high


def test_steps_that_are_run_again_are_not_estimated_by_what_they_took_at_first(system, played):
    played(scratch_is_slow)
    again = played(lambda _: 1.0, "--resume", "false")
    assert all(minutes_left(line) is None or minutes_left(line)[0] <= 2 for line in again)


def test_a_card_that_is_asked_for_and_not_there_is_told_before_anything_is_written(system, cli, monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    outcome = cli("--devices", "gpu", command="reproduce")
    assert outcome.code == 2
    (line,) = outcome.complaints
    assert "devices: expected a card" in line
    assert not (tmp_path / "mlflow.db").exists()


def test_a_real_step_is_a_command_in_the_same_store(system, cli, monkeypatch, tmp_path):
    monkeypatch.setattr(reproduce, "steps", lambda _: [Step("report", {"out": str(tmp_path / "pages"), "data": ""})])
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
