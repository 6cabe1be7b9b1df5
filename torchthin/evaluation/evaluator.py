"""How good a model is: the user's metric, or without one the distance of its outputs to the dense model's."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from torchthin.errors import InputError, one_line
from torchthin.evaluation.distance import DenseOutputs, floating
from torchthin.graph.clone import clone, duplicate, share
from torchthin.graph.evaluation_mode import evaluation_mode
from torchthin.graph.inputs import Inputs, call

DISTANCE = "distance"
"""Name of what is measured without a metric."""
Metric = Callable[[nn.Module], float]
"""The model -> a number; higher is better."""


def metric_name(metric: Metric | None) -> str:
    """Return ``module:function`` or ``file.py:function`` of a metric: the same on every machine, wherever the file lies."""
    if metric is None:
        return DISTANCE
    module = re.sub(r"^torchthin_factory_(.+)_[0-9a-f]{8}$", r"\1.py", metric.__module__)
    return f"{module}:{getattr(metric, '__qualname__', type(metric).__name__)}"


class Evaluator:
    """Evaluates models that came of one dense model, on batches of data or by a metric."""

    def __init__(self, dense: nn.Module, batches: Sequence[Inputs], metric: Metric | None = None) -> None:
        """Evaluate the dense model, which is left as it is.

        Raises:
            InputError: it does not run on the data, or the metric raises or is not finite.
        """
        self._batches, self._metric = batches, metric
        self._outputs = DenseOutputs.of(self._run(clone(dense, share))) if metric is None else None
        self.dense = 0.0 if metric is None else _measured(metric, clone(dense, duplicate))
        """Value of the dense model."""

    def value(self, model: nn.Module) -> float:
        """Return the metric of `model` (higher is better), or its distance to the dense outputs, which may be infinite or NaN.

        A metric may do to the model whatever it likes, apart from its training flags.

        Raises:
            InputError: the metric raises or is not finite, or the outputs cannot be compared.
        """
        if self._metric is not None:
            return _measured(self._metric, model)
        assert self._outputs is not None
        return self._outputs.distance(self._run(model))

    def loss(self, model: nn.Module) -> float:
        """Return the distance, or what `model` loses of the dense model's metric."""
        value = self.value(model)
        return value if self._metric is None else self.dense - value

    def _run(self, model: nn.Module) -> Iterator[list[Tensor]]:
        """Yield the floating outputs for each batch."""
        with evaluation_mode(model):
            for batch in self._batches:
                try:
                    outputs = floating(call(model, batch))
                except Exception as error:  # whatever the user's code raises
                    raise InputError(
                        f"The model does not run on the data: {one_line(error)}. Give inputs that its forward takes, "
                        "of which the first axis counts them."
                    ) from error
                yield outputs


def _measured(metric: Metric, model: nn.Module) -> float:
    """Return the metric of `model`, which is in evaluation mode meanwhile."""
    training = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            value = float(metric(model))
    except Exception as error:  # whatever the user's code raises
        raise InputError(f"The metric fails on the model: {one_line(error)}. Correct it.") from error
    finally:
        for module, flag in training:
            module.training = flag
    if not math.isfinite(value):
        raise InputError(f"The metric must be a finite number, higher for better models. Got {value}.")
    return value
