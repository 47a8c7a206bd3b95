"""The RO-Crate of a publication: the only module that imports rocrate."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mammo_mlflow import __version__
from mammo_mlflow.files import file_sha256
from mammo_mlflow.publication.manifest import files_below

_TYPES = {
    ".csv": "text/csv",
    ".json": "application/json",
    ".md": "text/markdown",
    ".png": "image/png",
    ".txt": "text/plain",
    ".yaml": "application/yaml",
}
_KINDS = {"tables": "table", "figures": "figure", "checklists": "checklist", "model": "file of the model"}
CBIS = "https://doi.org/10.7937/K9/TCIA.2016.7O02S9CY"
CC_BY = "https://creativecommons.org/licenses/by/3.0/"
_PROGRAM, _TRAINING = "#mammo_mlflow", "#training"


def write_crate(
    folder: Path, name: str, description: str, data: Mapping[str, str], command: str, attribution: bool
) -> None:
    """Write `ro-crate-metadata.json` into a folder, with size and sha256 of every file that is there.

    `data` are the names of the data's files with their sha256, `command` trained the model on them. `attribution`: the
    data are those of CBIS-DDSM, which is cited with its licence. No licence and no author of the publication are
    given, since the store knows none.
    """
    from rocrate.model.contextentity import ContextEntity
    from rocrate.rocrate import ROCrate

    crate = ROCrate()
    crate.name, crate.description = name, description
    files = []
    for path in files_below(folder):
        about = {"name": path, "sha256": file_sha256(folder / path), "contentSize": str((folder / path).stat().st_size)}
        about["description"] = _KINDS.get(path.partition("/")[0], "about the model")
        if kind := _TYPES.get(Path(path).suffix):
            about["encodingFormat"] = kind
        files.append(crate.add_file(folder / path, path, properties=about))

    def entity(key: str, kind: str, **about: object) -> ContextEntity:
        return crate.add(ContextEntity(crate, key, properties={"@type": kind, **about}))

    program = entity(_PROGRAM, "SoftwareApplication", name="mammo_mlflow", softwareVersion=__version__)
    arrays = [entity(f"#data/{one}", "CreativeWork", name=one, identifier=f"sha256:{sha}") for one, sha in data.items()]
    if attribution:
        said = (
            "Lee et al. 2017, A curated mammography data set for use in computer-aided detection and diagnosis research"
        )
        source = entity(CBIS, "Dataset", name="CBIS-DDSM", license={"@id": CC_BY}, citation=said)
        crate.root_dataset["isBasedOn"] = source
    model = [one for one in files if one.id.startswith("model/")]
    trained = entity(_TRAINING, "CreateAction", name="training", description=command, instrument=program)
    trained["object"], trained["result"] = arrays, model or files
    crate.root_dataset["mentions"] = trained
    crate.metadata.write(folder)
