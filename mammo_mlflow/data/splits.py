"""Make folds and holdouts, stratified by type; patients and exact duplicates are never split."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from mammo_mlflow.data.patches import TASKS, TYPES, Split, check_classes, targets
from mammo_mlflow.errors import UserError, expected
from mammo_mlflow.files import sha256

_log = logging.getLogger(__name__)


def make_folds(
    types: np.ndarray,
    patient_ids: np.ndarray | None,
    folds: int,
    seed: int,
    task: str,
    duplicate_groups: np.ndarray | None = None,
) -> np.ndarray:
    """Assign each training abnormality to a fold: int16 (n,), 0 to folds - 1.

    `types` (n,) are 1 to 4, `patient_ids` (n,) or None, `duplicate_groups` (n,) equal where pixels are
    (`PatchSet.train_duplicates`). All of a patient, and all duplicates, are in one fold. Folds are stratified by type,
    so that they are the same for both tasks; where that leaves a fold without a class of `task`, by its classes.

    Raises:
        UserError: fewer than 2 folds, a class of the task without a patch or with too few patches or patients for
            them, or no balanced split was found.
    """
    types = np.asarray(types)
    if folds < 2:
        raise expected("folds", "at least 2", folds)
    check_classes(types, task)
    groups, classes = _merge_groups(len(types), patient_ids, duplicate_groups), targets(types, task)
    unit = "patches" if patient_ids is None else "patients"
    for value, name in enumerate(TASKS[task]):
        count = len(np.unique(groups[classes == value]))
        if count < folds:
            wanted = f"at most {count} for {task}, the number of {unit} with a {name} abnormality"
            raise expected("folds", wanted, folds)
    counts = {kind: len(np.unique(groups[types == kind])) for kind in np.unique(types)}
    if few := [f"{count} with a {TYPES[kind]}" for kind, count in counts.items() if count < folds]:
        _log.warning("folds: too few %s for one in each of %d folds: %s", unit, folds, ", ".join(few))
    enough = max(np.bincount(types)) >= folds  # scikit-learn refuses to split where no type has so many
    numbers = _stratified_folds(types, groups, folds, seed) if enough else None
    if numbers is None or _folds_without_class(numbers, classes, folds):
        _log.warning("folds: stratified by %s alone, and so for %s alone", " and ".join(TASKS[task]), task)
        numbers = _stratified_folds(classes, groups, folds, seed)
    if len(np.unique(np.stack([groups, numbers]), axis=1).T) != len(np.unique(groups)):
        raise UserError("folds: a patient or duplicate ended up in two folds")
    for fold, value in _folds_without_class(numbers, classes, folds):
        raise UserError(f"folds: fold {fold} of {folds} has no {TASKS[task][value]} patch; use fewer folds")
    return numbers


def make_holdout(
    types: np.ndarray,
    patient_ids: np.ndarray | None,
    share: float,
    seed: int,
    task: str,
    duplicate_groups: np.ndarray | None = None,
) -> np.ndarray:
    """Make a single split in the form of `make_folds`: int16 (n,), 0 where held out, else -1.

    About `share` (0 to 1) of each type is held out; the other arguments are as in `make_folds`.

    Raises:
        UserError: a class of the task would be missing on one side.
    """
    check_classes(types, task)
    _, held_out = inner_holdout(np.arange(len(types)), types, patient_ids, task, share, seed, duplicate_groups)
    numbers = np.full(len(types), -1, np.int16)
    numbers[held_out] = 0
    return numbers


def inner_holdout(
    indices: np.ndarray,
    types: np.ndarray,
    patient_ids: np.ndarray | None,
    task: str,
    fraction: float = 0.1,
    seed: int = 0,
    duplicate_groups: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Split a fold's training abnormalities into those to train on and those that early stopping watches.

    `indices` (m,) point into `types`, `patient_ids` and `duplicate_groups`, which are (n,) over all training
    abnormalities. Whole patients are taken in random order where that brings the number of each type nearer to
    `fraction` (0 to 1) of it, at least one. Where a side would be without a class of the task, classes are counted
    instead of types. Both results are sorted and together are `indices`.

    Raises:
        UserError: the fraction is not between 0 and 1, or a class of the task would be missing on one side.
    """
    if not 0 < fraction < 1:
        raise expected("fraction", "more than 0 and less than 1", fraction)
    indices = np.sort(np.asarray(indices))
    kinds = np.asarray(types)[indices]
    groupings = (None if known is None else np.asarray(known)[indices] for known in (patient_ids, duplicate_groups))
    groups, classes = _merge_groups(len(indices), *groupings), targets(kinds, task)
    for strata in (kinds - 1, classes):
        held_out = _draw_holdout(strata, groups, fraction, seed)
        sides = [set(classes[held_out]), set(classes[~held_out])]
        if all(len(side) == len(TASKS[task]) for side in sides):
            return indices[~held_out], indices[held_out]
    value = min({0, 1} - min(sides, key=len))
    raise UserError(
        f"inner holdout: {int((classes == value).sum())} {TASKS[task][value]} abnormalities in {len(indices)} are too "
        "few to keep some to fit on and some for early stopping"
    )


