"""Find the pairs of patches for a model to predict: a data directory's, a tensor file's, or cut from a film."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mammo_mlflow.commands.shared import FilmOptions, WorkbenchOptions
from mammo_mlflow.data.arrays import check_tensor, read_groups, read_types
from mammo_mlflow.data.cbis_ddsm.cutting import Pair
from mammo_mlflow.data.cbis_ddsm.one_film import cut_one_film, pairs_array, parse_boxes
from mammo_mlflow.data.patches import SPLITS, Split
from mammo_mlflow.data.phantom import PhantomSettings, make_phantom
from mammo_mlflow.errors import UserError, expected
from mammo_mlflow.experiment import BASELINE, OTHER_VIEW, PATCH, ROWS
from mammo_mlflow.jobs.cache import Cache
from mammo_mlflow.pixels import whole_numbers

PHANTOM = "phantom"
TENSOR, LABELS, GROUPS = (f"{SPLITS['test']}_{name}" for name in ("tensor.npy", "labels.npy", "groups.csv"))
_FILM = (".dcm", ".dicom")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class InputPairs:
    """A checked tensor file of pairs, uint16 (2n, size, size), and their places on the film if cut from one.

    `directory` is the data directory that they are the test set of, if any.
    """

    tensor: Path
    cut: Sequence[Pair] = ()
    directory: Path | None = None

    def places(self, inputs: Collection[str]) -> dict[str, np.ndarray]:
        """Which abnormalities, int (n,), the input `other_view` reads, where `inputs` have it.

        Raises `UserError` where nothing tells which patches are of one lesion.
        """
        if OTHER_VIEW not in inputs:
            return {}
        if self.directory is None:
            raise expected("input", f"a data directory, whose {GROUPS} tells the views of a lesion", "patches alone")
        groups = read_groups(self.directory / GROUPS) if (self.directory / GROUPS).exists() else None
        pairs = np.load(self.tensor, mmap_mode="r", allow_pickle=False)
        types = read_types(self.directory / LABELS)
        for name, count in {LABELS: len(types), GROUPS: len(types) if groups is None else len(groups)}.items():
            if 2 * count != len(pairs):
                raise expected(f"{name}: rows", f"those of the {len(pairs) // 2} abnormalities of {TENSOR}", count)
        return {OTHER_VIEW: Split("test", pairs, types, groups).other_views()}


def find_input_pairs(film: FilmOptions, size: int, need_baseline: bool, folder: Path) -> InputPairs:
    """Find the pairs of a test set (data directory or `phantom`), of a `.npy` file, or of a film's boxes and masks.

    Pairs cut from a film, and whole numbers of another type than uint16, are written to a file in `folder`. Patches
    have `size` pixels a side. Raises `UserError`.
    """
    source = film.input
    given = (
        make_phantom(PhantomSettings(size=size), Cache(None, WorkbenchOptions().cache_limit_gb).root)
        if source == PHANTOM
        else None
    )
    path = given or Path(source).expanduser()
    if not path.is_dir() and (path.suffix.lower() in _FILM or (path.suffix != ".npy" and (film.box or film.mask))):
        return _cut(path, film, size, need_baseline, folder / "pairs.npy")
    for name in ("box", "mask"):
        if getattr(film, name):
            raise expected(name, "a film (FILM.dcm) as input beside it", f"'{source}'")
    tensor = path / TENSOR if path.is_dir() else path
    if check_tensor(tensor, size, any_number=True).dtype != np.dtype("<u2"):
        tensor = _of_whole_numbers(tensor, need_baseline, folder / "pairs.npy")
    return InputPairs(tensor, directory=path if path.is_dir() else None)


def _of_whole_numbers(tensor: Path, need_baseline: bool, target: Path) -> Path:
    """Convert a checked tensor file of another type to uint16; baselines that are not needed become 0.

    Raises `UserError` for values that are not whole numbers from 0 to 65535, in the order in which a server checks
    them.
    """
    given = np.load(tensor, mmap_mode="r", allow_pickle=False)
    taken = np.zeros(given.shape, np.uint16)
    for name in (PATCH, BASELINE) if need_baseline else (PATCH,):
        for row in range(ROWS[name], len(given), 2):
            taken[row] = whole_numbers(f"{tensor.name}: {name} {row // 2}", given[row])
    np.save(target, taken)
    return target


def _cut(path: Path, film: FilmOptions, size: int, need_baseline: bool, target: Path) -> InputPairs:
    masks = [Path(name).expanduser() for name in film.mask.split(";") if name.strip()]
    boxes = parse_boxes(film.box)
    if not boxes and not masks:
        raise expected("box", f"a box or a mask, to say where to look on '{path.name}'", "neither")
    for field, file in (("input", path), *(("mask", mask) for mask in masks)):
        if not file.is_file():
            raise UserError(f"{field}: expected a DICOM file, found none at '{file}'")
    pairs = cut_one_film(path, boxes, masks, film.crop(size))
    for note in filter(None, (pair.note for pair in pairs)):
        _log.warning("%s", note)
    np.save(target, pairs_array(pairs, need_baseline))
    return InputPairs(target, pairs)
