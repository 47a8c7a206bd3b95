"""Draw the phantom's images: breast texture with a power-law spectrum, masses and clusters of calcifications.

All images are float32, about 1 in height; `phantom` scales them to the grey values of films (0 to 65,535). `size` is
the side of a patch in pixels; other lengths are fractions of it, so that an abnormality can be drawn at any size.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import fft

# Mammographic texture has a power spectrum near 1/f^3 (Burgess, Jacobson and Judy, Medical Physics 28, 419, 2001).
BETA = (2.9, 3.6)
"""The range of the spectrum's exponent."""


def draw_texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw the tissue of two neighbouring patches: float32 (2, size, size), mean about 0, standard deviation about 1.

    A Gaussian random field with spectrum 1/f^beta, stretched along one direction, plus a few ducts and ligaments.
    """
    # The field is periodic: both patches are taken out of a larger one, apart, so that neither continues in the other.
    height, width = fft.next_fast_len(size + size // 4, real=True), fft.next_fast_len(2 * size + size // 2, real=True)
    rows, columns = fft.fftfreq(height)[:, None], fft.rfftfreq(width)[None, :]
    angle, stretch, beta = rng.uniform(0, np.pi), rng.uniform(1.0, 1.4), rng.uniform(*BETA)
    along, across = _rotated(rows, columns, angle)
    squared = ((along * stretch) ** 2 + (across / stretch) ** 2).astype(np.float32)
    amplitude = (squared + ((0.5 / size) ** 2)) ** (-beta / 4)
    amplitude[0, 0] = 0
    spectrum = rng.standard_normal((2, *amplitude.shape), dtype=np.float32)
    field = fft.irfft2((spectrum[0] + 1j * spectrum[1]) * amplitude, s=(height, width))
    texture = np.stack([field[:size, :size], field[:size, -size:]])
    texture /= field.std()
    for patch in texture:
        for _ in range(rng.integers(0, 5)):
            patch += _draw_strand(rng, size, angle + rng.normal(0, 0.5))
    return texture


def draw_grain(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw the film grain of two patches: float32 (2, size, size), standard deviation 1, slightly smoothed."""
    noise = rng.standard_normal((2, size, size), dtype=np.float32)
    blur = rng.uniform(0.1, 0.5)
    noise += blur * (np.roll(noise, 1, axis=1) + np.roll(noise, 1, axis=2))
    return noise / math.sqrt(1 + 2 * blur**2)


