"""How much a cut costs: one evaluation of the model with some channels masked."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from torchthin.errors import InputError, one_line
from torchthin.graph.clone import clone, duplicate, state_tensors
from torchthin.graph.evaluation_mode import quiet
from torchthin.graph.inputs import Inputs, call
from torchthin.graph.outputs import output_tensors
from torchthin.selection.masks import apply_masks_

Metric = Callable[[nn.Module], float]
"""The model -> a number; higher is better."""


def metric_name(metric: Metric) -> str:
    """Return ``module:function`` or ``file.py:function`` of a metric: the same on every machine, wherever the file lies."""
    module = re.sub(r"^torchthin_factory_(.+)_[0-9a-f]{8}$", r"\1.py", metric.__module__)
    return f"{module}:{getattr(metric, '__qualname__', type(metric).__name__)}"


def measured(metric: Metric, model: nn.Module) -> float:
    """Return the metric of `model`, which is in evaluation mode meanwhile.

    Raises:
        InputError: the metric raises or is not finite.
    """
    training = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            value = float(metric(model))
    except Exception as error:  # whatever the user's code raises
        raise InputError(f"The metric fails on the model: {one_line(error)}. Mend it.") from error
    finally:
        for module, flag in training:
            module.training = flag
    if value != value or value in (float("inf"), float("-inf")):
        raise InputError(f"The metric must be a finite number, higher for better models. Got {value}.")
    return value


class Judge:
    """Masks channels of its own copy of a model, evaluates it, and puts the weights back."""

    def __init__(self, model: nn.Module, batches: Sequence[Inputs], metric: Metric | None) -> None:
        """Take a copy, and evaluate it as it is.

        Raises:
            InputError: the model does not run on the data, or the metric raises or is not finite.
        """
        self._copy = clone(model, duplicate)
        self._batches, self._metric = batches, metric
        self._outputs = [] if metric is not None else [self._run(batch) for batch in batches]
        self.dense = 0.0 if metric is None else measured(metric, self._copy)

    def loss(self, masks: Mapping[str, Tensor]) -> float:
        """Return what is lost with weights masked; the copy is whole again afterwards."""
        tensors = dict(state_tensors(self._copy))
        before = {name: tensors[name].detach().clone() for name in masks}
        apply_masks_(self._copy, masks)
        try:
            return (
                self._distance() if self._metric is None else self.dense - measured(self._metric, self._copy)
            )
        finally:
            with torch.no_grad():
                for name, value in before.items():
                    tensors[name].copy_(value)

    def _run(self, batch: Inputs) -> list[Tensor]:
        with quiet(self._copy):
            try:
                outputs = output_tensors(call(self._copy, batch))
            except Exception as error:  # whatever the user's code raises
                raise InputError(
                    f"The model does not run on the data: {one_line(error)}. Give inputs that its forward takes."
                ) from error
        return [out for out in outputs if out.is_floating_point()]

    def _distance(self) -> float:
        """Return the squared distance to the dense outputs as a share of their squared size, the mean over outputs."""
        count = len(self._outputs[0])
        lost, size = torch.zeros(count, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
        for batch, dense in zip(self._batches, self._outputs, strict=True):
            for number, (now, then) in enumerate(zip(self._run(batch), dense, strict=True)):
                if now.shape != then.shape:
                    raise InputError(
                        "The model's outputs change their shape with its weights (as detections do), so no distance can be "
                        "taken. Give a metric."
                    )
                lost[number] += (now.double() - then.double()).square().sum().cpu()
                size[number] += then.double().square().sum().cpu()
        return float((lost / size.clamp_min(1e-300)).mean())
