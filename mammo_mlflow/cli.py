"""The command line: parse arguments, run the command, return an exit code. Options are `-P some_name=` for MLflow."""

from __future__ import annotations

import argparse
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import chain, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from mammo_mlflow import __version__
from mammo_mlflow.commands import COMMANDS
from mammo_mlflow.commands.base import Command, CommandOptions, options_of, spelled
from mammo_mlflow.commands.help import add_options, overview, usual_order
from mammo_mlflow.commands.shared import TrainingOptions, WorkbenchOptions
from mammo_mlflow.ending import end_on_signals, ending_first
from mammo_mlflow.errors import FULL_DISK, LONGEST_LINE, REFUSED, CommandFailed, UserError, cut, expected, unknown_name
from mammo_mlflow.files import default_cache
from mammo_mlflow.jobs.devices import (
    PROGRAMS,
    ask_ahead,
    check_backend,
    compute_deterministically,
    environment,
    expected_devices,
    share_cards,
)
from mammo_mlflow.wording import first_line, scrubbed

if TYPE_CHECKING:
    from mammo_mlflow.terminal import Listing

EXIT_USER_ERROR = 2
EXIT_FAILED = 1
EXIT_INTERRUPTED = 130
PROGRAM = "python -m mammo_mlflow"
QUIET, JSON = "--quiet", "--json"
HOW_TO_ASK = f"""the options of one:  {PROGRAM} COMMAND --help
of every command:    --quiet, no progress, only warnings and results; --json, the results for programs
the version:         {PROGRAM} --version
by MLflow:           mlflow run . -e COMMAND -P some_name=VALUE --env-manager local"""
COMMANDS_WANTED = f"one of {', '.join(COMMANDS)}, --help or --version"
ALLOWED = "a user who may do what the command does"
NO_WINDOWS = "system: expected Linux or macOS, found Windows (WSL is a Linux on Windows: wsl --install)"


