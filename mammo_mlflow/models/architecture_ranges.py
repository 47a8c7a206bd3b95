"""The ranges of the architectures that a study searches, without Keras: coordinator and worker processes read them."""

from __future__ import annotations

LAYERS = 3
"""The most hidden layers of a head."""
HEAD_WIDTHS = (64, 128, 256, 512)
"""The units of a hidden layer on a pretrained encoder."""
SCRATCH_WIDTHS = (128, 256, 512, 1024, 2048)
"""The units of a hidden layer of a network trained from scratch."""
DROPOUTS = tuple(tenths / 10 for tenths in range(6))
"""Dropout rates of a head."""
POOL_DROPOUTS = DROPOUTS[:4]
"""Dropout rates behind a pool of a network trained from scratch."""

BLOCKS = 5
"""The most convolutional blocks, except for patches so large that `LARGEST_MAP` needs more."""
STRIDE = 2
"""The stride of the first convolution, as in the paper; it is not searched, since 1 takes four times as long."""
LARGEST_MAP = 10
"""The largest side of the last block's maps; larger ones, flattened, give the head hundreds of millions of weights."""
CONVOLUTIONS = 3
"""The most convolutions of a block."""
L1 = (1e-7, 1e-3)
L2 = (1e-6, 1e-2)
"""The ranges of the penalties on kernels, both logarithmic."""


def filters(block: int) -> tuple[int, ...]:
    """The numbers of filters to choose from in a block (the first is 1): each block's are twice the one's before."""
    first = 4 << min(block, BLOCKS)
    return tuple(number for number in (first, 2 * first, 4 * first, 8 * first) if number <= 512)


def block_counts(image_size: int, stride: int) -> tuple[int, int]:
    """The least and greatest number of blocks for patches of `image_size` pixels and a first stride.

    The fewest keep the last maps within `LARGEST_MAP`; the most leave every pool at least 2 pixels to halve.
    """
    width = -(-image_size // stride)
    widths = []
    while width >= 2:
        width //= 2
        widths.append(width)
    fewest = next((count for count, width in enumerate(widths, 1) if width <= LARGEST_MAP), 1)
    return fewest, max(fewest, min(len(widths), max(BLOCKS, fewest + 1)))
