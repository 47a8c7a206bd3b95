"""The command `report`: write the paper's tables and figures beside one's own, from whatever has been run."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from mammo_mlflow.commands.report import ReportOptions
from mammo_mlflow.commands.shared import WorkbenchOptions
from mammo_mlflow.data.patches import PatchSet
from mammo_mlflow.errors import UserError, expected
from mammo_mlflow.files import check_writable, read_small, whole
from mammo_mlflow.jobs.cache import Cache
from mammo_mlflow.names import Artifact, Tag
from mammo_mlflow.report import model_page
from mammo_mlflow.report.differences import differences_csv, differences_markdown
from mammo_mlflow.report.export import as_csv, as_latex, as_markdown
from mammo_mlflow.report.page import LOGGED, render
from mammo_mlflow.report.plots import draw_all
from mammo_mlflow.report.report_data import ReportData, gather_report
from mammo_mlflow.terminal import TerminalProgress, say
from mammo_mlflow.tracking.orphans import close_orphaned_runs
from mammo_mlflow.tracking.results import count_runs, fetch
from mammo_mlflow.tracking.runs import Writer
from mammo_mlflow.tracking.store import open_writer
from mammo_mlflow.wording import no_formula
from mammo_mlflow.workflows.places import report_folder
from mammo_mlflow.workflows.workbench import ending_runs, load_data

MARKER = "report.json"
PAGE = "index.html"
GENERATOR = "mammo_mlflow report"


def run(options: ReportOptions) -> Path:
    """Run `report`: write the page with figures and tables to a folder and to MLflow; return its path.

    Raises `UserError`.
    """
    target = _target(options.out)
    writer = open_writer({Tag.FAMILY: "report"})
    with TerminalProgress() as progress, tempfile.TemporaryDirectory() as folder:
        wanted: PatchSet | None = None
        if options.data:
            cache = Cache(None, WorkbenchOptions().cache_limit_gb)
            wanted = load_data(options.data, options, cache, progress)
        report = gather_report(writer.client, wanted, Path(folder), progress.update)
        with whole(target) as staging:
            staging.mkdir()
            counts = {} if report.dataset and report.runs.results else count_runs(writer.client)
            said = _about(report, wanted, counts)
            _write(report, staging, Path(folder), said, writer, progress)
            with ending_runs(writer):
                _log(writer, report, staging)
    _show(report, target, said)
    return target / PAGE


def _target(out: str) -> Path:
    """Return the folder to write; an earlier report may be replaced, anything else is refused with a `UserError`."""
    target = report_folder(out).resolve()
    if not target.name or target.is_file():
        raise expected("out", "a folder to write", f"'{out}'")
    if target.is_dir() and any(target.iterdir()) and not _is_a_report(target):
        found = f"'{out}', which holds other things"
        raise expected("out", "a folder that is not there yet, or an earlier report", found)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise expected("out", "a place that can be written to", f"'{out}': {problem.strerror}") from None
    check_writable("out", target.parent)
    return target


def _is_a_report(folder: Path) -> bool:
    """Whether a folder holds an earlier report and nothing else."""
    try:
        marker = json.loads(read_small(folder / MARKER))
    except (OSError, ValueError, RecursionError):
        return False
    known = {PAGE, MARKER, "figures", "tables", model_page.FOLDER}
    return (
        isinstance(marker, dict)
        and marker.get("generator") == GENERATOR
        and {p.name for p in folder.iterdir()} <= known
    )


def _about(report: ReportData, wanted: PatchSet | None, counts: Mapping[tuple[str, bool], int]) -> list[str]:
    """Return sentences about the store itself: other data sets in it, and where it has no finished model."""
    said = []
    if report.others:
        word = "set" if len(report.others) == 1 else "sets"
        said.append(
            f"The store holds models of {len(report.others)} other data {word}; this page is of one alone (see Data)."
        )
    if report.runs.results:
        return said
    if wanted is not None:
        return [*said, f"No model has been finished on {wanted.directory.name}."]
    ours = sum(count for (_, mine), count in counts.items() if mine)
    failed = sum(count for (status, mine), count in counts.items() if mine and status in ("FAILED", "KILLED"))
    theirs = sum(count for (_, mine), count in counts.items() if not mine)
    if not ours and not theirs:
        return ["The store is empty: nothing has been run yet."]
    line = f"No model has been finished: {_runs(ours)} of this project, {failed} of them failed or killed"
    return [f"{line}, and {_runs(theirs)} of other projects."]


def _runs(count: int) -> str:
    return f"{count} run{'' if count == 1 else 's'}"


def _write(
    report: ReportData, staging: Path, folder: Path, said: list[str], writer: Writer, progress: TerminalProgress
) -> None:
    plots = draw_all(report, staging / "figures", progress.update)
    tables = staging / "tables"
    tables.mkdir()
    caption = f"Test scores with 95 % intervals ({report.intervals or 'none stored'}), {report.patches} patches."
    caption += f" {report.disclosure.line()}." if report.runs.phantom else ""
    for table, rows in report.tables:
        (tables / f"{table.name}.md").write_text(as_markdown(table, rows, caption), encoding="utf-8")
        (tables / f"{table.name}.tex").write_text(as_latex(table, rows, caption), encoding="utf-8")
    (tables / "differences.md").write_text(differences_markdown(), encoding="utf-8")
    (tables / "differences.csv").write_text(differences_csv(), encoding="utf-8")
    (tables / "tables.csv").write_text(as_csv(report.tables, report.intervals), encoding="utf-8")
    for task in report.tasks:
        for name, frame in (("pairs", task.pairs), ("subgroups", task.subgroups)):
            if len(frame):
                frame.map(no_formula).to_csv(tables / f"{name}_{task.name}.csv", index=False)
    logged = {}
    for task in report.tasks:
        for model, (name, tag) in itertools.product(task.models, LOGGED.items()):
            run_id = model.result.cross_validation
            wanted = not tag or model.result.tag(tag)
            if wanted and (path := fetch(writer.client, run_id, f"{Artifact.FIGURES}/{name}.png", folder)) is not None:
                logged[name, run_id] = path
    links = {one.run_id: writer.link(one.run_id, one.experiment_id) for one in report.named}
    pages = _write_models(report, staging / model_page.FOLDER, folder, links, said, writer, progress)
    page = render(report, plots, logged, pages, links, said)
    (staging / PAGE).write_text(page, encoding="utf-8")
    marker = {"generator": GENERATOR, "dataset": report.dataset, "phantom": report.runs.phantom}
    (staging / MARKER).write_text(json.dumps(marker, indent=1) + "\n", encoding="utf-8")


def _write_models(
    report: ReportData,
    target: Path,
    folder: Path,
    links: Mapping[str, str],
    said: list[str],
    writer: Writer,
    progress: TerminalProgress,
) -> dict[str, str]:
    """Write a page for each model that the report names; return the pages' addresses by run id.

    Models whose runs are gone get none, and a line in `said`.
    """
    target.mkdir()
    pages, judgements = {}, model_page.read_judgements(writer.client, folder)
    for done, one in enumerate(report.named, 1):
        try:
            text = model_page.render(writer.client, one, report, judgements, links[one.run_id], folder)
        except UserError as problem:
            said.append(f"{one.model} has no page of its own: {problem}")
        else:
            (target / model_page.page_name(one)).write_text(text, encoding="utf-8")
            pages[one.run_id] = model_page.address(one)
        progress.update("writing pages of models", done, len(report.named))
    return pages


def _log(writer: Writer, report: ReportData, staging: Path) -> None:
    data, test = report.dataset or ("", "")
    tags = {Tag.DATA_SHA256: data, Tag.TEST_SHA256: test, **report.disclosure.tags}
    top = writer.start_run("report", parent=None, tags=tags, params={})
    writer.ask(lambda: close_orphaned_runs(writer.client, writer.experiment_id, top.id, ()))
    top.log_folder(staging)
    top.close()


def _show(report: ReportData, target: Path, said: Sequence[str]) -> None:
    for line in (*said, *report.warnings):
        say(line)
    for task in report.tasks:
        for sentence in task.critical[:1]:
            say(f"{task.name}: {len(task.models)} models. {sentence.split(':', 1)[1].split('.')[0].strip()}")
    say(f"report: {target / PAGE}")
    say(report.disclosure.line())