def _draw_holdout(strata: np.ndarray, groups: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Choose the rows to hold out, bool (m,): whole `groups`, about `fraction` of each of `strata` (m,), 0 to 3."""
    counts = np.zeros((groups.max(initial=-1) + 1, len(TYPES)), np.int64)
    np.add.at(counts, (groups, strata), 1)
    total = counts.sum(axis=0)
    wanted = np.where(total > 0, np.maximum(1, np.rint(fraction * total)), 0)
    order = np.random.default_rng(seed).permutation(len(counts))
    chosen, have = np.zeros(len(counts), bool), np.zeros(len(TYPES))
    for group in order:
        if np.abs(wanted - have - counts[group]).sum() < np.abs(wanted - have).sum():
            chosen[group], have = True, have + counts[group]
    for kind in np.flatnonzero((have == 0) & (wanted > 0)):
        rest = [group for group in order if counts[group, kind] and not chosen[group]]
        smallest = min(rest, key=lambda group: counts[group].sum())
        chosen[smallest] = True
    return chosen[groups]


def folds_sha256(fold_numbers: np.ndarray) -> str:
    """The sha256 (hexadecimal) of fold numbers (n,), hashed as little-endian int16."""
    return sha256(np.asarray(fold_numbers).astype("<i2").tobytes())


def folds_frame(split: Split, fold_numbers: np.ndarray) -> pd.DataFrame:
    """Folds (n,) as a table: patch (the abnormality's index), fold, type (1 to 4) and, where known, patient_id."""
    frame = pd.DataFrame({"patch": np.arange(len(split)), "fold": np.asarray(fold_numbers), "type": split.types})
    if split.patient_ids is not None:
        frame["patient_id"] = split.patient_ids
    return frame


def _merge_groups(count: int, *groupings: np.ndarray | None) -> np.ndarray:
    """Number the groups of rows that must stay together, (count,): connected by any of the groupings, also in chains.

    Each of `groupings` (count,) has equal values where two rows belong together, or is None.
    """
    nodes, edges, offset = np.arange(count), [], count
    for known in groupings:
        if known is not None:
            _, numbers = np.unique(np.asarray(known), return_inverse=True)
            edges.append(numbers + offset)
            offset += int(numbers.max(initial=-1)) + 1
    if not edges:
        return nodes
    rows, columns = np.tile(nodes, len(edges)), np.concatenate(edges)
    graph = coo_array((np.ones(len(rows), np.int8), (rows, columns)), shape=(offset, offset))
    return connected_components(graph, directed=False)[1][:count]


def _stratified_folds(strata: np.ndarray, groups: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Folds, int16 (n,), of whole `groups` (n,), each with about the same part of every one of the `strata` (n,)."""
    numbers = np.empty(len(strata), np.int16)
    grouped = len(np.unique(groups)) < len(strata)
    splitter = (StratifiedGroupKFold if grouped else StratifiedKFold)(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")  # `make_folds` warns of it itself
        for number, (_, held_out) in enumerate(splitter.split(strata, strata, groups if grouped else None)):
            numbers[held_out] = number
    return numbers


def _folds_without_class(numbers: np.ndarray, classes: np.ndarray, folds: int) -> list[tuple[int, int]]:
    """The (fold, class) combinations without a row; `numbers` (n,) are folds, `classes` (n,) are 0 or 1."""
    return [(fold, value) for fold in range(folds) for value in (0, 1) if value not in classes[numbers == fold]]
