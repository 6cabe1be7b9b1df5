"""The numbers of a recorded run: what chosen ops were given, and what they returned."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from torchthin.errors import InputError, one_line
from torchthin.graph.clone import clone, to_double
from torchthin.graph.evaluation_mode import evaluation_mode
from torchthin.graph.inputs import Inputs, call
from torchthin.graph.op_counter import CountingMode
from torchthin.graph.operators import as_outputs, by_name
from torchthin.graph.precision import DOUBLE
from torchthin.max7800x.mapping import ChipMapping


@dataclass(frozen=True)
class Captured:
    """All tensors are copies in float64 (integers stay)."""

    image: Tensor
    """The model's input."""
    arguments: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Index of an op -> its arguments by name."""
    results: dict[int, Tensor] = field(default_factory=dict)
    """Index of an op -> its first result."""


class _Capture(CountingMode):
    def __init__(self, arguments: Iterable[int], results: Iterable[int], found: Captured) -> None:
        super().__init__()
        self._arguments, self._results = set(arguments), set(results)
        self._found = found

    def execute(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        index = self.completed
        if index in self._arguments:
            given = by_name(func, args, kwargs)
            self._found.arguments[index] = {name: _copied(value) for name, value in given.items()}
        result = func(*args, **kwargs)
        if index in self._results:
            first = as_outputs(result)[0]
            if first is not None:
                self._found.results[index] = _copied(first)
        return result


def _copied(value: Any) -> Any:
    return value.detach().cpu().clone() if isinstance(value, Tensor) else value


def capture(model: nn.Module, inputs: Inputs, mapping: ChipMapping) -> Captured:
    """Run a float64 copy of `model`, of which `mapping` was made, and keep the numbers of its layers.

    Raises:
        InputError: the model does not run in float64.
    """
    double = DOUBLE.inputs(inputs)
    found = Captured(_copied(next(double.tensors())))
    origins = mapping.origins
    ops = {origin.op.index for origin in origins if origin.op is not None}
    ops |= {absorbed.op.index for origin in origins for absorbed in origin.absorbed}
    results = {origin.result for origin in origins if origin.result is not None}
    copy = clone(model, to_double)
    try:
        with evaluation_mode(copy), _Capture(ops, results, found):
            call(copy, double)
    except Exception as error:  # of any kind: it is the user's code that raises
        raise InputError(
            f"The model ({type(model).__name__}) does not run in float64, in which what is written is compared with it: "
            f"{one_line(error)}. Write its forward without dtypes of its own."
        ) from error
    return found
