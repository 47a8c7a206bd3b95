"""The tests that every command passes: subclass `CommandContract` with a fixture `command`."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml

from mammo_mlflow.cli import EXIT_USER_ERROR, main
from mammo_mlflow.commands.base import Command, kind_of, option_of, spelled
from mammo_mlflow.errors import LONGEST_LINE, UserError

ROOT = Path(__file__).parents[2]
NONSENSE = "nonsense?"


def needed(command: Command) -> list[str]:
    """Return the required options of a command, with the values of its example, else a text."""
    words = shlex.split(command.example)
    given = dict(zip(words[::2], words[1::2], strict=True))
    fields = command.options.model_fields
    names = [f"--{spelled(name)}" for name, field in fields.items() if field.is_required()]
    return [word for name in names for word in (name, given.get(name, "x"))]


def mistakes(command: Command) -> dict[str, tuple[str, str]]:
    """Return, for each option with a type or choices to check, an impossible value and the message about it."""
    found = {}
    for name, field in command.options.model_fields.items():
        wanted = {int: "a whole number", float: "a number", bool: "true or false"}.get(kind_of(field))
        if wanted is not None:
            found[name] = "many", f"{name}: expected {wanted}, found 'many'"
        elif (check := option_of(field).check) is not None:
            try:
                check(name, NONSENSE)
            except UserError as problem:
                found[name] = NONSENSE, str(problem)
    return found


class CommandContract:
    """Tests that a command has help, reports each mistake in a line, and is an MLflow entry point and documented."""

    @pytest.fixture
    def command(self) -> Command:
        """Fixture: the command under test."""
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def _alone(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)

    def test_help_tells_every_option(self, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            main([command.name, "--help"])
        assert not ended.value.code
        said = " ".join(capsys.readouterr().out.split())
        for name, field in command.options.model_fields.items():
            about = option_of(field)
            assert f"--{spelled(name)} " in said
            assert " ".join(about.help.split()[:2]) in said
            assert all(choice in said for choice in about.names())

    def test_its_example_can_be_given(self, command: Command) -> None:
        words = shlex.split(command.example)
        pairs = zip(words[::2], words[1::2], strict=True)
        command.options(**{name.removeprefix("--").replace("-", "_"): value for name, value in pairs})

    def test_every_mistake_is_told_at_once_in_a_line_of_its_own(
        self, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        wrong = mistakes(command)
        others = dict(zip(needed(command)[::2], needed(command)[1::2], strict=True))
        others |= {f"--{spelled(name)}": value for name, (value, _) in wrong.items()}
        if not wrong:
            pytest.skip("it takes texts alone")
        assert main([command.name, *(word for pair in others.items() for word in pair)]) == EXIT_USER_ERROR
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == len(wrong)
        assert all(line.startswith("mammo_mlflow: ") and len(line) <= LONGEST_LINE for line in lines)
        for _, begins in wrong.values():
            assert any(begins in line for line in lines)
        assert list(tmp_path.iterdir()) == []

    def test_a_misspelled_option_is_told_with_what_was_meant(
        self, command: Command, capsys: pytest.CaptureFixture[str]
    ) -> None:
        if command.options.model_config.get("extra") == "allow":
            pytest.skip("it hands options on")
        meant = f"--{spelled(max(command.options.model_fields, key=len))}"
        assert main([command.name, *needed(command), f"{meant}s", "1"]) == EXIT_USER_ERROR
        (line,) = capsys.readouterr().err.splitlines()
        assert f"option: unknown '{meant}s', did you mean '{meant}'" in line

    def test_what_it_needs_is_asked_for(self, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
        names = needed(command)[::2]
        if not names:
            pytest.skip("it needs nothing")
        assert main([command.name]) == EXIT_USER_ERROR
        (line,) = capsys.readouterr().err.splitlines()
        assert all(name in line for name in names)

    def test_it_is_an_entry_point_of_the_project(self, command: Command) -> None:
        entry = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"][command.name]
        words = shlex.split(entry["command"])
        assert words[:4] == ["python", "-m", "mammo_mlflow", command.name]
        assert words[4::2] == [f"--{spelled(name)}" for name in entry["parameters"]]
        assert words[5::2] == [f"{{{name}}}" for name in entry["parameters"]]
        for name, declared in entry["parameters"].items():
            field = command.options.model_fields[name]
            assert ("default" not in declared) == field.is_required()
            assert field.is_required() or declared["default"] == str(field.default)

    def test_the_docs_tell_it(self, command: Command) -> None:
        page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
        (part,) = [one for one in page.split("\n### ")[1:] if one.startswith(f"{command.name}\n")]
        assert all(f"| `{name}` |" in part for name in command.options.model_fields)
