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
from dataclasses import fields
from typing import Any, NoReturn, TypeVar

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

    sub_parsers: dict[str, Any]


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


def make_parser() -> _Parser:
    """The parser of all commands."""
    from mammo_mlflow.experiment import FAMILIES, NETWORKS, parameters
    from mammo_mlflow.workflows.options import SEARCHED, Options, SearchOptions

    parser = _Parser(prog="python -m mammo_mlflow", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command", parser_class=_Parser)
    parser.sub_parsers = {name: _command(commands, name, what) for name, what in COMMANDS.items()}
    for command, one in parser.sub_parsers.items():
        if command in _OWN_PARSERS:
            _OWN_PARSERS[command](one)
            continue
        family = command if command in FAMILIES else None
        tasks = "mass_calc or benign_malignant" + (", or all" if command == "search" else "")
        of_one = command == "conditioned"
        one.add_argument("--task", required=not of_one, default="benign_malignant" if of_one else None, help=tasks)
        default = "default" if command == "controls" else "all"
        of_family = f": {', '.join(NETWORKS[family])}" if family else ""
        one.add_argument("--backbone", default=default, help=f"network{of_family}, or {default} (default)")
        if family is None:
            one.add_argument("--family", default="pretrained", help="pretrained (default), scratch or siamese")
        if command == "controls":
            one.add_argument("--control", default="all", help="baseline, shuffled, texture or all (default: all)")
        for item in parameters(family):
            if item.name != "backbone" and not (item.name == "control" and command == "controls"):
                _add(one, item.name, item.default, f"{item.metadata['help']} (default: the preset's)", None)
        for item in (*fields(Options), *(fields(SearchOptions) if command in ("search", *SEARCHED) else ())):
            value = 0 if item.name == "trials" and command != "search" else item.default
            _add(one, item.name, item.default, f"{item.metadata['help']} (default: {value or 'none'})", value)
    return parser


def _add_ensemble(parser: argparse.ArgumentParser) -> None:
    from mammo_mlflow.workflows.options import NOT_OF_ENSEMBLES, EnsembleOptions, Options

    parser.add_argument("--task", required=True, help="mass_calc or benign_malignant")
    for item in (*fields(EnsembleOptions), *fields(Options)):
        if item.name not in NOT_OF_ENSEMBLES:
            _add(parser, item.name, item.default, f"{item.metadata['help']} (default: {item.default})", item.default)


def _add_promote(parser: argparse.ArgumentParser) -> None:
    from mammo_mlflow.workflows.options import PromoteOptions

    parser.add_argument("--task", required=True, help="mass_calc or benign_malignant")
    _add_fields(parser, PromoteOptions)


def _add_serve(parser: argparse.ArgumentParser) -> None:
    from mammo_mlflow.workflows.options import ServeOptions

    parser.usage = "%(prog)s --model MODEL [--some-name VALUE ...]"
    parser.add_argument("--model", required=True, help="models:/NAME/VERSION or models:/NAME@ALIAS")
    _add_fields(parser, ServeOptions)


def _add_reproduce(parser: argparse.ArgumentParser) -> None:
    from mammo_mlflow.workflows.options import ReproduceOptions

    parser.usage = "%(prog)s [--scale small|full] [--some-name VALUE ...]"
    _add_fields(parser, ReproduceOptions)


def _add_report(parser: argparse.ArgumentParser) -> None:
    from mammo_mlflow.workflows.options import ReportOptions

    parser.usage = "%(prog)s [--some-name VALUE ...]"
    _add_fields(parser, ReportOptions)


def _add_prepare(parser: argparse.ArgumentParser) -> None:
    from mammo_mlflow.workflows.options import PrepareOptions

    parser.usage = "%(prog)s --source DIR --out DIR [--some-name VALUE ...]"
    parser.add_argument("--source", required=True, help="directory with the collection's DICOM, in whatever folders")
    parser.add_argument("--out", required=True, help="data directory to make")
    _add_fields(parser, PrepareOptions)


def _add_fields(parser: argparse.ArgumentParser, options: Any) -> None:
    for item in fields(options):
        _add(parser, item.name, item.default, f"{item.metadata['help']} (default: {item.default})", item.default)


_PAIRS = (
    "a data directory or phantom, for its test set; a .npy of pairs, even rows baselines, odd abnormalities; "
    "or a film as DICOM, with a box or a mask"
)


def _add_predict(parser: argparse.ArgumentParser) -> None:
    from mammo_mlflow.workflows.options import FilmOptions

    parser.usage = "%(prog)s --model MODEL --input DIR|FILE.npy|FILM.dcm --output FILE.csv [--some-name VALUE ...]"
    parser.add_argument("--model", required=True, help="models:/NAME/VERSION or models:/NAME@ALIAS")
    parser.add_argument("--input", required=True, help=_PAIRS)
    parser.add_argument("--output", required=True, help="the table to write, as CSV")
    parser.add_argument("--overlays", default="", help="folder for Grad-CAM maps over the patches, a PNG for each")
    parser.add_argument("--executor", default="process", help="where the model runs: process (default) or inline")
    _add_fields(parser, FilmOptions)


def _add_request(parser: argparse.ArgumentParser) -> None:
    from mammo_mlflow.workflows.options import RequestOptions

    parser.usage = "%(prog)s --input DIR|FILE.npy|FILM.dcm --output FILE.json [--some-name VALUE ...]"
    parser.add_argument("--input", required=True, help=_PAIRS)
    parser.add_argument("--output", required=True, help="the request to write, as JSON")
    _add_fields(parser, RequestOptions)


_OWN_PARSERS = {
    "prepare": _add_prepare,
    "ensemble": _add_ensemble,
    "promote": _add_promote,
    "predict": _add_predict,
    "report": _add_report,
    "reproduce": _add_reproduce,
    "request": _add_request,
    "serve": _add_serve,
}


_ASKED: dict[str, tuple[str, tuple[str, ...]]] = {
    "prepare": ("PrepareOptions", ("source", "out")),
    "predict": ("FilmOptions", ("model", "input", "output", "overlays", "executor")),
    "promote": ("PromoteOptions", ("task",)),
    "report": ("ReportOptions", ()),
    "reproduce": ("ReproduceOptions", ()),
    "request": ("RequestOptions", ("input", "output")),
    "serve": ("ServeOptions", ("model",)),
}
"""The commands that train nothing: their options, and what they are given beside."""


def _command(commands: Any, name: str, what: str) -> Any:
    return commands.add_parser(
        name,
        help=what,
        usage="%(prog)s --task TASK [--some-name VALUE ...]",
        description=f"{what[0].upper()}{what[1:]}, in MLflow.",
        allow_abbrev=False,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 1 (a job failed), 2 (a mistake of the user's) or 130 (interrupted)."""
    if sys.platform == "win32":
        sys.stderr.write(f"mammo_mlflow: {NO_WINDOWS}\n")
        return EXIT_USER_ERROR
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        found = vars(make_parser().parse(sys.argv[1:] if arguments is None else arguments))
        return _run(found)
    except UserError as problem:
        for line in problem.lines:
            sys.stderr.write(f"mammo_mlflow: {cut(' '.join(scrubbed(line).split()), LONGEST_LINE)}\n")
        return EXIT_USER_ERROR
    except _Failed:
        return EXIT_FAILED
    except KeyboardInterrupt:
        sys.stderr.write("mammo_mlflow: interrupted; the same command goes on where it was\n")
        return EXIT_INTERRUPTED


def _run(found: dict[str, Any]) -> int:
    from mammo_mlflow.workflows.caller import check_texts, go_to_caller

    go_to_caller()
    check_texts(found)
    from mammo_mlflow.experiment import faults, parameters
    from mammo_mlflow.jobs.executors.process import start_server
    from mammo_mlflow.workflows.options import SEARCHED, EnsembleOptions, Options, SearchOptions

    command = found["command"]
    if command in _ASKED:
        return _ask(command, found)
    control = found.get("control") if command == "controls" else None
    names = {f.name for f in parameters()} - {"backbone"} - ({"control"} if control else set())
    given = {name: value for name, value in found.items() if name in names and value is not None}
    problems = faults(given)
    if problems:  # again where an experiment is built; here they are told before anything heavy is imported
        raise UserError("; ".join(problems))
    options = _given(Options, found)
    search = None
    if command in ("search", *SEARCHED):
        if command == "search" or found["trials"] or found["timeout"]:
            search = _given(SearchOptions, found)
        for item in () if search else fields(SearchOptions):
            if item.name != "trials" and found[item.name] != item.default:
                raise expected("trials", f"a number of trials beside '{item.name}', which is for searches", 0)
    if options.executor == "process":
        start_server()  # imports TensorFlow while this process imports the rest
    from mammo_mlflow.workflows.terminal import set_up_logging

    set_up_logging()
    with _failures():
        family, task, backbone = found.get("family", command), found["task"], found.get("backbone", "")
        if command == "ensemble":
            from mammo_mlflow.workflows import ensemble

            ensemble.run(task, options, _given(EnsembleOptions, found))
        elif search is not None:
            from mammo_mlflow.workflows import search as searching

            searching.run(family, task, backbone, given, options, search)
        elif control is not None:
            from mammo_mlflow.workflows import controls

            controls.run(family, task, backbone, control, given, options)
        else:
            from mammo_mlflow.workflows import families

            families.run(family, task, backbone, given, options)
    return 0


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


def _ask(command: str, found: dict[str, Any]) -> int:
    """The commands that train nothing; their options are checked before anything heavy is imported."""
    from mammo_mlflow.workflows import options
    from mammo_mlflow.workflows.terminal import set_up_logging

    kind, names = _ASKED[command]
    asked: Any = _given(getattr(options, kind), found)
    set_up_logging()
    with _failures():
        workflow: Any = importlib.import_module(f"mammo_mlflow.workflows.{command}")
        return workflow.run(*(found[name] for name in names), asked) or 0


def _given(options: type[T], found: dict[str, Any]) -> T:
    """The options of a kind, with the values that the command line has for them."""
    return options(**{f.name: found[f.name] for f in fields(options) if f.name in found})  # type: ignore[arg-type]


def _add(parser: argparse.ArgumentParser, name: str, kind_of: Any, help_text: str, default: Any) -> None:
    parser.add_argument(
        f"--{name.replace('_', '-')}",
        type=lambda text: convert(name, text, type(kind_of)),
        default=default,
        help=help_text.replace("%", "%%"),
        metavar=name.upper(),
    )
