"""`ensemble`: registered models joined into one, everything chosen on out-of-fold predictions, tested once."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from mammo_mlflow import checks
from mammo_mlflow.commands.ensemble import EnsembleOptions, EnsembleSettings
from mammo_mlflow.commands.shared import same_data
from mammo_mlflow.data.patches import TASKS, targets
from mammo_mlflow.data.splits import folds_frame
from mammo_mlflow.disclosure import RANDOM, Disclosure
from mammo_mlflow.ensembles.blend_weights import tuned
from mammo_mlflow.ensembles.disagreement import disagreement
from mammo_mlflow.ensembles.members import SETS, Member, find_members
from mammo_mlflow.ensembles.methods import ENSEMBLE_VERSION, METHODS, FittedEnsemble, choose, weights_method
from mammo_mlflow.ensembles.nested import Method
from mammo_mlflow.errors import UserError, expected
from mammo_mlflow.evaluation import figures
from mammo_mlflow.evaluation.intervals import cluster_note
from mammo_mlflow.evaluation.objectives import Objective, parse_objectives
from mammo_mlflow.evaluation.out_of_fold import OutOfFold
from mammo_mlflow.evaluation.paired import Verdict, verdict
from mammo_mlflow.evaluation.thresholds import choose_threshold, parse_policy
from mammo_mlflow.evaluation.weighted import Floats
from mammo_mlflow.experiment import CrossValidationSpec
from mammo_mlflow.files import json_sha256
from mammo_mlflow.jobs.contracts import AnswerJob, EnsembleJob
from mammo_mlflow.jobs.workbench import Workbench
from mammo_mlflow.names import METADATA, TRAINING_VALUES, Artifact, Metric, Tag, registered_name
from mammo_mlflow.pixels import describe_ranges
from mammo_mlflow.search.blending import study_weights
from mammo_mlflow.terminal import say, show_table
from mammo_mlflow.tracking.compared import compared_tag, tell_compared
from mammo_mlflow.tracking.registry import log_model, make_candidate, register, registered_run
from mammo_mlflow.tracking.run_queries import close_orphaned_runs, fetch_artifacts
from mammo_mlflow.tracking.runs import TrackedRun
from mammo_mlflow.tracking.vetting import SERVED_CODE
from mammo_mlflow.training.final_model import EXAMPLE_PATCHES, Judged, log_test
from mammo_mlflow.workflows.workbench import open_workbench

EVERY_METHOD: dict[str, Method] = {**METHODS, "optuna": weights_method(partial(tuned, optimise=study_weights))}
"""The methods by name; the one by Optuna is put together here, since the rooms do not know one another."""
BEST = "best"
OWN = "selected"
"""What an ensemble of members named one by one is called."""
CHOICES = (BEST, *EVERY_METHOD)
"""What `method` may be."""
CLOSE = 1e-4
"""How far a member's answers inside of the ensemble may be from its stored ones."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, kw_only=True)
class Joined:
    """The members, their out-of-fold predictions (n, m), and the ensembles of them."""

    task: str
    members: list[Member]
    objective: Objective
    data: OutOfFold
    ensembles: dict[str, FittedEnsemble]

    @property
    def names(self) -> list[str]:
        """What the members are called."""
        return [member.name for member in self.members]

    def score(self, probabilities: Floats, metric: str | None = None) -> float:
        """The objective, or another metric, of predictions (n,) of these patches."""
        return self.data.saying(probabilities).score(metric or self.objective.name)

    @property
    def best_member(self) -> int:
        """The member with the best score on the same folds, the first of equal ones."""
        sign = 1 if self.objective.direction == "maximize" else -1
        return int(np.nanargmax([sign * self.score(column) for column in self.data.probabilities.T]))

    @property
    def best_method(self) -> str:
        """The method with the best nested figure."""
        sign = 1 if self.objective.direction == "maximize" else -1
        return max(self.ensembles, key=lambda name: sign * self.ensembles[name].nested.value)

    @property
    def said(self) -> Disclosure:
        """What has to be said of every figure of it."""
        return Disclosure.together(member.plan.said for member in self.members)


