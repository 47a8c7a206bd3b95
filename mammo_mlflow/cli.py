"""The command line: parsing and exit codes only. A parameter is `--some-name` here and `-P some_name=` for MLflow."""

from __future__ import annotations

import argparse
import logging
import re
import signal
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, NoReturn

from mammo_mlflow.errors import FULL_DISK, Faults, UserError, expected, unknown_name
from mammo_mlflow.experiment import convert

EXIT_USER_ERROR = 2
EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


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


def make_parser() -> _Parser:
    """The parser of all commands."""
    from mammo_mlflow.experiment import parameters
    from mammo_mlflow.workflows.options import Options, SearchOptions

    parser = _Parser(prog="python -m mammo_mlflow", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command", parser_class=_Parser)
    pretrained = _command(
        commands, "pretrained", "cross-validated, tested and registered models on a pretrained backbone"
    )
    search = _command(
        commands, "search", "Optuna studies, each trial a whole cross-validation, and the best one's model"
    )
    parser.sub_parsers = {"pretrained": pretrained, "search": search}
    search.add_argument("--family", default="pretrained", help="what is searched: pretrained (default: pretrained)")
    for one, trials in ((pretrained, 0), (search, SearchOptions.trials)):
        tasks = "mass_calc or benign_malignant" + (", or all" if one is search else "")
        one.add_argument("--task", required=True, help=tasks)
        one.add_argument("--backbone", default="all", help="vgg16, resnet50, inceptionv3 or all (default: all)")
        for item in parameters():
            if item.name != "backbone":
                _add(one, item.name, item.default, f"{item.metadata['help']} (default: the preset's)", None)
        for item in (*fields(Options), *fields(SearchOptions)):
            default = trials if item.name == "trials" else item.default
            _add(one, item.name, item.default, f"{item.metadata['help']} (default: {default or 'none'})", default)
    return parser


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
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        found = vars(make_parser().parse(sys.argv[1:] if arguments is None else arguments))
        return _run(found)
    except UserError as problem:
        for line in problem.faults if isinstance(problem, Faults) else [str(problem)]:
            sys.stderr.write(f"mammo_mlflow: {' '.join(line.split())}\n")
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        sys.stderr.write("mammo_mlflow: interrupted; the same command goes on where it was\n")
        return EXIT_INTERRUPTED


def _run(found: dict[str, Any]) -> int:
    from mammo_mlflow.experiment import parameters
    from mammo_mlflow.training.executors import JobFailed
    from mammo_mlflow.training.executors.process import start_server
    from mammo_mlflow.workflows.options import Options, SearchOptions

    given = {f.name: found[f.name] for f in parameters() if f.name != "backbone" and found[f.name] is not None}
    options = Options(**{f.name: found[f.name] for f in fields(Options)})
    searches = found["command"] == "search" or found["trials"] or found["timeout"]
    search = SearchOptions(**{f.name: found[f.name] for f in fields(SearchOptions)}) if searches else None
    for item in () if searches else fields(SearchOptions):
        if item.name != "trials" and found[item.name] != item.default:
            raise expected("trials", f"a number of trials beside '{item.name}', which is for searches", 0)
    if options.executor == "process":
        start_server()  # imports TensorFlow while this process imports the rest
    from mammo_mlflow.tracking.store import TrackingError
    from mammo_mlflow.workflows.terminal import set_up_logging

    set_up_logging()
    try:
        if search is not None:
            from mammo_mlflow.workflows import search as searching

            searching.run(found.get("family", "pretrained"), found["task"], found["backbone"], given, options, search)
        else:
            from mammo_mlflow.workflows import pretrained

            pretrained.run(found["task"], found["backbone"], given, options)
    except JobFailed as problem:
        logging.getLogger(__name__).error("%s", problem)
        return EXIT_FAILED
    except TrackingError as problem:
        logging.getLogger(__name__).error("the tracking store refused a request: %s", str(problem).splitlines()[0])
        return EXIT_FAILED
    except OSError as problem:
        if problem.errno not in FULL_DISK:
            raise
        raise UserError(f"expected room on the disk, found it full: {problem.filename or problem}") from None
    return 0


def _add(parser: argparse.ArgumentParser, name: str, kind_of: Any, help_text: str, default: Any) -> None:
    parser.add_argument(
        f"--{name.replace('_', '-')}",
        type=lambda text: convert(name, text, type(kind_of)),
        default=default,
        help=help_text.replace("%", "%%"),
        metavar=name.upper(),
    )
