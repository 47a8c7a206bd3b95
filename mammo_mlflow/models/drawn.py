"""What the architectures that a study draws may be made of: without Keras, for the coordinator and the child."""

from __future__ import annotations

LAYERS = 3
"""The most hidden layers of a head."""
HEAD_WIDTHS = (64, 128, 256, 512)
SCRATCH_WIDTHS = (128, 256, 512, 1024, 2048)
DROPOUTS = tuple(tenths / 10 for tenths in range(6))
POOL_DROPOUTS = DROPOUTS[:4]

BLOCKS = 5
"""The most blocks, but for patches so large that their features need more."""
STRIDE = 2
"""Of the first convolution, the paper's, which is not drawn: without one, a network takes four times as long."""
LARGEST_MAP = 10
"""How wide the last block's maps may be: flattened, they would give the head hundreds of millions of weights."""
CONVOLUTIONS = 3
L1 = (1e-7, 1e-3)
L2 = (1e-6, 1e-2)


def filters(block: int) -> tuple[int, ...]:
    """What the filters of a block (the first is 1) may be; twice as many in each, as its maps are half as wide."""
    first = 4 << min(block, BLOCKS)
    return tuple(number for number in (first, 2 * first, 4 * first, 8 * first) if number <= 512)


def block_counts(image_size: int, stride: int) -> tuple[int, int]:
    """The fewest and the most blocks for such patches, the first convolution's stride given.

    Few enough that each pool has something to halve, and enough that the last maps are small (`LARGEST_MAP`).
    """
    width = -(-image_size // stride)
    widths = []
    while width >= 2:
        width //= 2
        widths.append(width)
    fewest = next((count for count, width in enumerate(widths, 1) if width <= LARGEST_MAP), 1)
    return fewest, max(fewest, min(len(widths), max(BLOCKS, fewest + 1)))
