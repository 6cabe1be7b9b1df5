"""Where kernels lie in kernel memory: first fit at multiples of 4 words, the same offset in all processors of a layer.

Layers that use all processors come first, then the others in their order; holes are filled. Layers that only use processors with
larger memories go to the end of those first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from torchthin.max7800x.chips import ChipSpec
from torchthin.max7800x.cost.layer import Layer, kernel_words, round_up, written_words

_Span = tuple[int, int]


@dataclass(frozen=True)
class LayerKernels:
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

    def capacity(self, chip: ChipSpec) -> int:
        """Return the words of the smallest kernel memory among its processors."""
        return min(chip.kernel_capacity(processor) for processor in self.processors)


@dataclass(frozen=True)
class KernelMap:
    """Where the kernels of a network lie."""

    offsets: tuple[int, ...]
    """First word of each layer's kernels."""
    deepest: int
    """Words up to the end of the kernels of the deepest processor; kernels at the far end of a larger memory left out."""
    problems: tuple[str, ...]
    """Layers that found no place, a line each."""
    excess: int
    """Words beyond the ends of all kernel memories together."""
    words: int
    """Words of all layers in all their processors, those that layers share once."""


def layer_kernels(layer: Layer, chip: ChipSpec, processors: range, *, runs: bool = True) -> LayerKernels:
    """Return the kernels of `layer` in `processors`; a layer that does not run takes no words."""
    words, written = (kernel_words(layer, chip), written_words(layer, chip)) if runs else (0, 0)
    return LayerKernels(layer.name, words, processors, layer.depthwise, written, layer.shares)


def stored_weight_bytes(layers: Sequence[Layer], kernels: Sequence[LayerKernels]) -> int:
    """Return the bytes of all weights; those that two layers share on the same processors are stored, and count, once."""
    return sum(
        layer.weight_bytes for layer, one in zip(layers, kernels, strict=True) if not _shared(one, kernels)
    )


def _shared(one: LayerKernels, kernels: Sequence[LayerKernels]) -> bool:
    """Whether an earlier layer has stored the kernels already."""
    return one.shares is not None and kernels[one.shares].processors == one.processors


def place_kernels(kernels: Sequence[LayerKernels], chip: ChipSpec) -> KernelMap:
    """Give the kernels of every layer their place. Those that find none lie beyond the end."""
    placed: list[tuple[range, _Span]] = []
    offsets = [0] * len(kernels)
    depths = [0] * chip.processors
    problems = []
    words = 0
    partial_last = sorted(range(len(kernels)), key=lambda one: len(kernels[one].processors) < chip.processors)
    for number in partial_last:
        layer = kernels[number]
        if not layer.words:
            continue
        if layer.shares is not None and _shared(layer, kernels):
            offsets[number] = offsets[layer.shares]
            continue
        spans = [span for processors, span in placed if _overlap(processors, layer.processors)]
        offset = _at_far_end(layer, spans, chip)
        if offset is None:
            offset = _first_fit(layer, spans, chip)
            end = offset + layer.blocked
            for processor in layer.processors:
                depths[processor] = max(depths[processor], end)
            if end > layer.capacity(chip):
                problems.append(
                    f"{layer.name}: kernels of {layer.words:,} words end at word {end:,} of processor "
                    f"{layer.processors[0]}; {chip.name} has {layer.capacity(chip):,}, remove output channels, cross a "
                    f"multiple of {chip.processors} inputs, or use fewer bits"
                )
        offsets[number] = offset
        words += layer.words * len(layer.processors)
        placed.append((layer.processors, (offset, offset + layer.blocked)))
    excess = sum(max(0, depth - chip.kernel_capacity(number)) for number, depth in enumerate(depths))
    return KernelMap(tuple(offsets), max(depths), tuple(problems), excess, words)


def _overlap(one: range, other: range) -> bool:
    """Whether two sets of processors have one in common."""
    if one[0] > other[-1] or other[0] > one[-1]:
        return False
    return one.step == other.step == 1 or not set(one).isdisjoint(other)


def _free(offset: int, words: int, spans: Iterable[_Span]) -> bool:
    return all(offset + words <= low or offset >= high for low, high in spans)


def _first_fit(layer: LayerKernels, spans: Sequence[_Span], chip: ChipSpec) -> int:
    """Return the first place that is free; the kernels of a depthwise layer may not cross a block."""
    ends = list(accumulate(chip.depthwise_blocks)) if layer.depthwise else []
    starts = {0, *(round_up(high, chip.processors_per_memory) for _, high in spans), *ends}
    return min(
        start
        for start in starts
        if _free(start, layer.words, spans)
        and all(start >= end or start + layer.words <= end for end in ends)
    )


def _at_far_end(layer: LayerKernels, spans: Sequence[_Span], chip: ChipSpec) -> int | None:
    """Return the place nearest to the end of the larger memories that ADI's tool finds, or None when it goes to the front.

    Where other kernels block a place, the tool goes on below them only if the layer would also fit above.
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
