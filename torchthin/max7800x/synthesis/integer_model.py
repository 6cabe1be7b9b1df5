"""`integer_model`: a model that computes what the chip does, with the inputs and outputs of the model that it was made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from torchthin.errors import InputError
from torchthin.graph.fake import FAKE_RULES
from torchthin.graph.inputs import Inputs, as_inputs, check_model, on_device_of
from torchthin.graph.op_counter import CountingMode, run
from torchthin.graph.operators import as_outputs
from torchthin.graph.opgraph import CallSite, OpGraph
from torchthin.graph.trace import trace
from torchthin.max7800x.chips import chip_named
from torchthin.max7800x.cost.layer import WeightBits
from torchthin.max7800x.mapping import ChipMapping, map_runnable
from torchthin.max7800x.synthesis.capture import capture
from torchthin.max7800x.synthesis.integers import IntegerLayers
from torchthin.max7800x.synthesis.weights import all_weights


def integer_model(
    model: nn.Module, example_inputs: Any, chip: str = "MAX78000", weight_bits: WeightBits = 8
) -> IntegerModel:
    """Return a model that computes what `chip` computes of `model`: 8-bit data, weights as quantize.py rounds them.

    It takes and returns what `model` does, so it can be scored by whatever scores `model`. What the host computes after the
    network (softmax) is computed by the model's own code.

    Args:
        model: of ai8x layers, in quantisation-aware mode or not, or of plain layers; it is left as it is, and kept.
        example_inputs: one example (N, C, H, W) or (N, C, L).
        chip: MAX78000 or MAX78002.
        weight_bits: 1, 2, 4 or 8, of layers that do not say it themselves, or module path -> bits.

    Raises:
        InputError: something of the model does not run on the chip; the message names the layer and the limit.
    """
    known = chip_named(chip)
    check_model(model, "integer_model")
    inputs = on_device_of(model, as_inputs(example_inputs))
    traced = trace(model, inputs)
    mapping = map_runnable(traced, known, "it has no whole numbers there", weight_bits)
    weights = [
        one and one.as_written() for one in all_weights(model, mapping, capture(model, inputs, mapping))
    ]
    layers = IntegerLayers.of(mapping.layers, weights, tuple(next(inputs.tensors()).shape[1:]))
    return IntegerModel(model, layers, mapping, traced.graph)


class IntegerModel(nn.Module):
    """What `integer_model` returns."""

    def __init__(self, model: nn.Module, layers: IntegerLayers, mapping: ChipMapping, graph: OpGraph) -> None:
        super().__init__()
        self.model = model
        self._layers = layers
        self._call_sites = graph.call_sites[0]
        self._read: dict[int, int] = {
            origin.result: number
            for number, origin in enumerate(mapping.origins)
            if number in mapping.outputs and origin.result is not None
        }
        self._before = _before(graph, self._read)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the model's outputs as the chip and its host compute them.

        Raises:
            InputError: the input has another size than the example.
        """
        inputs = Inputs(args, kwargs or None)
        images = next(inputs.tensors())
        if images.shape[1:] != self._layers.input_shape:
            raise InputError(
                f"The input of an integer model must be (N, {', '.join(map(str, self._layers.input_shape))}), as its example "
                f"was. Got {tuple(images.shape)}."
            )
        stored = self._layers.to(images.device).run(images, tuple(self._read.values()))
        chip = {index: stored[number] for index, number in self._read.items()}
        return run(self.model, inputs, _Host(self._call_sites, chip, self._before))


def _before(graph: OpGraph, results: Iterable[int]) -> frozenset[int]:
    """Return the ops from which the results of these ops are made, and these ops."""
    found, values, asked = set[int](), set[int](), set(results)
    for op in reversed(graph.ops):
        if op.index in asked or any(out is not None and out.value in values for out in op.outputs):
            found.add(op.index)
            values.update(op.reads)
    return frozenset(found)


class _Host(CountingMode):
    """A run of the model in which the chip's layers are not computed, and what it reads of them is the chip's."""

    def __init__(
        self, call_sites: Mapping[CallSite, int], stored: Mapping[int, Tensor], before: frozenset[int]
    ) -> None:
        super().__init__(0, call_sites)
        self._stored, self._before = stored, before

    def execute(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self.recorded:
            return self.compute(func, args, kwargs)
        rule = FAKE_RULES.get(func) if self.completed in self._before else None
        result = None if rule is None else rule(*args, **kwargs)
        result = self.compute(func, args, kwargs) if result is None else result
        if self.completed in self._stored:
            place = as_outputs(result)[0]
            assert place is not None
            place.copy_(self._stored[self.completed].reshape(place.shape))
        return result
