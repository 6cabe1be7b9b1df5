"""Where kernels lie in kernel memory: first fit at multiples of 4 words, the same offset in all processors of a layer.

Layers that use all processors come first, then the others in their order; holes are filled. Layers that only use processors with
larger memories go to the end of those first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from torchthin.max7800x.cost.chip import Chip
from torchthin.max7800x.cost.words import up

Span = tuple[int, int]


@dataclass(frozen=True)
class Kernels:
    """The kernels of a layer: words in each of the processors."""

    name: str
    words: int
    processors: range
    depthwise: bool = False
    written: int = 0
    """Words that loading overwrites, where they are more than `words`."""
    shares: int | None = None
    """Number of an earlier layer with the same weights."""

    @property
    def blocked(self) -> int:
        """Words that no other layer can have."""
        return max(self.words, self.written)


@dataclass(frozen=True)
class KernelMap:
    """Where the kernels of a network lie."""

    offsets: tuple[int, ...]
    """First word of each layer's kernels."""
    depths: tuple[int, ...]
    """Words up to the end of the deepest kernel, by processor; kernels at the far end of a larger memory left out."""
    problems: tuple[str, ...]
    """Layers that found no place, in words."""
    excess: int
    """Words beyond the ends of all kernel memories together."""
    words: int
    """Words of all layers in all their processors, those that layers share once."""

    @property
    def deepest(self) -> int:
        """The deepest processor."""
        return max(self.depths)


def place_kernels(layers: Sequence[Kernels], chip: Chip) -> KernelMap:
    """Give the kernels of every layer their place. What finds none stands behind the end."""
    placed: list[tuple[range, Span]] = []
    offsets = [0] * len(layers)
    depths = [0] * chip.processors
    problems = []
    words = 0
    whole = [number for number, layer in enumerate(layers) if len(layer.processors) == chip.processors]
    rest = [number for number in range(len(layers)) if len(layers[number].processors) < chip.processors]
    for number in whole + rest:
        layer = layers[number]
        if not layer.words:
            continue
        if layer.shares is not None and layers[layer.shares].processors == layer.processors:
            offsets[number] = offsets[layer.shares]
            continue
        spans = [span for processors, span in placed if _meet(processors, layer.processors)]
        offset = _at_far_end(layer, spans, chip)
        if offset is None:
            offset = _first_fit(layer, spans, chip)
            end = offset + layer.blocked
            for processor in layer.processors:
                depths[processor] = max(depths[processor], end)
            if end > min(chip.kernel_capacity(processor) for processor in layer.processors):
                problems.append(_refusal(layer, end, chip))
        offsets[number] = offset
        words += layer.words * len(layer.processors)
        placed.append((layer.processors, (offset, offset + layer.blocked)))
    excess = sum(max(0, depth - chip.kernel_capacity(number)) for number, depth in enumerate(depths))
    return KernelMap(tuple(offsets), tuple(depths), tuple(problems), excess, words)


def _meet(one: range, other: range) -> bool:
    """Whether two sets of processors have one in common."""
    if one[0] > other[-1] or other[0] > one[-1]:
        return False
    return one.step == other.step == 1 or not set(one).isdisjoint(other)


def _free(offset: int, words: int, spans: Iterable[Span]) -> bool:
    return all(offset + words <= low or offset >= high for low, high in spans)


def _first_fit(layer: Kernels, spans: Sequence[Span], chip: Chip) -> int:
    step = chip.processors_per_memory
    starts = {0, *(up(high, step) for _, high in spans)}
    if layer.depthwise:
        starts |= set(accumulate(chip.depthwise_blocks))
    return min(
        start
        for start in starts
        if _free(start, layer.words, spans)
        and (not layer.depthwise or _inside_block(start, layer.words, chip))
    )


def _inside_block(start: int, words: int, chip: Chip) -> bool:
    """Whether the kernels cross no block that depthwise layers must stay in; behind the end there are none."""
    ends = list(accumulate(chip.depthwise_blocks))
    return all(start >= end or start + words <= end for end in ends)


def _at_far_end(layer: Kernels, spans: Sequence[Span], chip: Chip) -> int | None:
    """Return the place nearest to the end of the larger memories that ADI's tool finds, or None when it goes to the front.

    Having met something in the way, the tool goes on below it only where the layer would also fit above.
    """
    if not chip.large_processors.issuperset(layer.processors) or not layer.processors:
        return None
    if layer.depthwise and chip.depthwise_blocks and layer.words > min(chip.depthwise_blocks):
        return None
    step = chip.processors_per_memory
    last = chip.large_kernel_words - 1
    while any(low <= last < high for low, high in spans):
        last -= step
    while last >= layer.words - 1:
        first = last - layer.words + 1
        met = max((min(high - 1, last) for low, high in spans if low <= last and high > first), default=None)
        if met is None:
            start = first // step * step
            return start if _free(start, layer.words, spans) else None
        last = (met - 1) // step * step
        if last + layer.words > chip.large_kernel_words:
            return None
    return None


def _refusal(layer: Kernels, end: int, chip: Chip) -> str:
    capacity = min(chip.kernel_capacity(processor) for processor in layer.processors)
    return (
        f"{layer.name}: kernels of {layer.words:,} words end at word {end:,} of processor {layer.processors[0]}; "
        f"{chip.name} has {capacity:,}, remove output channels, cross a multiple of {chip.processors} inputs, or use fewer bits"
    )
