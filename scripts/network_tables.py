"""Print the tables of docs/networks.md: the networks of the paper's settings, for patches of 150 pixels.

    python scripts/network_tables.py [m1] [m2] [m1_author] [scratch] [siamese] [backbones]

M1, M2 and the author's M1 layer by layer, the Siamese network whose encoder is trained from scratch, the sizes of
all Siamese networks, and where backbones can be cut. Without a name all of them, which builds every backbone.
"""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from mammo_mlflow.backbones import BACKBONES
from mammo_mlflow.experiment import BASELINE, NETWORKS, PATCH, ModelSpec, build
from mammo_mlflow.presets import preset_values

if TYPE_CHECKING:
    import keras

IMAGE_SIZE = 150
SIDES = {"scratch": (PATCH,), "siamese": (BASELINE, PATCH)}


def networks(family: str, network: str) -> tuple[ModelSpec, keras.Model, keras.Model]:
    """The model's part of the paper's setting, and its encoder and head."""
    from mammo_mlflow.models.encoders import build_encoder
    from mammo_mlflow.models.network import build_head
    from mammo_mlflow.models.siamese import joined_shape

    spec = build("mass_calc", preset_values("paper", network, "mass_calc", family), family).model
    encoder = build_encoder(family, spec, IMAGE_SIZE, "float32")
    shape = joined_shape(encoder.output.shape[1:], SIDES[family], spec.difference)
    return spec, encoder, build_head(shape, spec)


def layer_table(family: str, network: str) -> str:
    """Every layer with weights or another shape than the one before; what else follows it is told beside it."""
    import keras

    spec, encoder, head = networks(family, network)
    rows: list[tuple[str, list[str], Any, int, str]] = []
    for layer in (*encoder.layers, *head.layers):
        if layer is head.layers[0]:
            if len(SIDES[family]) > 1:
                rows.append(("difference", [spec.difference], layer.output.shape, 0, ""))
        elif isinstance(layer, (keras.layers.ReLU, keras.layers.Dropout)):
            rows[-1][1].append(f"dropout {layer.rate:g}" if isinstance(layer, keras.layers.Dropout) else "ReLU")
        else:
            name = getattr(getattr(layer, "activation", None), "__name__", "linear")
            then = [] if name == "linear" else [{"relu": "ReLU"}.get(name, name)]
            rows.append((layer.name, then, layer.output.shape, layer.count_params(), penalty(layer)))
    kept = any(row[-1] for row in rows)
    header = ["layer", "then", "output", "parameters", *(["penalty"] if kept else [])]
    cells = [
        [f"`{name}`", ", ".join(then), "×".join(map(str, shape[1:])), f"{count:,}", *([cost] if kept else [])]
        for name, then, shape, count, cost in rows
    ]
    trained = sum(math.prod(variable.shape) for part in (encoder, head) for variable in part.trainable_variables)
    counts = {"encoder": encoder.count_params(), "head": head.count_params()}
    counts |= {"all": sum(counts.values()), "of which trained": trained}
    cells += [[f"**{name}**", "", "", f"{count:,}", *([""] if kept else [])] for name, count in counts.items()]
    return markdown(header, cells)


def penalty(layer: keras.Layer) -> str:
    """The penalty on a layer's kernel, in words."""
    cost = getattr(layer, "kernel_regularizer", None)
    factors = {} if cost is None else {"L1": float(cost.l1), "L2": float(cost.l2)}
    return ", ".join(f"{name} {short(factor)}" for name, factor in factors.items() if factor)


def short(factor: float) -> str:
    """A small number as 1e-04 or 1.25e-03."""
    return re.sub(r"\.?0+e", "e", f"{factor:.2e}")


def size_row(network: str) -> list[str]:
    """A Siamese network in a row: its encoder, how its features are pooled, and how many parameters it has."""
    spec, encoder, head = networks("siamese", network)
    counts = encoder.count_params(), head.count_params()
    (features,) = encoder.output.shape[1:]
    return [f"`{network}`", spec.pooling, *(f"{count:,}" for count in (features, *counts, sum(counts)))]


def size_table() -> str:
    """The sizes of the Siamese networks."""
    header = ["encoder", "pooling", "features of a side", "encoder's parameters", "head's", "all"]
    return markdown(header, map(size_row, NETWORKS["siamese"]))


def backbone_row(base: keras.Model) -> list[str]:
    """A backbone in a row; patches of another size change none of it."""
    from mammo_mlflow.models.network import convolutions, cut_points

    row = BACKBONES[base.name]
    counts = len(convolutions(base)), len(cut_points(base)), row.parameters, base.output.shape[-1]
    return [f"`{base.name}`", f"{row.minimum_size}", *(f"{count:,}" for count in counts)]


def backbone_table() -> str:
    """The backbones: their convolutions, layer cuts and sizes."""
    from mammo_mlflow.models.network import build_base

    header = ["backbone", "smallest patches", "convolutions", "layer cuts", "parameters", "features, pooled"]
    bases = (build_base(name, row.minimum_size, "average", "float32") for name, row in BACKBONES.items())
    return markdown(header, map(backbone_row, bases))


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


TABLES: dict[str, tuple[str, Callable[[], str]]] = {
    "m1": ("M1", lambda: layer_table("scratch", "m1")),
    "m2": ("M2", lambda: layer_table("scratch", "m2")),
    "m1_author": ("M1 as its author published it", lambda: layer_table("scratch", "m1_author")),
    "scratch": ("Siamese, encoder trained from scratch", lambda: layer_table("siamese", "scratch")),
    "siamese": ("All Siamese networks", size_table),
    "backbones": ("All backbones", backbone_table),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables that are asked for, each under its heading."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(TABLES))
    names = parser.parse_args(arguments).names or list(TABLES)
    for name in names:
        if name not in TABLES:
            parser.error(f"expected one of {', '.join(TABLES)}, found '{name}'")
    print("\n\n".join(f"### {TABLES[name][0]}\n\n{TABLES[name][1]()}" for name in names))


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    main()
