"""The command line: parsing and exit codes only. A parameter is `--some-name` here and `-P some_name=` for MLflow."""

from __future__ import annotations

import argparse
import importlib
import logging
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import Field, fields
from itertools import chain
from typing import Any, NamedTuple, NoReturn, TypeVar

from mammo_mlflow.checks import Value
from mammo_mlflow.errors import FULL_DISK, REFUSED, UserError, cut, expected, unknown_name
from mammo_mlflow.experiment import convert
from mammo_mlflow.wording import first_line, scrubbed

T = TypeVar("T")

EXIT_USER_ERROR = 2
EXIT_FAILED = 1
EXIT_INTERRUPTED = 130
LONGEST_LINE = 4000
"""Room for many faults at once."""
NO_WINDOWS = "system: expected Linux or macOS, found Windows (WSL is a Linux on Windows: wsl --install)"


class _Failed(Exception):  # noqa: N818 - not a user's error
    """A job or a request failed, and the log says so."""


class _Parser(argparse.ArgumentParser):
    """One line for an error, and a suggestion for an unknown option."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.sub_parsers: dict[str, _Parser] = {}
        self._negative_number_matcher = re.compile(r"-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)  # -1e-3 too

    def error(self, message: str) -> NoReturn:
        raise UserError(message)

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        # MLflow hands undeclared parameters on as `--some_name value`
        spelled = [a.replace("_", "-", a.split("=")[0].count("_")) if a.startswith("--") else a for a in arguments]
        found, unknown = self.parse_known_args(spelled)
        if unknown:
            options = [o for p in self.sub_parsers.get(found.command, self)._actions for o in p.option_strings]
            raise unknown_name("option", unknown[0].split("=")[0], [o for o in options if o.startswith("--")])
        return found


COMMANDS = {
    "prepare": "CBIS-DDSM as it is published, DICOM and case descriptions, made a data directory",
    "pretrained": "cross-validated, tested and registered models on a pretrained backbone",
    "scratch": "the same for convolutional networks trained from scratch",
    "siamese": "the same for Siamese networks, which compare an abnormality with its baseline patch",
    "conditioned": "benign or malignant given mass or calcification, on registered models of both tasks",
    "controls": "a network beside baselines alone, shuffled labels and simple texture features",
    "ensemble": "registered models of a task joined into one, chosen on out-of-fold predictions",
    "promote": "a task's champion: candidates brought to its gates, on out-of-fold predictions",
    "predict": "a registered model asked of patches in a file, or of places on a film",
    "request": "patches in a file, or places on a film, as the JSON that a served model takes",
    "reproduce": "the whole study in order, ended by the report",
    "report": "the study's tables and figures beside the study's own, from whatever has been run",
    "serve": "a registered model behind HTTP, by MLflow's own server",
    "search": "Optuna studies, each trial a whole cross-validation, and the best one's model",
}


class _Asked(NamedTuple):
    """A command that trains nothing: its options, how it is called, and what it is given beside, with any default."""

    options: str
    usage: str
    given: tuple[tuple[str, str, str | None], ...] = ()


_MODEL = ("model", "models:/NAME/VERSION or models:/NAME@ALIAS", None)
_TASK = ("task", "mass_calc or benign_malignant", None)
_INPUT = (
    "input",
    "a data directory or phantom, for its test set; a .npy of pairs, even rows baselines, odd abnormalities; "
    "or a film as DICOM, with a box or a mask",
    None,
)
_ASKED = {
    "prepare": _Asked(
        "PrepareOptions",
        "--source DIR --out DIR",
        (
            ("source", "directory with the collection's DICOM, in whatever folders", None),
            ("out", "data directory to make", None),
        ),
    ),
    "predict": _Asked(
        "FilmOptions",
        "--model MODEL --input DIR|FILE.npy|FILM.dcm --output FILE.csv",
        (
            _MODEL,
            _INPUT,
            ("output", "the table to write, as CSV", None),
            ("overlays", "folder for Grad-CAM maps over the patches, a PNG for each", ""),
            ("executor", "where the model runs: process (default) or inline", "process"),
        ),
    ),
    "promote": _Asked("PromoteOptions", "--task TASK", (_TASK,)),
    "report": _Asked("ReportOptions", ""),
    "reproduce": _Asked("ReproduceOptions", "[--scale small|full]"),
    "request": _Asked(
        "RequestOptions",
        "--input DIR|FILE.npy|FILM.dcm --output FILE.json",
        (_INPUT, ("output", "the request to write, as JSON", None)),
    ),
    "serve": _Asked("ServeOptions", "--model MODEL", (_MODEL,)),
}


def make_parser() -> _Parser:
    """The parser of all commands."""
    from mammo_mlflow.workflows import options

    parser = _Parser(prog="python -m mammo_mlflow", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command", parser_class=_Parser)
    for name, what in COMMANDS.items():
        asked = _ASKED.get(name)
        usage = "--task TASK" if asked is None else asked.usage
        parser.sub_parsers[name] = one = commands.add_parser(
            name,
            help=what,
            usage=" ".join(filter(None, ("%(prog)s", usage, "[--some-name VALUE ...]"))),
            description=f"{what[0].upper()}{what[1:]}, in MLflow.",
            allow_abbrev=False,
        )
        if asked is None and name != "ensemble":
            _add_of_experiments(one, name)
            continue
        for given, help_text, default in (_TASK,) if asked is None else asked.given:
            one.add_argument(f"--{given}", required=default is None, default=default, help=help_text)
        kinds = (options.EnsembleOptions, options.Options) if asked is None else (getattr(options, asked.options),)
        for item in chain.from_iterable(map(fields, kinds)):
            if asked is not None or item.name not in options.NOT_OF_ENSEMBLES:
                _add(one, item, item.default, item.default)
    return parser


def _add_of_experiments(parser: argparse.ArgumentParser, command: str) -> None:
    from mammo_mlflow.experiment import FAMILIES, NETWORKS, parameters
    from mammo_mlflow.workflows.options import SEARCHED, Options, SearchOptions

    family = command if command in FAMILIES else None
    tasks = "mass_calc or benign_malignant" + (", or all" if command == "search" else "")
    of_one = command == "conditioned"
    parser.add_argument("--task", required=not of_one, default="benign_malignant" if of_one else None, help=tasks)
    default = "default" if command == "controls" else "all"
    of_family = f": {', '.join(NETWORKS[family])}" if family else ""
    parser.add_argument("--backbone", default=default, help=f"network{of_family}, or {default} (default)")
    if family is None:
        parser.add_argument("--family", default="pretrained", help="pretrained (default), scratch or siamese")
    if command == "controls":
        parser.add_argument("--control", default="all", help="baseline, shuffled, texture or all (default: all)")
    for item in parameters(family):
        if item.name != "backbone" and not (item.name == "control" and command == "controls"):
            _add(parser, item, None, "the preset's")
    for item in (*fields(Options), *(fields(SearchOptions) if command in ("search", *SEARCHED) else ())):
        value = 0 if item.name == "trials" and command != "search" else item.default
        _add(parser, item, value, value or "none")


def _add(parser: argparse.ArgumentParser, item: Field[Value], default: object, shown: object) -> None:
    parser.add_argument(
        f"--{item.name.replace('_', '-')}",
        type=lambda text: convert(item.name, text, type(item.default)),
        default=default,
        help=f"{item.metadata['help']} (default: {shown})".replace("%", "%%"),
        metavar=item.name.upper(),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 1 (a job failed), 2 (a mistake of the user's) or 130 (interrupted)."""
    if sys.platform == "win32":
        sys.stderr.write(f"mammo_mlflow: {NO_WINDOWS}\n")
        return EXIT_USER_ERROR
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        return _run(make_parser().parse(sys.argv[1:] if arguments is None else arguments))
    except UserError as problem:
        for line in problem.lines:
            sys.stderr.write(f"mammo_mlflow: {cut(' '.join(scrubbed(line).split()), LONGEST_LINE)}\n")
        return EXIT_USER_ERROR
    except _Failed:
        return EXIT_FAILED
    except KeyboardInterrupt:
        sys.stderr.write("mammo_mlflow: interrupted; the same command goes on where it was\n")
        return EXIT_INTERRUPTED


