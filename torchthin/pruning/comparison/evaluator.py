"""What a candidate is worth: the user's metric, or the distance of its outputs to the dense model's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from torchthin.errors import InputError, one_line
from torchthin.evaluation.distance import output_distance
from torchthin.evaluation.metric import Metric, measured
from torchthin.graph.clone import clone, duplicate
from torchthin.graph.evaluation_mode import quiet
from torchthin.graph.inputs import Inputs, call
from torchthin.graph.outputs import output_tensors


class Judge:
    """Knows the dense model's outputs, or has a metric."""

    def __init__(self, dense: nn.Module, batches: Sequence[Inputs], metric: Metric | None) -> None:
        """Evaluate the dense model.

        Raises:
            InputError: it does not run on the data, or the metric raises or is not finite.
        """
        self._batches, self._metric = batches, metric
        self._wanted = [] if metric is not None else self._outputs(dense)
        self.dense = self.value(dense)

    def value(self, model: nn.Module) -> float:
        """Return the metric of `model`, or without one its distance to the dense outputs; `model` stays as it is.

        Raises:
            InputError: the metric raises, or a figure is not finite.
        """
        if self._metric is not None:
            return measured(self._metric, clone(model, duplicate))
        found = float(output_distance(self._wanted, self._outputs(model)))
        if found != found or found == float("inf"):
            raise InputError(
                "The outputs of the model are not finite. Look for weights or data that overflow."
            )
        return found

    def _outputs(self, model: nn.Module) -> list[Any]:
        """Return every output tensor over all batches together."""
        columns: list[list[Tensor]] = []
        with quiet(model):
            for number, batch in enumerate(self._batches):
                try:
                    outputs = list(output_tensors(call(model, batch)))
                except Exception as error:  # whatever the user's code raises
                    raise InputError(
                        f"The model does not run on the data: {one_line(error)}. Give inputs that its forward takes."
                    ) from error
                columns = columns if number else [[] for _ in outputs]
                for column, tensor in zip(columns, outputs, strict=False):
                    column.append(tensor)
        return [_joined(column) for column in columns]


def _joined(column: list[Tensor]) -> Tensor:
    fits = all(t.dim() and t.shape[1:] == column[0].shape[1:] for t in column)
    return torch.cat(column) if fits else torch.cat([t.reshape(-1) for t in column])
