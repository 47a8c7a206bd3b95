"""The command `search`: an Optuna study for each task and backbone, each trial a whole cross-validation."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace

from mammo_mlflow.checks import JOIN, Value
from mammo_mlflow.commands.families import SearchedFamilyOptions
from mammo_mlflow.commands.search import SearchOptions
from mammo_mlflow.disclosure import Disclosure
from mammo_mlflow.errors import Faults, UserError, expected
from mammo_mlflow.evaluation.objectives import parse_objectives
from mammo_mlflow.experiment import TASKS, FinalSpec, build, network_of, that_move
from mammo_mlflow.jobs.workbench import Workbench
from mammo_mlflow.names import PREFIX, Attribute, Tag
from mammo_mlflow.planning.activations import ensure_activations
from mammo_mlflow.planning.plan import Plan
from mammo_mlflow.planning.planner import Planner
from mammo_mlflow.presets import networks, preset_values
from mammo_mlflow.search.generations import by_generations, fresh_seeds
from mammo_mlflow.search.pruning import make_pruner
from mammo_mlflow.search.runs import StudyRuns
from mammo_mlflow.search.sampling import GRID, check_sampler
from mammo_mlflow.search.spaces import find_space, read_space
from mammo_mlflow.search.storage import Storage, check_address
from mammo_mlflow.search.stored_study import Study, is_full, open_study, write_note
from mammo_mlflow.search.study import StudyWorker
from mammo_mlflow.search.study_result import StudyCloser, StudyResult
from mammo_mlflow.search.study_spec import SEVERAL, StudySpec, study_name
from mammo_mlflow.terminal import say
from mammo_mlflow.tracking.orphans import close_orphaned_runs
from mammo_mlflow.tracking.requests import given_run
from mammo_mlflow.tracking.tracked_run import TrackedRun
from mammo_mlflow.workflows.dry_run import show_dry_run
from mammo_mlflow.workflows.places import storage_url
from mammo_mlflow.workflows.studies import show_studies
from mammo_mlflow.workflows.workbench import log_data, open_workbench

FINAL = that_move("final")
STORED = that_move("activations")
JUDGED = that_move("judging", "place")
"""How trials are judged, not what they are: the preset's for the paper's setting too."""
ENOUGH = 1000
HOW_TO_KEEP = "leave it out of the URL, and set PGPASSWORD or write ~/.pgpass"

_SHOWN = (
    *(Tag.TASK, Tag.FAMILY, Tag.BACKBONE, Tag.WEIGHTS, Tag.PHANTOM, Tag.DATA_SHA256, Tag.FOLDS_SHA256),
    *(Tag.KERAS_BACKEND, Tag.DEVICE),
)
"""The tags that a study shares with all its trials."""

_log = logging.getLogger(__name__)


SearchesOptions = SearchOptions | SearchedFamilyOptions


def run(options: SearchesOptions) -> str | None:
    """Run `search`: a study for each task and backbone; parameters given on the command line are not drawn.

    Returns the id of the run of the study, or of that above several; None for a dry run, and where another command ends
    the study. Raises `UserError` before anything is made for everything that can be known by then.
    """
    family, given, specs = options.family, options.given(), study_specs(options)
    final = asdict(FinalSpec()) | {k: given[k] for k in FINAL if k in given}
    build(specs[0].task, {**specs[0].paper, **final}, family)
    database = storage_url(options.storage)
    check_address(database)
    with open_workbench(
        options, int(specs[0].base.get("threads", 1)), workers=options.workers, probe=options.dry_run
    ) as (bench, planner):
        papers = planner.plans([build(spec.task, spec.paper, family) for spec in specs])
        specs = [
            by_generations(spec, paper, options.generation, options.pruner)
            for spec, paper in zip(specs, papers, strict=True)
        ]
        if options.dry_run:
            show_dry_run(papers, bench.cache, bench.workers)
            trials = options.trials or "as many as the time allows"
            say(f"each line is one trial, at the paper's setting; trials of the study: {trials}")
            return None
        storage = Storage(database)
        if given_run() and storage.secret:
            _log.warning("storage: `mlflow run` stored its password with the run: %s", HOW_TO_KEEP)
        said, top = Disclosure.of(phantom=papers[0].patch_set.phantom), None
        if len(specs) > 1:
            tags = {**said.tags, Tag.LEVEL: "search"}
            top = bench.writer.start_run(f"search{said.suffix}", parent=None, tags=tags, params={})
        results = []
        for spec, paper in zip(specs, papers, strict=True):
            result = _search(bench, planner, storage, spec, paper, top, final, options)
            results += [result] if result is not None else []
        if top is not None:
            top.close()
        show_studies(results, storage.shown, papers[0], bench.writer.how_to_look())
        return top.id if top is not None else next((result.run_id for result in results), None)


def study_specs(options: SearchesOptions) -> list[StudySpec]:
    """Return the specification of each study, checked as far as possible without the data.

    Raises `Faults` with the faults of all search spaces at once.
    """
    family, task, backbone, given = options.family, options.task, options.backbone, options.given()
    network_of(family, "all")("backbone", backbone)
    if options.seeds != 1:
        raise expected("seeds", "1 in a search (fresh_seeds are those of its closing comparison)", options.seeds)
    if given.get("early_stop_on") == "scored":
        wanted = "inner in a search, whose trials are compared by what they score"
        raise expected("early_stop_on", wanted, "'scored'")
    objectives = parse_objectives(options.objective)
    check_sampler(options.sampler, len(objectives))
    fixed = {name: value for name, value in given.items() if name not in FINAL}
    preset = options.preset_name
    specs, faults = [], dict[str, None]()
    for one in TASKS if task == "all" else (task,):
        for name in networks(family, preset) if backbone == "all" else (backbone,):
            base = {**preset_values(preset, name, one, family), **fixed, "backbone": name, "final": "none"}
            kept = {key: base[key] for key in JUDGED if key in base}
            paper = {**preset_values("paper", name, one, family), **kept, **fixed, "backbone": name, "final": "none"}
            try:
                space = read_space(find_space(options.space, family, name), family, name)
                if space.backbones and backbone != "all":
                    space = space.narrowed({"backbone": name})
                joined = {"unfrozen_layers": 0} if JOIN in name else {}  # what is joined is frozen
                space = space.narrowed(joined | fixed)
                if space.backbones and name not in space.backbones:
                    continue
                base, paper = _complete(one, base, family), _complete(one, paper, family)
            except Faults as found:
                faults |= dict.fromkeys(found.faults)  # backbones may share a file
                continue
            if options.sampler == GRID and space.points(base) is None:
                countable = "a space of choices and steps alone, without an architecture,"
                raise expected("sampler", f"{countable} for 'grid'", "one without end")
            pruner = make_pruner(options.pruner, len(objectives), int(paper["folds"]))
            spec = StudySpec(
                task=one,
                space=space,
                base=base,
                paper=paper,
                objectives=objectives,
                sampler=options.sampler,
                seed=int(paper["seed"]),
                pruner=pruner,
                trials=options.trials or None,
                repeats=options.repeats,
                all_tails=options.keep_tails == "all",
            )
            specs.append(spec)
            if space.backbones:  # one study for all of them, whose first trial is this one's
                break
    if faults:
        raise Faults(faults)
    return specs


def _complete(task: str, values: Mapping[str, Value], family: str) -> dict[str, Value]:
    """Return every parameter of an experiment with these values, defaults too. Raises `UserError`."""
    return {k: v for k, v in build(task, values, family).flat().items() if k not in ("task", "family")}


def _search(
    bench: Workbench,
    planner: Planner,
    storage: Storage,
    spec: StudySpec,
    paper: Plan,
    above: TrackedRun | None,
    final: Mapping[str, Value],
    options: SearchesOptions,
) -> StudyResult | None:
    """Work on one study until it ends; return its result, or None where another coordinator ends it."""
    several = [build(spec.task, {**spec.paper, "backbone": one}, spec.space.family) for one in spec.space.backbones]
    key = spec.key(paper, planner.plans(several) if several else ())
    spec = replace(spec, name=study_name(options.study, spec, paper, key, several=above is not None))
    study = open_study(storage, spec, key)
    on_line = not paper.activations()  # then there are none to be made for any trial
    plans = [] if is_full(study, spec) or on_line else [paper, *_possible(planner, spec)]
    entries = {entry.key: entry for plan in plans for entry in plan.activations()}.values()
    missing = sum(entry.bytes for entry in entries if bench.cache.find(entry.key) is None)
    bench.cache.make_room(missing, paper.scratch_bytes())  # before any run exists
    tags = {tag: value for tag, value in paper.tags().items() if tag in _SHOWN}
    tags |= {Tag.BACKBONE: SEVERAL} if several else {}  # on the study's run; each trial has its own
    runs = StudyRuns(bench.writer, study, tags)
    params = {
        "task": spec.task,
        "family": spec.space.family,
        "backbone": SEVERAL if several else paper.experiment.model.backbone,
    }
    params |= {"objective": ",".join(o.name for o in spec.objectives), "sampler": options.sampler}
    params |= {"generation": str(spec.generation)} if spec.generation else {}
    params |= {"repeats": str(spec.repeats)} if spec.repeats > 1 else {}
    name = f"study {params['backbone']}: {spec.name}"
    with storage.alone():  # two coordinators that start together share one run
        top, owner = runs.open_study(name, above, params | {"pruner": options.pruner})
    writer = bench.writer
    writer.ask(lambda: close_orphaned_runs(writer.client, writer.experiment_id, top.id, []))
    _describe_study(study, paper, writer.link(top.id), options)
    if owner:
        log_data(paper, top)
    _log.info("study '%s' in %s", spec.name, storage.shown)
    activations = ensure_activations(bench, entries)
    if options.timeout:
        spec = replace(spec, deadline=time.monotonic() + options.timeout)
    worker = StudyWorker(bench, planner, storage, study, spec, runs, top, activations)
    worker.run(wait=owner)
    if worker.exhausted:
        _log.info("study '%s': every set of the space was tried", spec.name)
    if not owner:
        if runs.owned_elsewhere(top):
            _log.info("study '%s': another coordinator ends it", spec.name)
            return None
        with storage.alone():
            top, owner = runs.open_study(name, above, params)  # that one died meanwhile
        if not owner:
            return None
        worker.run(wait=True)
        worker.top = top
    seeds = fresh_seeds(options.fresh_seeds, spec, paper)
    result = StudyCloser(worker, final, seeds).close(paper.disclosure.note)
    top.log_metrics({"tracking_seconds": writer.seconds})
    top.close()
    bench.cache.release()
    return result


def _possible(planner: Planner, spec: StudySpec) -> Iterator[Plan]:
    """Yield a plan for each combination of drawn values that needs activations of its own.

    Conditions on other values, which need none, are taken to hold. A combination that cannot work is left out with a
    warning, since its trials will fail.
    """
    settings: list[dict[str, Value]] = [{**spec.base, **spec.space.fixed}]
    for item in spec.space.parameters:
        if item.name in STORED:
            when = tuple(one for one in item.when if one.name in STORED)
            own, known = item.values(ENOUGH) or [], replace(item, when=when)
            settings = [
                {**setting, **one}
                for setting in settings
                for one in ([{item.name: value} for value in own] if known.drawn(setting) else [{}])
            ]
    for setting in settings:
        try:
            yield planner.plans([build(spec.task, setting, spec.space.family)])[0]
        except UserError as problem:
            _log.warning("study: some trials will fail: %s", problem)


def _describe_study(study: Study, paper: Plan, link: str, options: SearchesOptions) -> None:
    """Set what the dashboard shows beside the study's name: task, data, sampler, a link to its MLflow run."""
    facts = {tag.removeprefix(PREFIX): paper.tags()[tag] for tag in _SHOWN}
    for name, value in {**facts, "sampler": options.sampler, "pruner": options.pruner, Attribute.LINK: link}.items():
        if study.user_attrs.get(name) != value:
            study.set_user_attr(name, value)
    write_note(study, f"[MLflow run]({link}) of the study, with its figures, trials and closing comparison")