def draw_edge(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw the edge of the gland across a patch: float32 (size, size) from 0 (gland) to 1 (fat or skin, dark)."""
    angle, depth, width = rng.uniform(0, 2 * np.pi), rng.uniform(0.25, 0.6), rng.uniform(0.05, 0.12)
    bend = rng.uniform(-0.6, 0.6)
    along, across = _rotated(*_grid(size), angle)
    return _logistic((along + bend * across**2 - depth) / width)


def draw_mass(rng: np.random.Generator, size: int, suspicion: float, radius: float) -> np.ndarray:
    """Draw a mass of about unit height: float32 (size, size), from round and smooth to spiculated.

    `radius` is a fraction of the patch side; `suspicion` is any real number: the higher, the more malignant it looks.
    """
    x, y = _grid(size)
    x, y = x - rng.normal(0, 0.05), y - rng.normal(0, 0.05)
    malignancy = _malignancy(suspicion)
    angle, aspect = rng.uniform(0, np.pi), rng.uniform(0.75, 1.0)
    u, v = _rotated(x, y, angle)
    v /= aspect
    distance, theta = np.hypot(u, v), np.arctan2(v, u)
    outline = np.ones_like(distance)
    for order in range(2, 9):
        lobes = 0.10 / order if order < 4 else 0.13 * malignancy / math.sqrt(order)
        outline += rng.normal(0, lobes) * np.cos(order * theta + rng.uniform(0, 2 * np.pi))
    softness = radius * (0.07 + 0.2 * malignancy * rng.uniform(0.5, 1.5))
    edge = (radius * outline - distance) / softness
    body = _logistic(edge)
    body *= 1 - rng.uniform(0.1, 0.6) * (distance / (1.5 * radius)) ** 2
    spicules = np.zeros_like(body)
    for _ in range(rng.poisson(20 * malignancy**1.5)):
        direction, reach = rng.uniform(0, 2 * np.pi), radius * rng.uniform(1.3, 2.2)
        ahead, aside = _rotated(u, v, direction)
        aside += rng.normal(0, 0.4) * ahead**2
        fade = np.clip(1 - ahead / reach, 0, 1) * (ahead > 0)
        inverse = 1 / rng.uniform(0.012, 0.03)
        spicules += rng.uniform(0.2, 0.8) * fade * np.exp(-((aside * inverse) ** 2))
    return body + _logistic(-edge) * spicules


def draw_calcifications(rng: np.random.Generator, size: int, suspicion: float, radius: float) -> np.ndarray:
    """Draw a cluster of calcifications, each of about unit height: float32 (size, size).

    With low `suspicion` (as in `draw_mass`) they are few and coarse, with high many, fine and varied. `radius` is the
    cluster's, as a fraction of the patch side.
    """
    malignancy = _malignancy(suspicion)
    image = np.zeros((size, size), np.float32)
    count = 2 + rng.poisson(4 + 22 * malignancy)
    centre, stretch, angle = rng.normal(0.5, 0.05, 2), rng.uniform(0.4, 1.0), rng.uniform(0, np.pi)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    places = centre + (rng.normal(0, radius / 1.5, (count, 2)) * [1, stretch]) @ turn.T
    for place in places:
        length = (0.017 - 0.010 * malignancy) * math.exp(rng.normal(0, 0.35)) * size
        slimness = 1 + malignancy * rng.exponential(0.9)
        height = math.exp(rng.normal(0, 0.15 + 0.35 * malignancy))
        _add_speck(image, place * size, max(length, 0.6), slimness, rng.uniform(0, np.pi), height)
    return image


def draw_dust(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw dust on the film, none to a few sharp bright dots of unit height: float32 (size, size)."""
    image = np.zeros((size, size), np.float32)
    for _ in range(rng.poisson(0.8)):
        _add_speck(image, rng.uniform(0, size, 2), rng.uniform(0.5, 0.9), 1.0, 0.0, 1.0)
    return image


def _malignancy(suspicion: float) -> float:
    """Map a suspicion, any real number, to a degree from 0 (benign looks) to 1 (malignant looks)."""
    return 1 / (1 + math.exp(-1.6 * suspicion))


def _draw_strand(rng: np.random.Generator, size: int, angle: float) -> np.ndarray:
    """Draw a duct or ligament, a bent bright line in direction `angle` (radians): float32 (size, size)."""
    along, across = _rotated(*_grid(size), angle)
    off = across - rng.uniform(-0.5, 0.5) - rng.normal(0, 0.4) * along**2
    width, height, middle = rng.uniform(0.008, 0.035), rng.uniform(0.3, 1.3), rng.uniform(-0.5, 0.5)
    profile = np.exp(-((off / width) ** 2) - ((along - middle) / 0.6) ** 2)
    return height * profile


def _add_speck(
    image: np.ndarray, place: np.ndarray, length: float, slimness: float, angle: float, height: float
) -> None:
    """Add one elliptic speck to an image (size, size); `place` (row, column) and `length` (semi-axis) are in pixels."""
    reach = math.ceil(2.5 * length * math.sqrt(slimness)) + 1
    row, column = int(place[0]), int(place[1])
    top, left = max(row - reach, 0), max(column - reach, 0)
    window = image[top : row + reach + 1, left : column + reach + 1]
    if not window.size or row < -reach or column < -reach:
        return
    y = np.arange(top, top + window.shape[0], dtype=np.float32)[:, None] - (place[0])
    x = np.arange(left, left + window.shape[1], dtype=np.float32)[None, :] - (place[1])
    u, v = _rotated(x, y, angle)
    u, v = u / (length * math.sqrt(slimness)), v / max(length / math.sqrt(slimness), 0.5)
    window += height * np.exp(-((u * u + v * v) ** 1.5)).astype(np.float32)


def _rotated(x: np.ndarray, y: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Rotate coordinates: those along a direction, `angle` in radians, and across it."""
    cosine, sine = math.cos(angle), math.sin(angle)
    return cosine * x + sine * y, cosine * y - sine * x


def _logistic(value: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-value)) as float32, without overflow."""
    return (1 / (1 + np.exp(-np.clip(value, -30, 30)))).astype(np.float32)


def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Column and row coordinates, float32 (1, size) and (size, 1), from -0.5 to 0.5 across the patch."""
    axis = (np.arange(size, dtype=np.float32) - ((size - 1) / 2)) / size
    return axis[None, :], axis[:, None]