class _Parser(argparse.ArgumentParser):
    """An argument parser that raises `UserError` where argparse would print its usage and end the process."""

    def __init__(self, **settings: object) -> None:
        super().__init__(allow_abbrev=False, add_help=False, **settings)  # type: ignore[arg-type]
        self._negative_number_matcher = re.compile(r"-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)  # -1e-3 too

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def parse(arguments: Sequence[str]) -> tuple[Command, CommandOptions]:
    """Return the command that the arguments name, and its checked options. Raises `UserError`.

    Prints the help or the version where they ask for it, and raises `SystemExit`.
    """
    if not arguments:
        raise expected("command", COMMANDS_WANTED, "none")
    name, *rest = arguments
    if name in ("-h", "--help"):
        sys.stdout.write(f"usage: {PROGRAM} COMMAND [--some-name VALUE ...]\n\n{overview(COMMANDS)}\n\n{HOW_TO_ASK}\n")
        raise SystemExit(0)
    if name in ("-V", "--version"):
        sys.stdout.write(f"mammo_mlflow {__version__}\n")
        raise SystemExit(0)
    if name.startswith("-"):
        raise expected("command", f"{COMMANDS_WANTED}, before its options", f"'{name}'")
    if name not in COMMANDS:
        raise unknown_name("command", name, COMMANDS)
    command = COMMANDS[name]
    if name == "settings" and rest and not rest[0].startswith("-"):
        rest.insert(0, "--command")
    if name == "compare":
        models = list(takewhile(lambda word: not word.startswith("-"), rest[:2]))
        rest[: len(models)] = chain(*zip(("--first", "--second"), models, strict=False))
    # MLflow hands undeclared parameters on as `--some_name value`
    dashed = [a.replace("_", "-", a.split("=")[0].count("_")) if a.startswith("--") else a for a in rest]
    given, unknown = _read(command, dashed)
    if given.pop("help", False):
        sys.stdout.write(help_of(command, given))
        raise SystemExit(0)
    if name == "settings" and given.get("command") in COMMANDS:
        command_of_options = COMMANDS[given["command"]]
        more, unknown = _read(command_of_options, unknown)
        given |= more
    else:
        command_of_options = command
    if unknown:
        known = ["--help", *(f"--{spelled(option)}" for option in usual_order(command_of_options))]
        raise unknown_name("option", unknown[0].split("=")[0], known)
    return command, command.options(**given)


def _read(command: Command, words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return the options of a command among the words, by name, and the words that are none of them."""
    parser = _Parser(argument_default=argparse.SUPPRESS)
    for option in options_of(command.options):
        if command.options.model_fields[option].annotation is bool:
            parser.add_argument(f"--{spelled(option)}", nargs="?", const="true")
        else:
            parser.add_argument(f"--{spelled(option)}")
    parser.add_argument("-h", "--help", action="store_true")
    found, unknown = parser.parse_known_args(words)
    return vars(found), unknown


def help_of(command: Command, given: dict[str, str]) -> str:
    """Return the help of a command; options already given narrow the values that presets are shown for."""
    field, shown = command.options.model_fields, command.shown
    usage = [
        f"--{spelled(n)} {n.upper()}" if field[n].is_required() else f"[--{spelled(n)} {n.upper()}]" for n in shown
    ]
    parser = argparse.ArgumentParser(
        usage=" ".join([PROGRAM, command.name, *usage, "[--some-name VALUE ...]"]),
        description=f"{command.summary[0].upper()}{command.summary[1:]}.",
        epilog=command.example and f"example: {PROGRAM} {command.name} {command.example}",
        add_help=False,
    )
    add_options(parser, command, given)
    return parser.format_help()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 1 (a job failed), 2 (a mistake of the user's) or 130 (interrupted)."""
    if sys.platform == "win32":
        sys.stderr.write(f"mammo_mlflow: {NO_WINDOWS}\n")
        return EXIT_USER_ERROR
    end_on_signals()
    try:
        with ending_first():
            return _run(sys.argv[1:] if arguments is None else arguments)
    except UserError as problem:
        for line in shown_lines(problem, "mammo_mlflow: "):
            sys.stderr.write(f"{line}\n")
        return EXIT_USER_ERROR
    except CommandFailed as problem:
        logging.getLogger(__name__).error("%s", problem)
        return EXIT_FAILED
    except KeyboardInterrupt:
        sys.stderr.write("mammo_mlflow: interrupted; the same command goes on where it was\n")
        return EXIT_INTERRUPTED


def shown_lines(problem: UserError, before: str = "") -> list[str]:
    """The lines of an error as they may be shown: without secrets, each begun by `before`, none too long."""
    return [cut(before + " ".join(scrubbed(line).split()), LONGEST_LINE) for line in problem.lines]


def _run(arguments: Sequence[str]) -> int:
    from mammo_mlflow.workflows.caller import go_to_caller

    as_json = JSON in arguments
    command, options = parse([word for word in arguments if word not in (QUIET, JSON)])
    go_to_caller()
    get_ready(options)
    from mammo_mlflow.terminal import kept, set_up_logging, written_as_json

    set_up_logging(QUIET in arguments)
    with failures():
        made, said = issue(command, options, kept(shown=not as_json))
    if as_json:
        sys.stdout.write(written_as_json(made, said))
    return made if isinstance(made, int) else 0


def issue(
    command: Command, options: CommandOptions, keeping: AbstractContextManager[list[Listing | str]]
) -> tuple[object, list[Listing | str]]:
    """Run a command and describe its run; return what it made, and what it said, which `keeping` yields."""
    with keeping as said:
        made = command.call(options)
    if isinstance(made, str):
        from mammo_mlflow.workflows.description import describe

        describe(command, options, made, said)
    return made, said


def get_ready(options: CommandOptions) -> None:
    """Check what a command stands on, and start what takes long to start, before anything heavy is imported.

    Raises `UserError`.
    """
    from mammo_mlflow.workflows.caller import check_paths

    check_paths(options)
    share_cards()
    if isinstance(options, TrainingOptions) and options.deterministic:
        compute_deterministically()
    check_backend()
    wanted = options.devices if isinstance(options, TrainingOptions) else "cpu"
    ask_ahead(wanted)
    if isinstance(options, WorkbenchOptions) and options.executor == "process":
        from mammo_mlflow.jobs.executors.process import start_server

        root = Path(options.cache_dir).expanduser() if options.cache_dir else default_cache()
        with environment(expected_devices(wanted), root.resolve() / PROGRAMS):
            start_server()  # imports TensorFlow while this process imports the rest


@contextmanager
def failures() -> Iterator[None]:
    """Context: whatever a command, its jobs or its store raise is a `UserError` or a `CommandFailed` of one line."""
    from mammo_mlflow.databases import fault
    from mammo_mlflow.jobs.executors import JobFailed
    from mammo_mlflow.tracking.requests import not_allowed
    from mammo_mlflow.tracking.store import UNAVAILABLE, TrackingError

    try:
        with ending_first():
            yield
    except JobFailed as problem:
        raise CommandFailed(str(problem)) from None
    except UserError:
        raise
    except TrackingError as problem:
        if not_allowed(problem):
            raise expected("tracking store", ALLOWED, first_line(problem)) from None
        if problem.error_code != UNAVAILABLE:
            raise CommandFailed(f"the tracking store refused a request: {first_line(problem)}") from None
        said = fault(problem) or first_line(problem)
        raise UserError(f"tracking store: expected one that can be read and written, found: {said}") from None
    except OSError as problem:
        if problem.errno in FULL_DISK:
            raise UserError(
                f"expected room on the disk, found it full: {problem.filename2 or problem.filename or problem}"
            ) from None
        if problem.errno in REFUSED and problem.filename:
            raise expected(str(problem.filename), "a place that can be read and written", problem.strerror) from None
        if getattr(problem, "request", None) is None:
            raise
        if not_allowed(problem):
            raise expected("tracking store", ALLOWED, first_line(problem)) from None
        # artifacts go through requests
        raise CommandFailed(f"the tracking server refused a request: {first_line(problem)}") from None
    except Exception as problem:
        known = fault(problem)
        if known is None:
            raise
        raise UserError(f"expected a database that can be read and written, found: {known}") from None
