"""Cached activations: find the cache entries that a plan needs, and compute those that are missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from mammo_mlflow.backbones import OWN_SCALING
from mammo_mlflow.data.augmentation import ALL_FLIPS
from mammo_mlflow.data.patches import PatchSet
from mammo_mlflow.experiment import BASELINE, FLIPS, PATCH, ROWS, Experiment
from mammo_mlflow.files import json_sha256
from mammo_mlflow.jobs.cache import Cache
from mammo_mlflow.jobs.contracts import ActivationJob, FeatureJob
from mammo_mlflow.jobs.descriptions import Description, LayerCut, Network
from mammo_mlflow.jobs.devices import Devices
from mammo_mlflow.jobs.workbench import Workbench
from mammo_mlflow.models.weights import NetworkWeights

ACTIVATIONS_VERSION = 2
"""The version of cached activations, to be raised when their files change, so that they are computed again.

Where that changes the numbers of fits, as another augmentation does, `RESULTS_VERSION` has to be raised too.
"""
FLATTEN = "flatten"
"""The pooling that only reshapes: its entry holds the last maps too."""


@dataclass(frozen=True, kw_only=True)
class Activations:
    """One cache entry: the activations of every training abnormality, or of every baseline, at one layer cut.

    `job` computes it, once its input and output files are filled in; `bytes` is the size of its file. Within a
    `series`, entries at deeper cuts can be computed from shallower ones. `pooling` is that of the features (None: a cut
    before them). `below` are the entries, by input, from which the features of a trained model are computed.
    """

    key: str
    bytes: int
    series: str
    pooling: str | None
    job: ActivationJob | FeatureJob
    below: Mapping[str, Activations] = field(default_factory=dict)


def frozen_activations(
    experiment: Experiment,
    patch_set: PatchSet,
    network: Network,
    weights: NetworkWeights,
    description: Description,
    devices: Devices,
    flips: bool = False,
) -> tuple[dict[str, Activations], dict[str, Activations]]:
    """The cache entries that a plan's fits read in their first and second stage, by input; none in on-line training.

    `devices` are what they are computed with. With `flips` those of `ALL_FLIPS` instead of augmented views.
    """
    if experiment.views == 0:
        return {}, {}
    if description.joined:  # each backbone's are those of that backbone alone
        found: dict[str, Activations] = {}
        for one, own, described in zip(network.each, weights.joined, description.joined, strict=True):
            alone = replace(experiment, model=one.model)
            entries, _ = frozen_activations(alone, patch_set, one, own, described, devices, flips)
            found[one.model.backbone] = entries[PATCH]
        return found, {}
    augmentation, views = experiment.training.augmentation, experiment.training.views
    if flips:
        augmentation, views = ALL_FLIPS, len(FLIPS) - 1

    def entry(cut: LayerCut, first: int) -> Activations:
        facts: dict[str, object] = {
            "data": patch_set.files["train_tensor.npy"],
            "backbone": experiment.model.backbone,
            "weights": weights.identity,
            "augmentation": augmentation,
            "views": views,
            "precision": network.precision,
            **devices.facts,
            "results_version": ACTIVATIONS_VERSION,  # an older name, which keys hash
        }
        if (scaling := experiment.model.input_scaling) != OWN_SCALING:
            facts["input_scaling"] = scaling
        if first != ROWS[PATCH]:
            facts["rows"] = first
        # the features' index is the same for every pooling, though their layer is not
        pooling = experiment.model.pooling if cut == description.features else None
        job = ActivationJob(
            name=f"{experiment.model.backbone} {'baseline ' if first == ROWS[BASELINE] else ''}activations",
            network=network,
            weights=weights,
            tensor=patch_set.directory / "train_tensor.npy",
            cut=cut,
            views=views,
            augmentation=augmentation,
            first=first,
        )
        return Activations(
            key=json_sha256(facts | {"cut": asdict(cut), "pooling": pooling}),
            bytes=cut.stored_bytes(len(patch_set.train.types), views),
            series=json_sha256(facts),
            pooling=pooling,
            job=job,
        )

    first, second = (
        {} if cut is None else {side: entry(cut, row) for side, row in experiment.sides.items()}
        for cut in (description.features, description.tuned)
    )
    return first, second


def missing_activations(cache: Cache, entries: Iterable[Activations]) -> list[Activations]:
    """The entries missing in the cache, each after the missing ones that it is computed from."""
    found: dict[str, Activations] = {}
    for entry in entries:
        if not cache.has(entry.key):
            found |= {one.key: one for one in (*missing_activations(cache, entry.below.values()), entry)}
    return list(found.values())


def ensure_activations(bench: Workbench, entries: Iterable[Activations]) -> dict[str, Path]:
    """Compute missing entries; return the files of all by key, leased to this process until `Cache.release`.

    In a series the shallowest entry is computed from the patches, deeper ones from it, pooled features last. Raises
    `UserError` where cache or disk have no room.
    """
    paths: dict[str, Path] = {}
    ready: list[Activations] = []
    for entry in sorted({entry.key: entry for entry in entries}.values(), key=_depth):
        found = bench.cache.find(entry.key)
        if found is None:
            bench.cache.make_room(entry.bytes)
            facts = {"cut": entry.job.cut, "name": entry.job.name}
            with bench.cache.creating(entry.key, facts) as output:
                if output is not None:
                    shallower = [one for one in ready if one.series == entry.series]
                    job = _with_inputs(bench, entry, shallower[-1] if shallower else None, paths)
                    bench.run_one(replace(job, threads=bench.cores, output=output))
            found = bench.cache.find(entry.key)
            if found is None:
                raise RuntimeError(f"the cache entry {entry.key[:12]} vanished")
        paths[entry.key] = found
        if entry.pooling in (None, FLATTEN):  # nothing can be computed from pooled features
            ready.append(entry)
    return paths


def _depth(entry: Activations) -> tuple[int, bool, str]:
    """Sorts entries from shallow to deep, flattened features before pooled ones."""
    return entry.job.cut.index, entry.pooling != FLATTEN, entry.key


def _with_inputs(
    bench: Workbench, entry: Activations, shallower: Activations | None, paths: Mapping[str, Path]
) -> ActivationJob | FeatureJob:
    """The job of an entry, with its input files filled in."""
    if isinstance(entry.job, FeatureJob):
        files = ensure_activations(bench, entry.below.values())
        return replace(entry.job, input_files={side: files[one.key] for side, one in entry.below.items()})
    if shallower is None:
        return entry.job
    # flattened features are the layer before them in another shape
    start = shallower.job.cut.index - (shallower.pooling == FLATTEN)
    return replace(entry.job, start=start, input_file=paths[shallower.key])