def run(options: EnsembleOptions) -> None:
    """Make, judge and register an ensemble. Raises `UserError` before any run exists for what can be known by then."""
    task, asked = options.task, options.settings
    checks.one_of(*CHOICES)("method", asked.method)
    objectives = parse_objectives(asked.objective)
    if len(objectives) > 1:
        raise expected("objective", "one name", f"'{asked.objective}'")
    parse_policy(asked.threshold)
    cv = CrossValidationSpec(folds=asked.folds, seed=asked.seed)
    with open_workbench(options, 1) as (bench, planner):
        folds, train = planner.folds(cv, task), planner.patch_set.train
        members = find_members(bench, planner, task, asked.members, cv, folds, partial(same_data, options))
        probabilities = np.column_stack([member.source.out_of_fold for member in members])
        try:
            data = OutOfFold(
                labels=targets(train.types, task), probabilities=probabilities, folds=folds, groups=train.patient_ids
            )
            ensembles = choose(data, objectives[0], seed=asked.seed, known=EVERY_METHOD)
        except UserError as problem:
            raise UserError(f"{task}: {problem}") from None
        joined = Joined(task=task, members=members, objective=objectives[0], data=data, ensembles=ensembles)
        _finish(bench, joined, asked)


def ensemble_key(members: Sequence[str], method: str, asked: EnsembleSettings, test_sha256: str) -> str:
    """What an ensemble is found by: the keys of its members, the method that was chosen, and what was asked."""
    facts = {"members": list(members), "method": method, "test": test_sha256, "asked": asked.model_dump()}
    return json_sha256({**facts, "ensemble_version": ENSEMBLE_VERSION})


def _finish(bench: Workbench, joined: Joined, asked: EnsembleSettings) -> None:
    writer, patch_set = bench.writer, joined.members[0].plan.patch_set
    method = joined.best_method if asked.method == BEST else asked.method
    chosen, of_set = joined.ensembles[method], asked.members if asked.members in SETS else OWN
    name = registered_name(joined.task, "ensemble", of_set)
    threshold = choose_threshold(asked.threshold, joined.data.labels, chosen.probabilities)
    keys = [member.source.version.tags[Tag.KEY] for member in joined.members]
    key = ensemble_key(keys, method, asked, patch_set.test_sha256)
    shared = (Tag.TASK, Tag.DATA_SHA256, Tag.TEST_SHA256, Tag.FOLDS_SHA256, Tag.PHANTOM)
    tags = {tag: value for tag, value in joined.members[0].plan.tags().items() if tag in shared}
    tags |= {Tag.FAMILY: "ensemble", Tag.BACKBONE: of_set, Tag.SET: "ensemble", Tag.METHOD: method}
    tags |= {Tag.WEIGHTS: "random" if RANDOM in joined.said else "of its members", Tag.CONTROL: "none"}
    tags |= {Tag.KEY: key, Tag.MEMBERS: ", ".join(str(member.source.version) for member in joined.members)}
    top = writer.start_run(
        f"{joined.task} ensemble {of_set}{joined.said.suffix}",
        parent=None,
        tags=tags,
        params={"task": joined.task, "family": "ensemble", **asked.model_dump()},
    )
    writer.ask(lambda: close_orphaned_runs(writer.client, writer.experiment_id, top.id, {key}))
    _log_out_of_fold(joined, top, chosen)
    settings = len(joined.ensembles) if asked.method == BEST else 1
    lead = _verdict(joined, chosen, settings)
    _log_verdict(top, "", lead)
    choice = {"threshold": threshold, "policy": asked.threshold, "chosen_on": "nested out-of-fold predictions"}
    top.log_text(json.dumps(choice), Artifact.THRESHOLD)
    marks = tags | {Tag.THRESHOLD: repr(threshold)}
    marks |= compared_tag(writer, [member.source.version for member in joined.members], settings)
    number, predicted = _model(bench, joined, chosen, top, name, marks)
    judged = Judged(patch_set=patch_set, task=joined.task, name=top.name, label=of_set, note=joined.said.note)
    nested = {f"{Metric.NESTED}{method}": one.nested for method, one in joined.ensembles.items()}
    nested[f"{Metric.OOF}{joined.objective.name.replace('=', '_')}"] = chosen.nested
    test = log_test(judged, top, predicted, threshold, nested)
    on_test = _log_members_test(joined, top, test)
    top.set_tags({Tag.REGISTERED_NAME: name, Tag.VERSION: number})
    top.log_metrics({"tracking_seconds": writer.seconds})
    top.close()
    _show(joined, method, asked.method == BEST, lead, on_test, f"models:/{name}/{number}")


