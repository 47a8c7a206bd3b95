"""Make the compact copy of a backbone's weights that is shipped with the package.

    python scripts/quantise_weights.py SOURCE.h5 BACKBONE TARGET.npz

The copy is an `.npz` of `w0`, `w1`, ... in the order of the network's `get_weights()`. A convolution's kernel of at
least `SMALL` elements is int8 with one float32 scale for each output channel, stored beside it as `w{i}_scale`; smaller
kernels, biases and batch normalisation stay float32: they are under 2 % of the parameters, and with the early layers of
ResNet50 among them the error of its features falls to a third. The same source and zlib give the same bytes.
`docs/weights.md` has sizes and what the rounding costs.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np

from mammo_mlflow.backbones import BACKBONES

SMALL = 50_000
"""A kernel of fewer elements is kept in float32."""


def quantise(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A float32 kernel (height, width, inputs, outputs) as int8 of that shape and its scales, float32 (outputs,).

    A channel's scale is its largest magnitude over 127. Rounding errors are carried from tap to tap of each
    two-dimensional filter (error diffusion, after Floyd & Steinberg 1976), along a path without jumps: neighbouring
    inputs of a convolution are alike, hence it is the sum of a filter's errors that reaches its output. That sum is at
    most half a scale, a single error at most one scale (half a scale for a 1×1 kernel, where it is plain rounding).
    """
    peak = np.abs(kernel).max(axis=(0, 1, 2))
    scale = np.where(peak > 0, peak / np.float32(127), np.float32(1)).astype(np.float32)
    height, width = kernel.shape[:2]
    steps = np.empty(kernel.shape, np.int8)
    carry = np.zeros(kernel.shape[2:], np.float64)
    for row in range(height):
        for column in range(width) if row % 2 == 0 else reversed(range(width)):
            wanted = kernel[row, column] / scale.astype(np.float64) + carry
            rounded = np.clip(np.rint(wanted), -127, 127)
            carry = wanted - rounded
            steps[row, column] = rounded
    return steps, scale


def compact(weights: list[np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of a compact copy, by name, from a network's `get_weights()`."""
    arrays: dict[str, np.ndarray] = {}
    for index, array in enumerate(weights):
        if array.ndim == 4 and array.size >= SMALL:
            arrays[f"w{index}"], arrays[f"w{index}_scale"] = quantise(array)
        else:
            arrays[f"w{index}"] = array.astype(np.float32)
    return arrays


def write(arrays: dict[str, np.ndarray], target: Path) -> None:
    """Write an `.npz` under a temporary name and move it into place. numpy dates every member of it 1980."""
    with tempfile.NamedTemporaryFile(dir=target.parent, suffix=".npz", delete=False) as file:
        part = Path(file.name)
    try:
        np.savez_compressed(part, allow_pickle=False, **arrays)
        part.chmod(0o644)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def main() -> None:
    """Read the source into the network, quantise, write, and say how large it became."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="SOURCE.h5", help="weights without the top, as Keras saves them")
    parser.add_argument("backbone", metavar="BACKBONE", choices=list(BACKBONES))
    parser.add_argument("target", type=Path, metavar="TARGET.npz")
    arguments = parser.parse_args()

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from mammo_mlflow.models.network import build_base, load_weights
    from mammo_mlflow.models.weights import find_weights

    base = build_base(arguments.backbone, 32, "average", "float32")
    load_weights(base, find_weights(arguments.backbone, str(arguments.source), phantom=False))
    write(compact(base.get_weights()), arguments.target)
    print(f"{arguments.target}: {arguments.target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
