"""The command `publish`: write one directory about a registered model for a paper and whoever checks it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from mammo_mlflow.commands.publish import PublishOptions
from mammo_mlflow.errors import expected
from mammo_mlflow.files import check_writable, whole
from mammo_mlflow.publication.write import Choices, check_packages, crate_sha256, write_publication
from mammo_mlflow.terminal import say
from mammo_mlflow.tracking.lineage import lineage_of, version_under
from mammo_mlflow.tracking.registry import find_model, verified_model
from mammo_mlflow.tracking.store import open_client


def run(options: PublishOptions) -> Path:
    """Run `publish`: write the directory `out` whole, or nothing; return its path. Raises `UserError`."""
    check_packages()
    target = Path(options.out).expanduser().absolute()
    if not options.out or target.exists() or target.is_symlink():
        raise expected("out", "the name of a folder that is not there yet", f"'{options.out}'")
    if not target.parent.is_dir():
        raise expected("out", "a name in a folder that exists", f"'{options.out}'")
    check_writable("out", target.parent)
    client = open_client()
    version = find_model(client, options.model) if options.model else version_under(client, options.run)
    lineage = lineage_of(client, version)
    choices = Choices(identities=options.identities, pixels=options.pixels, model=options.with_model)
    with tempfile.TemporaryDirectory() as folder:
        (fetched := Path(folder, "fetched")).mkdir()  # beside the model, whose folder is published as it is
        found = verified_model(client, f"{version.name}/{version.number}", Path(folder, "model"))
        with whole(target) as part:
            items = write_publication(client, lineage, found.path, part, fetched, choices)
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    unanswered = sum(not one.answer for one in items)
    say(f"{version}: {target} ({size / 1e6:.1f} MB)")
    say(f"checklists: {len(items) - unanswered} of {len(items)} items answered from the store, as far as it knows")
    say(f"sha256 of the publication: {crate_sha256(target)}")
    say(f"check it:  python -m mammo_mlflow verify --publication {options.out}")
    say(version.disclosure.line("a model that was trained on synthetic patches, "))
    return target