def _run(found: argparse.Namespace) -> int:
    from mammo_mlflow.workflows.caller import check_texts, go_to_caller

    go_to_caller()
    check_texts(vars(found))
    # everything is checked before anything heavy is imported
    workflow, arguments = (_asked if found.command in _ASKED else _trained)(found)
    from mammo_mlflow.workflows.terminal import set_up_logging

    set_up_logging()
    with _failures():
        return importlib.import_module(f"mammo_mlflow.workflows.{workflow}").run(*arguments) or 0


def _asked(found: argparse.Namespace) -> tuple[str, list[object]]:
    """The workflow of a command that trains nothing, and what it is run with."""
    from mammo_mlflow.workflows import options

    asked = _ASKED[found.command]
    return found.command, [
        *(getattr(found, name) for name, *_ in asked.given),
        _given(getattr(options, asked.options), found),
    ]


def _trained(found: argparse.Namespace) -> tuple[str, list[object]]:
    """The workflow of a command that trains, and what it is run with; workers get ready meanwhile."""
    from mammo_mlflow.experiment import faults, parameters
    from mammo_mlflow.jobs.executors.process import start_server
    from mammo_mlflow.workflows.options import SEARCHED, EnsembleOptions, Options, SearchOptions

    command = found.command
    of_controls = [found.control] if command == "controls" else []
    names = {f.name for f in parameters()} - {"backbone", *(["control"] if of_controls else [])}
    given = {name: value for name, value in vars(found).items() if name in names and value is not None}
    problems = faults(given)
    if problems:  # again where an experiment is built; here they are told before anything heavy is imported
        raise UserError("; ".join(problems))
    options = _given(Options, found)
    search = None
    if command in ("search", *SEARCHED):
        if command == "search" or found.trials or found.timeout:
            search = _given(SearchOptions, found)
        for item in () if search else fields(SearchOptions):
            if item.name != "trials" and getattr(found, item.name) != item.default:
                raise expected("trials", f"a number of trials beside '{item.name}', which is for searches", 0)
    if options.executor == "process":
        start_server()  # imports TensorFlow while this process imports the rest
    if command == "ensemble":
        return command, [found.task, options, _given(EnsembleOptions, found)]
    of_experiments = [getattr(found, "family", command), found.task, found.backbone]
    if search is not None:
        return "search", [*of_experiments, given, options, search]
    return "controls" if of_controls else "families", [*of_experiments, *of_controls, given, options]


