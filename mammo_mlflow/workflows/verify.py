"""The command `verify`: check a published directory, train a fold again and compare predictions."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path

from mammo_mlflow.commands.shared import TrainingOptions
from mammo_mlflow.commands.verify import VerifyOptions
from mammo_mlflow.disclosure import PHANTOM, RANDOM
from mammo_mlflow.errors import expected
from mammo_mlflow.jobs.workbench import Workbench
from mammo_mlflow.names import Tag
from mammo_mlflow.planning.plan import Plan
from mammo_mlflow.planning.planner import Planner
from mammo_mlflow.publication.manifest import METADATA_FILE, differences, read_manifest
from mammo_mlflow.publication.published_experiment import PublishedExperiment
from mammo_mlflow.publication.repeat import (
    BUILT_ON_OTHERS,
    check_data,
    check_folds,
    check_plan,
    compare_answers,
    compare_fold,
    experiment_of,
    repeat_fold,
)
from mammo_mlflow.publication.write import crate_sha256
from mammo_mlflow.terminal import say
from mammo_mlflow.whereabouts import find_again
from mammo_mlflow.workflows.workbench import open_workbench

FAILED = 1


def run(options: VerifyOptions) -> int:
    """Run `verify`; returns 0 where all is the same, 1 where something is not. Raises `UserError`."""
    folder = Path(options.publication).expanduser().resolve()
    listed = read_manifest(folder)
    own = crate_sha256(folder)
    if options.sha256 and own != options.sha256:
        say(str(expected(METADATA_FILE, f"sha256 {options.sha256}", own)))
        return FAILED
    if changed := differences(folder, listed):
        for line in changed:
            say(line)
        say(f"{len(changed)} of {len(listed)} files are NOT as they were published; nothing of them was used")
        return FAILED
    say(f"files: all {len(listed)} have their sha256; sha256 of the publication: {own}")
    published = PublishedExperiment.read(folder)
    facts = {PHANTOM: published.tags.get(Tag.PHANTOM) == "true", RANDOM: published.tags.get(Tag.WEIGHTS) == "random"}
    say(f"{published.model}{''.join(f' [{fact.name}]' for fact, holds in facts.items() if holds)}")
    experiment = None if published.family in BUILT_ON_OTHERS else experiment_of(published, options.weights)
    threads = 1 if experiment is None else experiment.training.threads
    with (
        tempfile.TemporaryDirectory() as scratch,
        open_workbench(_options(options, published), threads, workers=1, store=False) as (bench, planner),
    ):
        check_data(published, planner.patch_set)
        say("data: the same training and test data, by their sha256")
        same = _answers(bench, planner, folder, options)
        if experiment is None:
            say(f"folds: not trained again, since a model of family {published.family} is built on other models")
        else:
            (plan,) = planner.plans([experiment])
            same &= _fold(bench, plan, folder, published, options, Path(scratch))
    return 0 if same else FAILED


def _options(options: VerifyOptions, published: PublishedExperiment) -> TrainingOptions:
    """The options by which the workbench finds the published data, and computes as it was published."""
    data, phantom = options.data, {}
    if not data and published.phantom is not None:
        data, phantom = "phantom", {f"phantom_{name}": value for name, value in asdict(published.phantom).items()}
    if not data:
        shas = [published.tags.get(tag, "") for tag in (Tag.DATA_SHA256, Tag.TEST_SHA256)]
        there = find_again(*shas)
        if there is None or not there.is_dir():
            raise expected("data", f"the directory of the data with sha256 {shas[0][:12]}… and {shas[1][:12]}…", "none")
        data = str(there)
    cpu = options.devices == "auto" and published.tags.get(Tag.DEVICE, "cpu") == "cpu"
    return TrainingOptions(
        data=data,
        devices="cpu" if cpu else options.devices,
        card_memory_gb=options.card_memory_gb,
        executor=options.executor,
        cache_dir=options.cache_dir,
        accept_licence=options.accept_licence,
        **phantom,
    )


def _answers(bench: Workbench, planner: Planner, folder: Path, options: VerifyOptions) -> bool:
    """Say how the published model answers the test set; returns whether as it is published."""
    if not (folder / "model").is_dir():
        say("model: its files were not published")
        return True
    found = compare_answers(bench, folder, planner.patch_set)
    say(f"model: its answers to {found.count} test patches are {found.in_words(options.tolerance)}")
    return found.within(options.tolerance)


def _fold(
    bench: Workbench,
    plan: Plan,
    folder: Path,
    published: PublishedExperiment,
    options: VerifyOptions,
    scratch: Path,
) -> bool:
    """Train a fold again and say how it compares; returns whether it is as it is published."""
    check_folds(folder, plan.folds)
    folds = [fit for fit in plan.fits if fit.fold is not None]
    if options.fold > len(folds):
        raise expected("fold", f"one of 1 to {len(folds)}", options.fold)
    fit = folds[options.fold - 1]
    if other := check_plan(published, plan, fit):
        say(f"{fit.name}: small differences are to be expected: {other}")
    found = compare_fold(folder, fit, repeat_fold(bench, plan, fit, scratch))
    trained = f"trained again on {len(fit.job.train_rows)} patches"
    say(f"{fit.name}: {trained}, its {found.count} predictions are {found.in_words(options.tolerance)}")
    return found.within(options.tolerance)
