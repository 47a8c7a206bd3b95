"""The activations that cross-validations need, made where they are missing, each from the nearest one at hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mammo_mlflow.experiment import BASELINE, ROWS
from mammo_mlflow.jobs.cache import Cache
from mammo_mlflow.jobs.contracts import ActivationJob, FeatureJob
from mammo_mlflow.jobs.session import Session
from mammo_mlflow.planning.base_models import Derived
from mammo_mlflow.planning.plan import Activations, Plan

FLATTEN = "flatten"


def missing_activations(cache: Cache, plan: Plan) -> list[Activations]:
    """The entries that a plan needs and the cache has not, those among them that others are computed from."""
    found: dict[str, Activations] = {}
    for entry in plan.activations():
        if not cache.has(entry.key):
            below = [] if entry.derived is None else missing_activations(cache, entry.derived.plan)
            found |= {one.key: one for one in (*below, entry)}
    return list(found.values())


def ensure_activations(session: Session, plans: Sequence[Plan]) -> dict[str, Path]:
    """The activation files of all these plans, by key, leased to this process until the cache releases them.

    The shallowest is computed from the patches, deeper ones from it; pooled features from those that are not pooled.
    """
    wanted = {entry.key: (entry, plan) for plan in plans for entry in plan.activations()}
    paths: dict[str, Path] = {}
    ready: list[Activations] = []
    for entry, plan in sorted(wanted.values(), key=lambda pair: _depth(pair[0])):
        found = session.cache.find(entry.key)
        if found is None:
            session.cache.make_room(entry.bytes)
            with session.cache.creating(entry.key, {"cut": entry.cut, "name": plan.name}) as target:
                if target is not None and entry.derived is not None:
                    _derive(session, plan, entry, entry.derived, target)
                elif target is not None:
                    sources = [one for one in ready if one.line == entry.line]
                    _compute(session, plan, entry, sources[-1] if sources else None, paths, target)
            found = session.cache.find(entry.key)
            if found is None:
                raise RuntimeError(f"the cache entry {entry.key[:12]} vanished")
        paths[entry.key] = found
        if entry.pooling in (None, FLATTEN):  # pooled features lead nowhere else
            ready.append(entry)
    return paths


def _depth(entry: Activations) -> tuple[int, bool, str]:
    return entry.cut.index, entry.pooling != FLATTEN, entry.key


def _compute(
    session: Session, plan: Plan, entry: Activations, source: Activations | None, paths: dict[str, Path], target: Path
) -> None:
    start = 0
    if source is not None:  # flattened features are the layer before them in another shape
        start = source.cut.index - (source.pooling == FLATTEN)
    job = ActivationJob(
        name=f"{plan.experiment.model.backbone} {'baseline ' if entry.first == ROWS[BASELINE] else ''}activations",
        network=plan.network,
        weights=plan.weights,
        tensor=plan.patch_set.directory / "train_tensor.npy",
        cut=entry.cut,
        views=plan.experiment.training.views,
        augmentation=plan.experiment.training.augmentation,
        threads=session.cores,
        output=target,
        start=start,
        source=None if source is None else paths[source.key],
        first=entry.first,
    )
    session.run_one(job)


def _derive(session: Session, plan: Plan, entry: Activations, derived: Derived, target: Path) -> None:
    """What the head of a trained model stands on, from the activations that this model itself was trained on."""
    prefixes = derived.prefixes
    paths = ensure_activations(session, [derived.plan]) if prefixes else {}
    training = plan.experiment.training
    job = FeatureJob(
        name=f"{derived.plan.experiment.model.backbone} features {derived.fit}",
        tail=derived.tail,
        tensor=plan.patch_set.directory / "train_tensor.npy",
        sides=derived.plan.sides,
        sources={side: paths[one.key] for side, one in prefixes.items()} if prefixes else None,
        cut=entry.cut,
        views=training.views,
        augmentation=training.augmentation,
        threads=session.cores,
        output=target,
    )
    session.run_one(job)
