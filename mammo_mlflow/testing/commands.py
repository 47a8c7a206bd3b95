"""What every command of `COMMANDS` keeps: `class TestMine(CommandContract)`, with its fixtures, runs it all on one."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from mammo_mlflow.cli import EXIT_USER_ERROR, main, make_parser

PROJECT = Path(__file__).parents[2] / "MLproject"


def options(command: str) -> dict[str, argparse.Action]:
    """What a command takes, by name."""
    actions = make_parser().sub_parsers[command]._actions
    return {action.dest: action for action in actions if action.dest != "help"}


class CommandContract:
    """A command explains itself, answers a mistake in one line, and is an entry point of the project."""

    @pytest.fixture
    def command(self) -> str:
        """Its name."""
        raise NotImplementedError

    @pytest.fixture
    def mistake(self, command: str) -> tuple[Sequence[str], str]:
        """Arguments with a value that cannot be, whatever is at hand, and how the line about them begins."""
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def _alone(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)

    def test_help_names_every_option(self, command: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert not ended.value.code
        said = capsys.readouterr().out
        for name, option in options(command).items():
            assert f"--{name.replace('_', '-')}" in said
            assert option.help

    def test_a_mistake_is_one_line_and_nothing_is_made(
        self, command: str, mistake: tuple[Sequence[str], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments, begins = mistake
        assert main([command, *arguments]) == EXIT_USER_ERROR
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"mammo_mlflow: {begins}")
        assert list(tmp_path.iterdir()) == []

    def test_a_misspelled_option_is_told_with_what_was_meant(
        self, command: str, mistake: tuple[Sequence[str], str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        name = max(options(command), key=len)
        meant = f"--{name.replace('_', '-')}"
        assert main([command, *mistake[0], f"{meant}s", "1"]) == EXIT_USER_ERROR
        (line,) = capsys.readouterr().err.splitlines()
        assert f"option: unknown '{meant}s', did you mean '{meant}'" in line

    def test_what_it_needs_is_asked_for(self, command: str, capsys: pytest.CaptureFixture[str]) -> None:
        needed = [option.option_strings[0] for option in options(command).values() if option.required]
        if not needed:
            pytest.skip("it needs nothing")
        assert main([command]) == EXIT_USER_ERROR
        (line,) = capsys.readouterr().err.splitlines()
        assert all(option in line for option in needed)

    def test_its_entry_point_runs_it_with_options_that_exist(self, command: str) -> None:
        entries = yaml.safe_load(PROJECT.read_text())["entry_points"]
        assert command in entries
        for name, entry in entries.items():
            words = shlex.split(entry["command"])
            assert words[:3] == ["python", "-m", "mammo_mlflow"]
            assert words[3] == ("pretrained" if name == "main" else name)
            if words[3] != command:
                continue
            given = dict(zip(words[4::2], words[5::2], strict=True))
            assert given == {
                f"--{parameter.replace('_', '-')}": f"{{{parameter}}}" for parameter in entry["parameters"]
            }
            known = options(command)
            for parameter, declared in entry["parameters"].items():
                assert parameter in known
                assert str(declared.get("default")) == str(known[parameter].default)
                assert ("default" not in declared) == known[parameter].required
