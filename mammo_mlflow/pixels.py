"""Check the pixel values of patches: refuse what is not raw 16-bit, and find patches of another scale."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from mammo_mlflow.errors import expected

LARGEST = 65535
RAW = f"raw 16-bit values, whole numbers from 0 to {LARGEST}"
EIGHT_BIT = 255
MARGIN = 2
"""By what factor the brightest pixel of a patch may lie outside those of the training patches."""
FEW = 5


def whole_numbers(where: str, values: object, highest: int = LARGEST, wanted: str = RAW) -> np.ndarray:
    """Check an array, or nested lists as JSON has them, and return it as uint16 of the same shape.

    Raises `UserError` where lists are ragged or a value is no whole number from 0 to `highest`, the first is named:
    12836.0 is one; 12836.5, "12836", true and null are none.
    """
    array, fault = uint16_or_fault(values, highest)
    if array is None:
        raise expected(where, wanted, fault)
    return array


def uint16_or_fault(values: object, highest: int = LARGEST) -> tuple[np.ndarray | None, str]:
    """Convert as `whole_numbers`: the array and "", or None and what was found that is no such number."""
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError, RecursionError):  # ragged, which NumPy says in other words at other depths
        array = None
    if array is None or array.dtype.kind not in "iuf":
        wrong = [one for one in _each(values) if not _is_whole(one, highest)][:1]
        return None, _spelled(wrong[0]) if wrong else "lists of different lengths"
    good = (array >= 0) & (array <= highest)
    if array.dtype.kind == "f":
        good &= array == np.floor(array)
    if not good.all():
        return None, _spelled(array.ravel()[np.argmin(good)].item())
    return array.astype(np.uint16), ""


def has_booleans(values: object) -> bool:
    """Whether nested lists hold a true or false, which NumPy would convert to 1 or 0."""
    return any(isinstance(one, bool) for one in _each(values))


def _each(values: object) -> Iterator[object]:
    """Every value of nested lists or arrays, in order."""
    left = [values]
    while left:
        one = left.pop()
        if isinstance(one, np.ndarray):
            one = one.tolist()
        if isinstance(one, list):
            left.extend(reversed(one))
        else:
            yield one


def _is_whole(value: object, highest: int) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 <= value <= highest and value == int(value)


def _spelled(value: object) -> str:
    """A value as JSON has it, cut short."""
    if isinstance(value, dict):
        return "an object"
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


@dataclass(frozen=True, kw_only=True)
class PixelRange:
    """The range of training patches' pixel values: least and greatest of all, and quantiles of brightness.

    `lowest`, `percent_1`, `median` and `highest` are of each patch's brightest pixel: the least, two quantiles and the
    greatest. All are raw 16-bit values.
    """

    minimum: int
    maximum: int
    lowest: int
    percent_1: int
    median: int
    highest: int

    def __str__(self) -> str:
        """In words, from where to where the brightest pixels of training patches lie."""
        return f"training patches reach {self.lowest} to {self.highest}"


def range_of(patches: np.ndarray) -> PixelRange:
    """The pixel range of patches (n, …) uint16, which may be mapped from a file."""
    largest = _over_pixels(np.max, patches)
    middle = np.quantile(largest, [0, 0.01, 0.5, 1], method="nearest").tolist()
    found = dict(zip(("lowest", "percent_1", "median", "highest"), middle, strict=True))
    return PixelRange(minimum=int(patches.min()), maximum=int(patches.max()), **found)


def describe_ranges(patches: np.ndarray, sides: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Describe the pixel ranges of a model's image inputs for its metadata: numbers by name, by input.

    `patches` (2n, size, size) uint16 is a data file: an input has every second row, from row `sides[input]` on.
    """
    return {name: asdict(range_of(patches[first::2])) for name, first in sides.items()}


def read_ranges(stored: Mapping[str, object] | None) -> dict[str, PixelRange]:
    """Read the pixel ranges by input that `describe_ranges` gave; {} where none were stored. Raises `UserError`."""
    found = {}
    for name, values in ({} if stored is None else stored).items():
        if not isinstance(values, dict) or not all(_is_whole(value, LARGEST) for value in values.values()):
            where = f"model: MLmodel: training values of {name}"
            raise expected(where, f"whole numbers from 0 to {LARGEST}", str(values)[:80])
        found[str(name)] = PixelRange(**values)
    return found


def odd_values(patches: np.ndarray, known: PixelRange | None) -> list[str]:
    """Find patches, uint16 (n, …), of another pixel scale: for each the reason in words, "" where there is none.

    `known` is the range of the training patches. Without it only constant patches and those of 8 bits are found.
    """
    darkest, brightest = _over_pixels(np.min, patches), _over_pixels(np.max, patches)
    return [_odd(int(low), int(high), known) for low, high in zip(darkest, brightest, strict=True)]


def _odd(darkest: int, brightest: int, known: PixelRange | None) -> str:
    if darkest == brightest:
        return "all values are the same" if darkest else "all values are 0"
    if known is None:
        return f"no value above {EIGHT_BIT}, as of 8 bits" if brightest <= EIGHT_BIT else ""
    if brightest <= EIGHT_BIT < known.percent_1:
        return f"no value above {EIGHT_BIT}, as of 8 bits ({known})"
    if brightest < known.lowest / MARGIN:
        return f"no value above {known.lowest // MARGIN}, as of another scale ({known})"
    if brightest > known.highest * MARGIN:
        return f"values above {known.highest * MARGIN}, as of another scale ({known})"
    if brightest < known.minimum or darkest > known.maximum:
        return f"no value in the range of the training patches, {known.minimum} to {known.maximum}"
    return ""


def summarise(odd: Mapping[str, Sequence[str]], rows: Sequence[int]) -> list[str]:
    """Summarise the reasons of `odd_values`, a line for each input and reason: number of patches and first row."""
    lines = []
    for name, reasons in odd.items():
        for reason in dict.fromkeys(filter(None, reasons)):
            where = [row for row, one in zip(rows, reasons, strict=True) if one == reason]
            some = ", ".join(map(str, where[:FEW])) + (", ..." if len(where) > FEW else "")
            lines.append(f"{name}: {reason}: {len(where)} of {len(reasons)} (row{'s'[: len(where) > 1]} {some})")
    return lines


def _over_pixels(what: Callable[..., np.ndarray], patches: np.ndarray) -> np.ndarray:
    return what(patches, axis=tuple(range(1, patches.ndim)))
