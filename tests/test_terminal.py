import io
import logging
import sys

import pytest

from mammo_mlflow import terminal
from mammo_mlflow.terminal import TerminalProgress, show_table


class Terminal(io.StringIO):
    """A terminal that keeps what it was shown."""

    def isatty(self):
        return True


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, "mammo_mlflow")
    return caplog


def test_plain_progress_is_one_line_a_task(log):
    with TerminalProgress() as progress:
        for done in range(1, 6):
            progress.update("fold 1", done, 5)
            progress.update("fold 2", done, 9)
    assert [record.message.split(" in ")[0] for record in log.records] == ["fold 1: done"]


def test_a_long_task_tells_the_time_left(log, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    with TerminalProgress() as progress:
        for done in range(0, 101, 10):
            now[0] = done
            progress.update("activations", done, 100)
    lines = [record.message for record in log.records]
    assert lines[-1] == "activations: done in 100.0 s"
    assert "activations: 40 of 100, about 60 s left" in lines
    assert len(lines) <= 4


def test_a_task_can_come_again(log):
    with TerminalProgress() as progress:
        for _ in range(2):
            progress.update("activations", 1, 2)
            progress.update("activations", 2, 2)
    assert len(log.records) == 2


def test_a_plain_table_is_aligned(capsys):
    show_table("title", ["name", "figure"], [["a", "1"], ["longer", "22"]])
    title, header, first, second = capsys.readouterr().out.splitlines()
    assert title == "title"
    assert header.index("figure") == first.index("1") == second.index("22")


def test_a_terminal_gets_the_same_cells(monkeypatch):
    shown = Terminal()
    monkeypatch.setattr(sys, "stdout", shown)
    show_table("title", ["name", "figure"], [["a", "1"], ["longer", "22"]])
    assert all(cell in shown.getvalue() for cell in ("title", "name", "figure", "longer", "22"))
