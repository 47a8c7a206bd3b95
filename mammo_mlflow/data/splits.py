"""Folds and inner holdouts: stratified by type, with every patient (and every exact duplicate) on one side."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from mammo_mlflow.data.patches import TASKS, TYPES, Split, targets
from mammo_mlflow.errors import UserError, expected


def make_folds(
    types: np.ndarray,
    patient_ids: np.ndarray | None,
    folds: int,
    seed: int,
    duplicate_groups: np.ndarray | None = None,
) -> np.ndarray:
    """The fold of each training abnormality: int16 (n,), 0 to folds - 1, the same for both tasks.

    `types` (n,) are 1 to 4, `patient_ids` (n,) or None, `duplicate_groups` (n,) equal where pixels are
    (`PatchSet.train_duplicates`). Folds are stratified by the four types; no patient and no duplicate is on two sides.

    Raises:
        UserError: fewer than 2 folds, a type with too few patches or patients for them, or no balanced split was found.
    """
    types = np.asarray(types)
    if folds < 2:
        raise expected("folds", "at least 2", folds)
    groups = _merge_groups(len(types), patient_ids, duplicate_groups)
    unit = "patches" if patient_ids is None else "patients"
    for kind, label in TYPES.items():
        count = len(np.unique(groups[types == kind]))
        if count < folds:
            raise expected("folds", f"at most {count}, the number of {unit} with a {label}", folds)
    numbers = np.empty(len(types), np.int16)
    grouped = len(np.unique(groups)) < len(types)
    splitter = (StratifiedGroupKFold if grouped else StratifiedKFold)(folds, shuffle=True, random_state=seed)
    for number, (_, held_out) in enumerate(splitter.split(types, types, groups if grouped else None)):
        numbers[held_out] = number
    _check_folds(numbers, types, groups, folds)
    return numbers


def make_holdout(
    types: np.ndarray,
    patient_ids: np.ndarray | None,
    share: float,
    seed: int,
    duplicate_groups: np.ndarray | None = None,
) -> np.ndarray:
    """A single split in the form of `make_folds`, int16 (n,): 0 where held out, about `share` of each type, else -1.

    Raises:
        UserError: a class of a task would be missing on one side.
    """
    _, held_out = inner_holdout(np.arange(len(types)), types, patient_ids, share, seed, duplicate_groups)
    numbers = np.full(len(types), -1, np.int16)
    numbers[held_out] = 0
    return numbers


def inner_holdout(
    indices: np.ndarray,
    types: np.ndarray,
    patient_ids: np.ndarray | None,
    fraction: float = 0.1,
    seed: int = 0,
    duplicate_groups: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Split a fold's training abnormalities into those to fit on and those early stopping watches.

    `indices` (m,) point into `types`, `patient_ids` and `duplicate_groups`, which are (n,) over all training
    abnormalities. Whole patients are drawn in random order as long as each brings the number of each type nearer to
    `fraction` of it, at least one. Both results are sorted and together are `indices`.

    Raises:
        UserError: the fraction is not between 0 and 1, or a class of a task would be missing on one side.
    """
    if not 0 < fraction < 1:
        raise expected("fraction", "more than 0 and less than 1", fraction)
    indices = np.sort(np.asarray(indices))
    kinds = np.asarray(types)[indices]
    patients = None if patient_ids is None else np.asarray(patient_ids)[indices]
    copies = None if duplicate_groups is None else np.asarray(duplicate_groups)[indices]
    groups = _merge_groups(len(indices), patients, copies)
    counts = np.zeros((groups.max(initial=-1) + 1, len(TYPES)), np.int64)
    np.add.at(counts, (groups, kinds - 1), 1)
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
    held_out = chosen[groups]
    for task, names in TASKS.items():
        for value, name in enumerate(names):
            is_class = targets(kinds, task) == value
            if not (is_class & held_out).any() or not (is_class & ~held_out).any():
                raise UserError(
                    f"inner holdout: {int(is_class.sum())} {name} abnormalities in {len(indices)} are too few to keep "
                    "some to fit on and some for early stopping"
                )
    return indices[~held_out], indices[held_out]


def folds_sha256(fold_numbers: np.ndarray) -> str:
    """The sha256 of the fold numbers (n,) as little-endian int16, in hexadecimal."""
    return hashlib.sha256(np.asarray(fold_numbers).astype("<i2").tobytes()).hexdigest()


def folds_frame(split: Split, fold_numbers: np.ndarray) -> pd.DataFrame:
    """One row for each abnormality: patch (its index), fold, type (1 to 4) and, where known, patient_id."""
    frame = pd.DataFrame({"patch": np.arange(len(split)), "fold": np.asarray(fold_numbers), "type": split.types})
    if split.patient_ids is not None:
        frame["patient_id"] = split.patient_ids
    return frame


def _merge_groups(count: int, patient_ids: np.ndarray | None, duplicate_groups: np.ndarray | None) -> np.ndarray:
    """Number the groups (n,) that must stay together: joined by a patient or by equal pixels, also in chains."""
    nodes, edges, offset = np.arange(count), [], count
    for keys in (patient_ids, duplicate_groups):
        if keys is not None:
            _, numbers = np.unique(np.asarray(keys), return_inverse=True)
            edges.append(numbers + offset)
            offset += int(numbers.max(initial=-1)) + 1
    if not edges:
        return nodes
    rows, columns = np.tile(nodes, len(edges)), np.concatenate(edges)
    graph = coo_array((np.ones(len(rows), np.int8), (rows, columns)), shape=(offset, offset))
    return connected_components(graph, directed=False)[1][:count]


def _check_folds(numbers: np.ndarray, types: np.ndarray, groups: np.ndarray, folds: int) -> None:
    if len(np.unique(np.stack([groups, numbers]), axis=1).T) != len(np.unique(groups)):
        raise UserError("folds: a patient or duplicate ended up in two folds")
    for task, names in TASKS.items():
        for number in range(folds):
            present = np.unique(targets(types[numbers == number], task))
            if len(present) < 2:
                absent = " and no ".join(name for value, name in enumerate(names) if value not in present)
                raise UserError(f"folds: fold {number} of {folds} has no {absent} patch; use fewer folds")
