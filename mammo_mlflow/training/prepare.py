"""The activations that cross-validations need, made where they are missing, each from the nearest one at hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mammo_mlflow.experiment import BASELINE, ROWS
from mammo_mlflow.training.cache import Cache
from mammo_mlflow.training.jobs import ActivationJob, FeatureJob
from mammo_mlflow.training.plan import Activations, Plan
from mammo_mlflow.training.session import Session
from mammo_mlflow.training.sources import Derived

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
        plan.network,
        plan.weights,
        plan.patch_set.directory / "train_tensor.npy",
        entry.cut,
        plan.experiment.training.views,
        plan.experiment.training.augmentation,
        session.cores,
        target,
        start,
        None if source is None else paths[source.key],
        entry.first,
    )
    name = f"{plan.experiment.model.backbone} {'baseline ' if entry.first == ROWS[BASELINE] else ''}activations"
    session.run_one(name, "mammo_mlflow.training.activations:compute", job)


def _derive(session: Session, plan: Plan, entry: Activations, derived: Derived, target: Path) -> None:
    """What the head of a trained model stands on, from the activations that this model itself was trained on."""
    prefixes = derived.prefixes
    paths = ensure_activations(session, [derived.plan]) if prefixes else {}
    training = plan.experiment.training
    job = FeatureJob(
        derived.tail,
        plan.patch_set.directory / "train_tensor.npy",
        derived.plan.sides,
        {side: paths[one.key] for side, one in prefixes.items()} if prefixes else None,
        entry.cut,
        training.views,
        training.augmentation,
        session.cores,
        target,
    )
    name = f"{derived.plan.experiment.model.backbone} features {derived.fit}"
    session.run_one(name, "mammo_mlflow.training.activations:compute_features", job)
