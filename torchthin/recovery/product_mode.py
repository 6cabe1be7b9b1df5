"""A run that stops at every product of the model's layers, and keeps what its result is added to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from torchthin.graph.op_counter import CountingMode
from torchthin.graph.operators import LAYER_PRODUCTS, operator_name
from torchthin.importance.product_rows import Product
from torchthin.recovery.residuals import Residual

SAME = 1e-5
"""A weight that differs from a multiple of its parameter by more than this share of its size is something else."""


class ProductMode(CountingMode, ABC):
    """Stops at every product of a run, and keeps what its result is added to."""

    def __init__(self, residual: Mapping[int, Residual]) -> None:
        """residual: see `torchthin.recovery.residuals.residuals`."""
        super().__init__()
        self._seen = 0
        self._residual = residual
        self._uses = Counter(each.source for each in residual.values())
        self._held: dict[int, Tensor] = {}

    def execute(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one op, a product by `on_product`."""
        if operator_name(func) in LAYER_PRODUCTS:
            self._seen += 1
            result: Any = self.on_product(self._seen - 1, Product.of(func, args, kwargs))
        else:
            result = func(*args, **kwargs)
        if self.completed in self._uses:
            self._held[self.completed] = result if isinstance(result, Tensor) else result[0]
        return result

    def residual_rows(self, number: int, product: Product, places: Tensor) -> Tensor | None:
        """Return what is added to the result of a product at the places, (rows, channels); None where nothing is."""
        residual = self._residual.get(number)
        if residual is None:
            return None
        source = residual.source
        held = self._held.get(source)
        self._uses[source] -= 1
        if not self._uses[source]:
            self._held.pop(source, None)
        if held is None:
            return None
        if product.options is None:
            held = held.reshape(-1, held.shape[-1])
        return product.output_rows(held, places)

    @abstractmethod
    def on_product(self, number: int, product: Product) -> Tensor:
        """Return the result of a product, the `number`-th of the run."""


def factor_of(parameter: Tensor, used: Tensor) -> float | None:
    """Return c where ``used = c * parameter`` (or its transpose), None where no number does that."""
    if parameter.shape != used.shape:
        if parameter.dim() != 2 or parameter.mT.shape != used.shape:
            return None
        parameter = parameter.mT
    stored, used = parameter.detach().double(), used.double()
    power = float(stored.square().sum())
    if power == 0.0:
        return 1.0 if not bool(used.any()) else None
    factor = float((stored * used).sum()) / power
    size = float(used.abs().amax())
    return factor if factor and float((used - factor * stored).abs().amax()) <= SAME * size else None
