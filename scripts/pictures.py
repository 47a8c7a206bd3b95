"""Take the pictures of the README: the report and MLflow's pages of a store, in a browser without a window.

    python scripts/pictures.py FOLDER

FOLDER is where commands were run (`mlflow.db`), on the phantom; `report` has been run there too. Needs `chromium`.
Pictures go to `docs/pictures`, with few colours, so that they stay small.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow.tracking import MlflowClient
from PIL import Image

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
BROWSER = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
WHOLE = ["--run-all-compositor-stages-before-draw"]  # or tiles of the page may be missing
OFFLINE = ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
COLOURS = 64
SECONDS = 30
"""How long MLflow's pages are given to fetch what they show."""


@contextmanager
def interface(folder: Path) -> Iterator[str]:
    """Context: MLflow's pages of the store in a folder; yields their address."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    store = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--port", str(port), "--workers", "1"]
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", *store],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait()


def take(address: str, name: str, width: int, height: int, kept: int = 0) -> None:
    """Write the picture `name` of a page, `width` times `height` pixels, of which `kept` from the left are kept."""
    with tempfile.TemporaryDirectory() as folder:
        taken = Path(folder) / "page.png"
        look = [
            f"--window-size={width},{height}",
            f"--virtual-time-budget={SECONDS * 1000}",
            f"--user-data-dir={folder}/user",
        ]
        subprocess.run(
            [*BROWSER, *WHOLE, *OFFLINE, *look, f"--screenshot={taken}", address],
            check=True,
            stderr=subprocess.DEVNULL,
            timeout=300,
        )
        PICTURES.mkdir(exist_ok=True)
        few = (
            Image.open(taken)
            .convert("RGB")
            .crop((0, 0, kept or width, height))
            .quantize(COLOURS, dither=Image.Dither.NONE)
        )
        few.save(PICTURES / f"{name}.png", optimize=True)


def main() -> None:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder.resolve()
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    # `mlflow run` starts in `Default`, commands by themselves in `mammo`
    experiment = max(client.search_experiments(), key=lambda one: len(client.search_runs([one.experiment_id])))
    take((folder / "report" / "index.html").as_uri(), "report", 1200, 835)
    with interface(folder) as address:
        # the cross-validations, above whose folds MLflow shows them, side by side
        view = urllib.parse.urlencode(
            {
                "workflowType": "machine_learning",
                "compareRunsMode": "CHART",
                "searchFilter": "attributes.run_name LIKE 'fold%'",
            },
            quote_via=urllib.parse.quote,
        )
        take(f"{address}/#/experiments/{experiment.experiment_id}/runs?{view}", "runs", 1800, 660, kept=1334)


if __name__ == "__main__":
    main()
