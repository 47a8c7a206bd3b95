"""The settings of an ingest, without heavy imports, since the command line reads them."""

from __future__ import annotations

from dataclasses import dataclass, field

from mammo_mlflow.checks import one_of
from mammo_mlflow.errors import Faults, expected, unknown_name

SIDES = ("left", "right", "above", "below")
"""Where a baseline may lie beside its abnormality."""
INTERPOLATIONS = ("nearest", "area", "bilinear", "bicubic")
WITHOUT_CALLBACK = ("benign", "exclude")
"""What becomes of abnormalities that are benign without callback."""
LOCATE = ("match", "rescale", "mask")
SHARED_PATIENTS = ("drop-train", "keep")
"""What becomes of the training abnormalities of patients that are in the test set too."""


@dataclass(frozen=True, kw_only=True)
class CropSettings:
    """How patches are cut out of films; the defaults are the paper's. Raises `UserError`.

    `margin` is the context around the box, as a fraction of its sides; `size` the side of a patch in pixels;
    `baseline_side` one of `SIDES`, several with commas in order of preference, or `any`; `tissue` the least fraction of
    a baseline that lies in the breast; `locate` how a box is found where a mask is odd: `mask` takes every mask as it
    is, `rescale` also scales one of another size than its film and ignores specks, `match` also searches the film for
    the crop.
    """

    margin: float = 0.0
    size: int = 150
    interpolation: str = "nearest"
    baseline_side: str = "any"
    tissue: float = 0.9
    locate: str = "match"

    def __post_init__(self) -> None:
        """Check every field."""
        problems = []
        if not 0 <= self.margin <= 4:
            problems.append(expected("margin", "a number from 0 to 4", self.margin))
        if not 32 <= self.size <= 1024:
            problems.append(expected("size", "a whole number from 32 to 1024", self.size))
        if self.interpolation not in INTERPOLATIONS:
            problems.append(unknown_name("interpolation", self.interpolation, INTERPOLATIONS))
        if self.locate not in LOCATE:
            problems.append(unknown_name("locate", self.locate, LOCATE))
        problems += [
            unknown_name("baseline_side", name, ("any", *SIDES))
            for name in self.baseline_side.split(",")
            if name not in SIDES and self.baseline_side != "any"
        ]
        if not 0 <= self.tissue <= 1:
            problems.append(expected("tissue", "a number from 0 to 1", self.tissue))
        if problems:
            raise Faults(map(str, problems))


@dataclass(frozen=True)
class IngestSettings:
    """The settings of an ingest: how to cut patches, and which rows to leave out. Raises `UserError`."""

    crop: CropSettings = field(default_factory=CropSettings)
    without_callback: str = "benign"
    shared_patients: str = "drop-train"

    def __post_init__(self) -> None:
        """Check every field but `crop`, which checks itself."""
        one_of(*WITHOUT_CALLBACK)("without_callback", self.without_callback)
        one_of(*SHARED_PATIENTS)("shared_patients", self.shared_patients)