def _log_out_of_fold(joined: Joined, top: TrackedRun, chosen: FittedEnsemble) -> None:
    """Predictions, tables and figures of members and methods, all on out-of-fold predictions."""
    plan, objective, names = joined.members[0].plan, joined.objective, joined.names
    frame = folds_frame(plan.patch_set.train, joined.data.folds)
    frame["label"], frame["probability"] = joined.data.labels, chosen.probabilities
    top.log_table(frame, Artifact.OOF)
    top.log_table(plan.folds_frame(), Artifact.FOLDS)
    header, rows = _method_rows(joined)
    top.log_text(pd.DataFrame(rows, columns=header).to_csv(index=False), Artifact.METHODS)
    weights = {
        method: one.level1.arrays["weights"] for method, one in joined.ensembles.items() if one.level1.kind == "weights"
    }
    top.log_text(pd.DataFrame(weights, index=names).T.to_csv(index_label="method"), Artifact.WEIGHTS)
    top.log_metrics({f"{Metric.OPTIMISTIC}{method}": one.chosen_on for method, one in joined.ensembles.items()})
    alone = [joined.score(column) for column in joined.data.probabilities.T]
    top.log_metrics({f"{Metric.MEMBER}{name}": value for name, value in zip(names, alone, strict=True)})
    title, note = f"{top.name}: out of fold", joined.said.note
    accuracy = [joined.score(column, "accuracy") for column in joined.data.probabilities.T]
    averages = np.cumsum(joined.data.probabilities, axis=1) / np.arange(1, len(names) + 1)
    together = [joined.score(column, "accuracy") for column in averages.T]
    drawn = figures.members_joining(names, accuracy, together, "accuracy at 0.5", title, note)
    top.log_figure(drawn, "members_joining")
    compared = {method: (one.chosen_on, one.nested) for method, one in joined.ensembles.items()}
    best = names[joined.best_member], alone[joined.best_member]
    top.log_figure(figures.methods_compared(compared, best, objective.name, title, note), "methods")
    apart = disagreement(joined.data.labels, joined.data.probabilities)
    top.log_text(pd.DataFrame(apart.different, names, names).to_csv(), Artifact.DISAGREEMENT)
    at = f"{title}: decided differently at 0.5"
    top.log_figure(figures.disagreement_map(names, apart.different, at, note), "disagreement")
    nested = figures.calibration(joined.data.labels, chosen.probabilities, f"{title}, nested", note)
    top.log_figure(nested, "calibration_oof")


def _model(
    bench: Workbench, joined: Joined, chosen: FittedEnsemble, top: TrackedRun, name: str, marks: Mapping[str, str]
) -> tuple[int, Floats]:
    """The registered version, and its test predictions (m,): made, or those of an earlier command."""
    writer, patch_set = bench.writer, joined.members[0].plan.patch_set
    found = writer.ask(lambda: registered_run(writer.client, name, marks[Tag.KEY])) if bench.resume else None
    if found is not None:
        target = bench.scratch / f"reused-{found[0]}"
        path = writer.ask(lambda: fetch_artifacts(writer.client, found[0], Artifact.TEST, target))
        if path is not None:
            _log.info("%s v%d was made of the same before and is reused", name, found[1])
            top.set_tags({Tag.REUSED_FROM: found[0]})
            make_candidate(writer, name, found[1], patch_set.phantom)  # the command that made it may have been killed
            if Tag.COMPARED in marks:  # a version made before the number was kept has none
                tell_compared(writer, name, found[1], int(marks[Tag.COMPARED]))
            return found[1], pd.read_parquet(path)["probability"].to_numpy(np.float64)
    level1 = bench.scratch / f"level1-{top.id}.npz"
    chosen.level1.save(level1)
    sides = {side: first for member in joined.members for side, first in member.plan.sides.items()}
    rows = patch_set.train.patches[: 2 * EXAMPLE_PATCHES]
    values = describe_ranges(patch_set.train.patches, sides)
    directory = bench.scratch / f"model-{top.id}"
    job = EnsembleJob(
        name="ensemble assembling",
        code=tuple(SERVED_CODE.values()),
        parts=tuple(member.source.part for member in joined.members),
        names=tuple(joined.names),
        level1=level1,
        threshold=float(marks[Tag.THRESHOLD]),
        examples={side: np.asarray(rows[first::2])[..., None] for side, first in sorted(sides.items())},
        metadata={METADATA: {**marks, "classes": TASKS[joined.task], TRAINING_VALUES: values}},
        output=directory,
    )
    bench.run_one(job)
    writer.drain()
    logged = log_model(writer, top.id, "ensemble", directory, marks, bench.scratch / f"fetched-{top.id}")
    tensor = patch_set.directory / "public_test_tensor.npy"
    asked = AnswerJob(name="ensemble test", model=logged.path, tensor=tensor, threads=bench.cores, sides=sides)
    answers = bench.run_one(asked)
    stored = np.column_stack([member.test for member in joined.members])
    apart = float(np.abs(answers[:, 2:] - stored).max())
    top.log_metrics({"member_test_difference_max": apart})
    if apart > CLOSE:
        _log.warning("a member answers up to %.2g differently inside of the ensemble than it did alone", apart)
    given = ", ".join(sides)
    description = f"{top.name}: raw 16-bit patches in ({given}), probability of '{TASKS[joined.task][1]}' out"
    return register(writer, name, logged, top.id, marks, description), answers[:, 0]


