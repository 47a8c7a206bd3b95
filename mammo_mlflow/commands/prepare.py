"""`prepare`: published CBIS-DDSM, DICOM and case descriptions, made into a data directory."""

from __future__ import annotations

from typing import Annotated

from mammo_mlflow import checks
from mammo_mlflow.commands.base import Command, Option
from mammo_mlflow.commands.shared import SIZE, CropOptions
from mammo_mlflow.data.cbis_ddsm.settings import SHARED_PATIENTS, WITHOUT_CALLBACK, CropSettings, IngestSettings


class PrepareOptions(CropOptions):
    """The options of `prepare`."""

    source: Annotated[str, Option("directory with the collection's DICOM, in whatever folders", path=True)]
    out: Annotated[str, Option("data directory to make", path=True)]
    size: Annotated[int, SIZE] = CropSettings.size
    csv: Annotated[str, Option("directory of the case descriptions; by default the source", path=True)] = ""
    without_callback: Annotated[
        str, Option("what BENIGN_WITHOUT_CALLBACK is", check=checks.one_of(*WITHOUT_CALLBACK))
    ] = "benign"
    shared_patients: Annotated[
        str, Option("training rows of patients in the test set", check=checks.one_of(*SHARED_PATIENTS))
    ] = "drop-train"
    workers: Annotated[int, Option("films at once; 0: as many as there are cores", check=checks.at_once)] = 0

    def settings(self) -> IngestSettings:
        """What decides the patches. Raises `UserError`."""
        return IngestSettings(self.crop(self.size), self.without_callback, self.shared_patients)


COMMAND = Command(
    name="prepare",
    summary="make a data directory from CBIS-DDSM as it is published, DICOM and case descriptions",
    stage="data",
    options=PrepareOptions,
    run="mammo_mlflow.workflows.prepare:run",
    shown=("source", "out", "workers"),
    example="--source download --out patches",
)