@contextmanager
def _failures() -> Iterator[None]:
    """What can fail past the user's hands, as a `_Failed` with one line in the log."""
    from mammo_mlflow.databases import fault
    from mammo_mlflow.jobs.executors import JobFailed
    from mammo_mlflow.tracking.store import UNAVAILABLE, TrackingError

    log = logging.getLogger(__name__)
    try:
        yield
    except JobFailed as problem:
        log.error("%s", problem)
        raise _Failed from None
    except UserError:
        raise
    except TrackingError as problem:
        if problem.error_code != UNAVAILABLE:
            log.error("the tracking store refused a request: %s", first_line(problem))
            raise _Failed from None
        said = fault(problem) or first_line(problem)
        raise UserError(f"tracking store: expected one that can be read and written, found: {said}") from None
    except OSError as problem:
        if problem.errno in FULL_DISK:
            raise UserError(f"expected room on the disk, found it full: {problem.filename or problem}") from None
        if problem.errno in REFUSED and problem.filename:
            raise expected(str(problem.filename), "a place that can be read and written", problem.strerror) from None
        if getattr(problem, "request", None) is None:
            raise
        log.error("the tracking server refused a request: %s", first_line(problem))  # artifacts go through requests
        raise _Failed from None
    except Exception as problem:
        known = fault(problem)
        if known is None:
            raise
        raise UserError(f"expected a database that can be read and written, found: {known}") from None


def _given(options: type[T], found: argparse.Namespace) -> T:
    """The options of a kind, with the values that the command line has for them."""
    return options(**{f.name: getattr(found, f.name) for f in fields(options) if f.name in found})  # type: ignore[arg-type]
