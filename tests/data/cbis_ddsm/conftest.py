import shutil

import pytest
from support_collection import plan, write_collection

from mammo_mlflow.data.cbis_ddsm.ingest import ingest
from mammo_mlflow.data.cbis_ddsm.settings import CropSettings, IngestSettings

ROWS = plan(12)
SMALL = IngestSettings(CropSettings(size=32))


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    """A synthetic collection of 12 films under the paths that its descriptions give."""
    root = tmp_path_factory.mktemp("collection") / "published"
    write_collection(root, ROWS)
    return root


@pytest.fixture(scope="session")
def made(published, tmp_path_factory):
    """The data directory of that collection, undisturbed."""
    out = tmp_path_factory.mktemp("made") / "out"
    return ingest(published, out, published, SMALL, 1, lambda *_: None)


@pytest.fixture
def collection(published, tmp_path):
    """A copy of the collection, to be spoilt."""
    return shutil.copytree(published, tmp_path / "collection")


@pytest.fixture
def prepare(collection, tmp_path):
    """Ingest the copy: prepare(workers=2) -> IngestResult."""

    def call(settings=SMALL, workers=1, out="out", source=collection, descriptions=collection):
        return ingest(source, tmp_path / out, descriptions, settings, workers, lambda *_: None)

    return call


def content(directory):
    """The bytes of every file of a directory, by name."""
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}
