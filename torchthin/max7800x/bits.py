"""`choose_weight_bits`: fewer bits for weights of the layers whose outputs bear it best, for the kernel words that are saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from torchthin.config import parse_limit
from torchthin.errors import ConfigError, TargetMissedError
from torchthin.evaluation.distance import DenseOutputs
from torchthin.graph.inputs import as_inputs, check_model, on_device_of
from torchthin.graph.trace import trace
from torchthin.io.calibration import Calibration, calibration
from torchthin.max7800x.ai8x.float_form import is_quantised
from torchthin.max7800x.chips import ChipSpec, chip_named
from torchthin.max7800x.cost.layer import WEIGHT_BITS, Layer
from torchthin.max7800x.cost.network import network_cost
from torchthin.max7800x.mapping import ChipMapping, map_runnable
from torchthin.max7800x.synthesis.capture import capture
from torchthin.max7800x.synthesis.integers import IntegerLayers
from torchthin.max7800x.synthesis.weights import LayerWeights, all_weights
from torchthin.selection.allocator import Allocator, Levels

_LEVELS = tuple(sorted(WEIGHT_BITS, reverse=True))
"""Bits, most first."""
SAMPLES = 64
"""Inputs on which outputs are compared."""


@dataclass(frozen=True)
class ChosenBits:
    """Bits of weights, layer by layer."""

    bits: Mapping[str, int]
    """Module path -> bits, of all layers that could be chosen."""
    kernel_words: tuple[int, int]
    """Of the deepest processor, with 8 bits everywhere and with these."""
    distance: float
    """Of the outputs from those with 8 bits everywhere; 0: equal, 1: no better than their mean."""

    def __str__(self) -> str:
        fewer = ", ".join(f"{name} {bits}" for name, bits in self.bits.items() if bits < _LEVELS[0])
        before, after = self.kernel_words
        return (
            f"Bits of weights: {f'{fewer}, the others 8' if fewer else '8 everywhere'}; deepest processor {before:,} -> "
            f"{after:,} words, distance of the outputs from 8 bits {self.distance:.3g}."
        )


def choose_weight_bits(
    model: nn.Module, example_inputs: Any, data: Any, chip: str = "MAX78000", *, kernel_words: str | int
) -> ChosenBits:
    """Return bits with which the deepest processor holds at most so many kernel words.

    Every layer is tried with 4, 2 and 1 bits alone, in whole numbers; what outputs lose is taken to add up. Layers of a
    quantisation-aware network say their bits themselves, so such a network is refused.

    Args:
        model: of ai8x layers or plain ones, not in quantisation-aware mode; it is left as it is.
        example_inputs: one example (N, C, H, W) or (N, C, L).
        data: inputs without labels, as `recover` takes them; at most 64 are used.
        chip: MAX78000 or MAX78002.
        kernel_words: most words: a share of what 8 bits take ("0.6x"), or a number.

    Raises:
        ConfigError: `kernel_words` is no limit, or the network is in quantisation-aware mode.
        InputError: the model does not run on the chip, or not on the data.
        TargetMissedError: no bits reach the limit; the message names the layers that hold most.
    """
    limit = parse_limit(str(kernel_words))
    if limit is None:
        raise ConfigError(
            f"The kernel_words must be a share such as 0.6x, up to 1x, or a whole number. Got {kernel_words!r}."
        )
    if is_quantised(model):
        raise ConfigError(
            "Bits of weights are chosen for networks in floating point. This one is in quantisation-aware mode; its layers have "
            "their own."
        )
    known = chip_named(chip)
    check_model(model, "choose_weight_bits")
    inputs = on_device_of(model, as_inputs(example_inputs))
    samples = calibration(data, like=inputs, max_samples=SAMPLES, model=model)
    mapping = map_runnable(trace(model, inputs), known, "no bits can be chosen for it")
    weights = [
        one and one.as_written() for one in all_weights(model, mapping, capture(model, inputs, mapping))
    ]
    return _Search.of(mapping, weights, samples, known).choose(limit.of)


@dataclass(frozen=True)
class BitsUnit:
    """One layer; a level is the number of its bits among 8, 4, 2, 1."""

    losses: tuple[float, ...]
    """Distance of the outputs at each level, never falling."""

    def loss(self, level: int) -> float:
        """Return what the outputs lose."""
        return self.losses[level]

    def narrower(self, level: int) -> Sequence[int]:
        """Return all levels of fewer bits."""
        return range(level + 1, len(self.losses))

    def wider(self, level: int) -> Sequence[int]:
        """Return all levels of more bits."""
        return range(level)


@dataclass(frozen=True)
class _Search:
    """One search for bits."""

    layers: tuple[Layer, ...]
    weights: Sequence[LayerWeights | None]
    chip: ChipSpec
    images: Tensor
    outputs: tuple[int, ...]
    reference: DenseOutputs
    chosen: tuple[tuple[int, ...], ...]
    """Numbers of the layers of each unit: a module that is called again has the same weights."""
    names: tuple[str, ...]

    @classmethod
    def of(
        cls,
        mapping: ChipMapping,
        weights: Sequence[LayerWeights | None],
        samples: Calibration,
        chip: ChipSpec,
    ) -> _Search:
        units: dict[str, list[int]] = {}
        for number, origin in enumerate(mapping.origins):
            if origin.op is not None and origin.op.source.module:
                units.setdefault(origin.op.source.module, []).append(number)
        images = next(samples.joined().tensors())
        made = IntegerLayers.of(mapping.layers, weights, tuple(images.shape[1:])).run(images, mapping.outputs)
        reference = DenseOutputs.of([list(made.values())])
        chosen = tuple(map(tuple, units.values()))
        return cls(mapping.layers, weights, chip, images, mapping.outputs, reference, chosen, tuple(units))

    def choose(self, limit: Any) -> ChosenBits:
        """Return bits within ``limit(words before)``."""
        before = network_cost(self.layers, self.chip).deepest_words
        most = limit(before)
        units = [BitsUnit(self._losses(number)) for number in range(len(self.chosen))]
        allocator = Allocator(units, lambda levels: (self._words(levels) - most) / max(before, 1))
        levels = allocator.descend()
        if allocator.excess(levels) > 0:
            raise self._missed(levels, most)
        levels = allocator.exchange(allocator.give_back(levels))
        bits = {name: _LEVELS[level] for name, level in zip(self.names, levels, strict=True)}
        return ChosenBits(bits, (before, self._words(levels)), self._distance(levels))

    def _with(self, levels: Levels) -> list[Layer]:
        layers = list(self.layers)
        for numbers, level in zip(self.chosen, levels, strict=True):
            for number in numbers:
                layers[number] = replace(layers[number], weight_bits=_LEVELS[level])
        return layers

    def _words(self, levels: Levels) -> int:
        return network_cost(self._with(levels), self.chip).deepest_words

    def _distance(self, levels: Levels) -> float:
        layers = IntegerLayers.of(self._with(levels), self.weights, tuple(self.images.shape[1:]))
        return self.reference.distance([list(layers.run(self.images, self.outputs).values())])

    def _losses(self, unit: int) -> tuple[float, ...]:
        found = [0.0]
        for level in range(1, len(_LEVELS)):
            levels = tuple(level if number == unit else 0 for number in range(len(self.chosen)))
            found.append(max(self._distance(levels), found[-1]))
        return tuple(found)

    def _missed(self, levels: Levels, most: int) -> TargetMissedError:
        cost = network_cost(self._with(levels), self.chip)
        held = sorted(cost.layers, key=lambda layer: -layer.kernel_words)[:3]
        named = ", ".join(f"{layer.name} {layer.kernel_words:,}" for layer in held)
        return TargetMissedError(
            f"No bits of weights bring the deepest processor of {cost.chip} to {most:,} words; the least found is "
            f"{cost.deepest_words:,}. Most are left in {named}. Ask for less, or remove channels."
        )
