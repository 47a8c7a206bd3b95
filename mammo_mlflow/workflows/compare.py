"""The command `compare`: write one page with two models side by side."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from mammo_mlflow.commands.compare import CompareOptions
from mammo_mlflow.data.patches import Split
from mammo_mlflow.errors import UserError, expected
from mammo_mlflow.files import target_file, whole
from mammo_mlflow.names import Tag
from mammo_mlflow.report.compared_model import compared_model
from mammo_mlflow.report.report_data import find_patch_set
from mammo_mlflow.report.two_models import TEST, TwoModels, compare
from mammo_mlflow.report.two_models_page import render
from mammo_mlflow.terminal import say
from mammo_mlflow.tracking.store import open_client


def run(options: CompareOptions) -> Path:
    """Run `compare`: write the page and say what it found; return its path. Raises `UserError`."""
    target = target_file("out", options.out)
    client = open_client()
    with tempfile.TemporaryDirectory() as folder:
        first, second = (compared_model(client, name, Path(folder)) for name in (options.first, options.second))
        if first.run_ids == second.run_ids:
            raise expected("second", f"another model than the first, {first.label}", f"the same, '{options.second}'")
        if first.label == second.label:  # settings beside the network are in no run's name
            first, second = (replace(one, label=f"{one.label} (run {one.run_ids[0][:8]})") for one in (first, second))
        found = compare(first, second, options.objective)
        split, unseen = _patches(found)
        page = render(found, split, unseen)
    with whole(target) as part:
        part.write_text(page, encoding="utf-8")
    for line in found.sentences:
        say(line)
    decided = f"{found.decided_otherwise} of {found.patches} {found.predictions} patches"
    if unseen:
        say(f"no patches are shown: {unseen}")
    say(f"settings that differ: {len(found.settings)}; decided otherwise: {decided}")
    say(f"comparison: {target}")
    say(found.disclosure.line())
    return target


def _patches(found: TwoModels) -> tuple[Split | None, str]:
    """The patches that the compared predictions are of; None where they cannot be shown, and why."""
    tags = found.first.tags
    try:
        data = find_patch_set((tags.get(Tag.DATA_SHA256, ""), tags.get(Tag.TEST_SHA256, "")))
    except UserError as problem:
        return None, str(problem)
    return data.test if found.predictions == TEST else data.train, ""
