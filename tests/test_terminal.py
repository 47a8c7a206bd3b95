import io
import logging
import sys

import pytest
from support import ROOT

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


NOTEBOOK = """
import time
from mammo_mlflow.terminal import TerminalProgress, set_up_logging
set_up_logging(quiet={quiet})
progress = TerminalProgress().__enter__()
progress.update("fold 1", 1, 3)
time.sleep(0.6)
progress.update("fold 1", 2, 3)
"""


def test_a_notebook_has_a_bar_until_it_is_done(system, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    at_work, ended = NOTEBOOK.format(quiet=False), f"{NOTEBOOK.format(quiet=False)}\nprogress.__exit__()"
    cells = [nbformat.v4.new_code_cell(text) for text in (at_work, ended, NOTEBOOK.format(quiet=True))]
    nbclient.NotebookClient(nbformat.v4.new_notebook(cells=cells), timeout=60).execute()
    (shown,), *others = [[output.data["text/plain"].strip() for output in cell.outputs] for cell in cells]
    assert shown.startswith("fold 1") and "2/3" in shown
    assert others == [[""], []]  # nothing is left of it, and nothing comes where that is asked for


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
