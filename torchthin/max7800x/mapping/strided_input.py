"""A convolution with a stride on the network's input, as one without stride on the input folded into more channels.

Folding by s turns s x s pixels into s*s channels. Output o of a convolution with stride s, kernel k and padding p reads the
pixels s*o - p .. s*o - p + k - 1, which lie in the folded pixels o + floor(-p / s) .. o + floor((k - 1 - p) / s): a kernel
without stride that covers these, with zeros for the rest, computes exactly the same.
"""

from __future__ import annotations

from collections.abc import Iterable


def folded_kernel(
    size: int, kernel: int, stride: int, padding: int, allowed: Iterable[int]
) -> tuple[int, int] | None:
    """Return kernel and padding along one axis of the folded input, or None when no allowed kernel does it.

    Args:
        size: pixels along the axis, before folding.
        kernel: of the convolution.
        stride: of the convolution.
        padding: of the convolution, on both sides.
        allowed: kernel sizes of the chip.

    >>> folded_kernel(128, 3, 2, 1, (1, 3)), folded_kernel(128, 4, 4, 0, (1, 3)), folded_kernel(128, 7, 2, 3, (1, 3))
    ((3, 1), (1, 0), None)
    """
    if size % stride:
        return None
    first, last = -padding // stride, (kernel - 1 - padding) // stride
    outputs = (size + 2 * padding - kernel) // stride + 1
    for taps in sorted(allowed):
        for pad in range(min(taps, 3)):
            if -pad <= first and last <= taps - 1 - pad and size // stride + 2 * pad - taps + 1 == outputs:
                return taps, pad
    return None
