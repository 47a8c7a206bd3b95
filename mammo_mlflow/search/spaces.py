"""Search spaces: what a study draws its trials from, read from a YAML file (docs/search_spaces.md)."""

from __future__ import annotations

from pathlib import Path

from mammo_mlflow.search.parameters import SearchSpace
from mammo_mlflow.search.reader import Reader
from mammo_mlflow.search.tree import FOLDERS


def find_space(given: str, family: str, backbone: str) -> Path:
    """The file `given`, else the family's, the one for this backbone first.

    It need not exist: `read_space` then says which there are.
    """
    if given:
        return Path(given).expanduser()
    paths = [folder / name for folder in FOLDERS for name in (f"{family}-{backbone}.yaml", f"{family}.yaml")]
    return next((path for path in paths if path.exists()), FOLDERS[0] / f"{family}.yaml")


def read_space(path: Path, family: str, backbone: str) -> SearchSpace:
    """The space in a file, for this family and backbone. Raises `Faults` with every fault of the file."""
    return Reader(path, family, backbone).read()
