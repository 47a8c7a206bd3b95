"""Fill the templates of pages: each page is one HTML file that loads nothing else, its pictures within it."""

from __future__ import annotations

import base64
import io
from functools import cache
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader
from matplotlib.figure import Figure
from PIL import Image

from mammo_mlflow.evaluation.figures.patches import grey
from mammo_mlflow.report.plots import DPI

LOGGED_WIDTH = 1000
"""Width in pixels at which figures that runs have logged are shown."""
PATCH_WIDTH = 224
MOST_PIXELS = 20_000_000


def filled(template: str, **values: object) -> str:
    """Fill the template of a page, a file of the folder `page`, with values by their names there."""
    return _environment().get_template(template).render(values)


def score_words(name: str) -> str:
    """The name of a score or of a column as pages spell it: `roc_auc` is ROC AUC."""
    return name.replace("roc_auc", "ROC AUC").replace("_", " ")


def short_value(text: str) -> str:
    """A setting's value with at most four digits of a fraction, as `0.0003217`; other texts as they are."""
    try:
        return f"{float(text):.4g}" if "." in text and len(text) > len("0.0001234") else text
    except ValueError:
        return text


def shrunk(path: Path) -> str:
    """A PNG that a run has logged as a data URI, scaled down to `LOGGED_WIDTH`; "" for one that is none."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            if not 0 < image.height <= image.width * 10 or image.width * image.height > MOST_PIXELS:
                return ""
            width = min(LOGGED_WIDTH, image.width)
            height = max(1, round(image.height * width / image.width))
            small = image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS).quantize(64)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # whoever writes in the store, wrote it
        return ""
    return _image_uri(small)


def figure_uri(figure: Figure) -> str:
    """A figure as the data URI of a PNG; it is emptied to free its memory."""
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=DPI)
    figure.clear()
    return png_uri(target.getvalue())


def patch_uri(patch: np.ndarray) -> str:
    """A patch, uint16 (size, size), in grey as the data URI of a PNG of at most `PATCH_WIDTH` pixels a side."""
    image = Image.fromarray(grey(patch))
    image.thumbnail((PATCH_WIDTH, PATCH_WIDTH))
    return _image_uri(image)


def png_uri(content: bytes) -> str:
    """The data URI of a PNG's bytes."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


@cache
def _environment() -> Environment:
    environment = Environment(loader=PackageLoader(__package__, "page"), autoescape=True, trim_blocks=True)
    environment.filters |= {"score_words": score_words, "short": short_value}
    environment.filters["png"] = lambda path: png_uri(path.read_bytes())
    return environment


def _image_uri(image: Image.Image) -> str:
    target = io.BytesIO()
    image.save(target, "PNG", optimize=True)
    return png_uri(target.getvalue())