def _verdict(joined: Joined, chosen: FittedEnsemble, settings: int) -> Verdict:
    best = joined.best_member
    names = f"the ensemble ({chosen.method}, nested)", f"its best member ({joined.names[best]})"
    data, second = joined.data, joined.data.probabilities[:, best]
    arrays = data.labels, chosen.probabilities, second, data.folds, data.groups
    return verdict(joined.objective, *arrays, names=names, compared=settings)


def _log_members_test(joined: Joined, top: TrackedRun, test: pd.DataFrame) -> Verdict:
    """ROC curves of members and ensemble together on the test set, and the verdict there."""
    labels, predicted = test["label"].to_numpy(), test["probability"].to_numpy()
    groups = joined.members[0].plan.patch_set.test.patient_ids
    of_members = {member.name: (labels, member.test, groups) for member in joined.members}
    curves = {"ensemble": (labels, predicted, groups), **of_members}
    if len(set(labels)) > 1:
        top.log_figure(figures.roc_curves(curves, f"{top.name}: test", joined.said.note), "roc_members")
    best = joined.members[joined.best_member]
    names = "the ensemble", f"its best member ({best.name})"
    found = verdict(joined.objective, labels, predicted, best.test, None, groups, names=names)
    _log_verdict(top, Metric.TEST, found)
    return found


def _log_verdict(top: TrackedRun, prefix: str, found: Verdict) -> None:
    top.log_metrics(found.lead.metrics(f"{prefix}{Metric.LEAD}"))
    if found.delong is not None:
        top.log_metrics({f"{prefix}{Metric.DELONG_P}": found.delong.p})
    top.set_tags({Tag.TEST_VERDICT if prefix else Tag.VERDICT: found.sentence})


def _method_rows(joined: Joined) -> tuple[list[str], list[list[str]]]:
    header = ["method", f"nested {joined.objective.name}", "where chosen (optimistic)", "weights", "note"]
    rows = []
    for method, one in joined.ensembles.items():
        made = one.level1
        spelled = " ".join(f"{value:.2f}" for value in made.arrays["weights"]) if made.kind == "weights" else "-"
        rows.append([method, f"{one.nested}", f"{one.chosen_on:.3f}", spelled, made.note or "-"])
    return header, rows


def _show(joined: Joined, method: str, of_all: bool, lead: Verdict, on_test: Verdict, uri: str) -> None:
    alone = [
        [member.name, f"{joined.score(column):.3f}", str(member.source.version)]
        for member, column in zip(joined.members, joined.data.probabilities.T, strict=True)
    ]
    header = ["member", f"out-of-fold {joined.objective.name}", "version"]
    show_table(f"{joined.task}: members{joined.said.title}", header, alone)
    show_table(f"{joined.task}: ensembles of them, {cluster_note(joined.data.groups)}", *_method_rows(joined))
    picked = f", the best of {len(joined.ensembles)} by its nested figure, which that makes a little optimistic"
    say(f"registered: {method}{picked if of_all else ''}")
    say(lead.sentence)
    say(f"On the test set, once: {on_test.sentence}")
    say(f"serve:    mlflow models serve -m {uri} --env-manager local")
