"""A stopwatch whose times are known beforehand: a layer costs its blocks of channels in, times those out."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from torchthin.graph.inputs import Inputs
from torchthin.graph.operators import CONTRACTIONS, invoke
from torchthin.graph.opgraph import Op, Ref
from torchthin.graph.trace import trace

BLOCK = 16


class Stepped:
    """Counts what it is asked; `distort` makes of the sum of a model's layers (and that of the first model) what it takes."""

    def __init__(
        self, distort: Callable[[float, float], float] = lambda time, full: time, block: int = BLOCK
    ) -> None:
        self.measured: list[str] = []
        self.compared = 0
        self._distort, self._block = distort, block

    def layer(self, op: Op, given: Mapping[str, Any]) -> float:
        shapes = {name: each.shape for name, each in given.items() if isinstance(each, Tensor)}
        invoke(op.target, given)  # it can be run
        self.measured.append(op.name)
        return self._time(op, shapes)

    def models(
        self, models: Sequence[nn.Module], inputs: Inputs, *, briefly: bool = False
    ) -> list[tuple[float, ...]]:
        self.compared += 1
        sums = []
        for model in models:
            graph = trace(model, inputs).graph
            shaped = [
                {
                    name: graph.values[each.value].shape
                    for name, each in op.arguments.items()
                    if isinstance(each, Ref)
                }
                for op in graph.ops
            ]
            sums.append(sum(self._time(op, shapes) for op, shapes in zip(graph.ops, shaped, strict=True)))
        return [(self._distort(time, sums[0]),) for time in sums]

    def _time(self, op: Op, shapes: Mapping[str, Sequence[int]]) -> float:
        operands = CONTRACTIONS.get(op.name)
        if operands is None:
            return 0.0
        first, second = shapes[operands.weight][:2]
        return 1e6 * math.ceil(first / self._block) * math.ceil(second / self._block)
