"""Operators that torch picks by device, dtype or exporter, in the form that the CPU runs: records are of these alone.

`PLAIN_FORMS` is the table: an operator -> a function that calls the plain ones in its place, or gives None where it is not sure.
Process settings keep others away (`torchthin/graph/process_settings.py`): fused attention, and cuDNN's and oneDNN's recurrent
layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

PLAIN_FORMS: dict[Any, Callable[..., Any]] = {}
"""Operator -> the op's arguments -> its results."""

Form = TypeVar("Form", bound=Callable[..., Any])


def replaces(*operators: str) -> Callable[[Form], Form]:
    """Register the plain form of ATen operators, by name and overload; some versions of torch do not have all."""

    def register(form: Form) -> Form:
        for name in operators:
            packet, _, overload = name.partition(".")
            found = getattr(getattr(torch.ops.aten, packet, None), overload or "default", None)
            if found is not None:
                PLAIN_FORMS[found] = form
        return form

    return register


@replaces("miopen_batch_norm", "_native_batch_norm_legit")
def batch_norm(
    data: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    variance: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, ...] | None:
    """A batch norm by the statistics of a buffer; one that changes them says so in its own schema."""
    if training:
        return None
    made: tuple[Tensor, ...] = torch.native_batch_norm(
        data, weight, bias, mean, variance, False, momentum, eps
    )
    return made


@replaces("cudnn_batch_norm")
def _cudnn_batch_norm(data: Tensor, *given: Any) -> tuple[Tensor, ...] | None:
    made = batch_norm(data, *given)
    return None if made is None else (*made, data.new_empty(0, dtype=torch.uint8))


@replaces("_native_batch_norm_legit_no_training")
def _exported_batch_norm(
    data: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    momentum: float,
    eps: float,
) -> tuple[Tensor, ...] | None:
    return batch_norm(data, weight, bias, mean, variance, False, momentum, eps)


@replaces("_batch_norm_no_update")
def _unified_batch_norm(data: Tensor, *given: Any) -> tuple[Tensor, ...] | None:
    return _cudnn_batch_norm(data, *given[:4], False, *given[4:])


@replaces("_thnn_fused_lstm_cell")
def _lstm_cell(
    inputs: Tensor,
    hidden: Tensor,
    cell: Tensor,
    input_bias: Tensor | None = None,
    hidden_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    gates = _biased(hidden, hidden_bias) + _biased(inputs, input_bias)
    taken, kept, new, shown = gates.unsafe_chunk(4, 1)
    cell = kept.sigmoid() * cell + taken.sigmoid() * new.tanh()
    return shown.sigmoid() * cell.tanh(), cell, gates


@replaces("_thnn_fused_gru_cell")
def _gru_cell(
    inputs: Tensor,
    hidden: Tensor,
    state: Tensor,
    input_bias: Tensor | None = None,
    hidden_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    gates = _biased(inputs, input_bias)
    reset, kept, new = gates.unsafe_chunk(3, 1)
    old_reset, old_kept, old_new = _biased(hidden, hidden_bias).unsafe_chunk(3, 1)
    new = (new + (old_reset + reset).sigmoid() * old_new).tanh()
    return (state - new) * (old_kept + kept).sigmoid() + new, gates


def _biased(gates: Tensor, bias: Tensor | None) -> Tensor:
    return gates if bias is None else gates + bias
