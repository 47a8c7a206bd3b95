"""The fixed synthetic patches that random weights are calibrated on, independent of every data set."""

from __future__ import annotations

import numpy as np

COUNT, SIZE = 16, 150  # patches, and their side in pixels
LEVELS = (19_000, 46_000)  # mean grey values, from the darkest to the brightest patch
SLOPE = 3.2
"""Exponent of the power spectrum, 1/f^3.2: mammographic texture (Burgess et al., Medical Physics 28, 419, 2001)."""


def calibration_patches() -> np.ndarray:
    """Draw the calibration patches, always the same: breast-like texture with film grain, uint16 (16, 150, 150).

    They are not phantom data, whose generator may change. Their numbers are from `RandomState`, whose stream NumPy
    guarantees for all versions (NEP 19).
    """
    random = np.random.RandomState(0)
    rows, columns = np.fft.fftfreq(SIZE)[:, None], np.fft.rfftfreq(SIZE)
    amplitude = (rows**2 + columns**2 + (0.5 / SIZE) ** 2) ** (-SLOPE / 4)
    amplitude[0, 0] = 0
    texture = np.fft.irfft2(np.fft.rfft2(random.standard_normal((COUNT, SIZE, SIZE))) * amplitude, s=(SIZE, SIZE))
    texture /= texture.std(axis=(1, 2), keepdims=True)
    level = np.linspace(*LEVELS, COUNT)[:, None, None]
    contrast = 2_700 * np.exp(0.35 * random.standard_normal((COUNT, 1, 1)))
    grain = random.uniform(450, 800, (COUNT, 1, 1)) * random.standard_normal((COUNT, SIZE, SIZE))
    return np.clip(np.rint(level + contrast * texture + grain), 0, 65_535).astype(np.uint16)
