"""What a model hands to its own next call (caches, recurrent states), and that call."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from torchthin.graph.inputs import Inputs
from torchthin.graph.outputs import output_tensors


@dataclass(frozen=True)
class Returned:
    """What a model returned, in two parts."""

    results: Any
    states: Mapping[str, Any] = field(default_factory=dict)
    """Parameter of the model's forward -> what the model takes back there in its next call."""


def returned(model: nn.Module, inputs: Inputs, outputs: Any) -> Returned:
    """Tell results from states in what `model` returned for `inputs`.

    A state goes under the name of an optional parameter of forward that the inputs do not give, and is a container or an
    object (a tensor is a result). What a tuple holds has no names; there a state is an object whose class the annotation of
    such a parameter names. A model that returns nothing else has no states.
    """
    parameters = _left_out(model, inputs)
    fields = _fields(outputs, parameters)
    states = {
        name: item
        for name, item in fields.items()
        if name in parameters and not isinstance(item, Tensor) and output_tensors(item)
    }
    results = [item for name, item in fields.items() if name not in states]
    return Returned(results, states) if states and output_tensors(results) else Returned(outputs)


def next_inputs(inputs: Inputs) -> Iterator[tuple[Inputs, Inputs]]:
    """Yield inputs of a next call, to be given states: one more step where there are steps, then the same inputs again.

    Each with the inputs of one call that takes the steps of both.

    The last step of whole numbers is repeated (of all tensors where none holds whole numbers); zeros and ones are first
    taken for a mask, which is for all steps.
    """
    whole = any(not tensor.is_floating_point() for tensor in inputs.tensors())

    def has_steps(tensor: Tensor) -> bool:
        return tensor.dim() > 1 and not (whole and tensor.is_floating_point())

    def one_step(tensor: Tensor) -> Tensor:
        return tensor[:, -1:] if has_steps(tensor) else tensor

    def one_step_more(tensor: Tensor) -> Tensor:
        is_mask = has_steps(tensor) and not tensor.is_floating_point() and not bool((tensor > 1).any())
        return torch.cat([tensor, tensor[:, -1:]], 1) if is_mask else one_step(tensor)

    ways: tuple[Callable[[Tensor], Tensor], ...] = (one_step_more, one_step, lambda tensor: tensor)
    for change in ways:

        def joined(tensor: Tensor, change: Callable[[Tensor], Tensor] = change) -> Tensor:
            more = change(tensor)
            longer = more.dim() > 1 and more.shape[1] > tensor.shape[1]
            return more if longer or not has_steps(tensor) else torch.cat([tensor, more], 1)

        yield inputs.map(change), inputs.map(joined)


def with_states(inputs: Inputs, states: Mapping[str, Any]) -> Inputs:
    """Return the inputs with a copy of states, which a call may change."""
    return Inputs(inputs.args, {**(inputs.kwargs or {}), **copy.deepcopy(dict(states))})


def _left_out(model: nn.Module, inputs: Inputs) -> Mapping[str, inspect.Parameter]:
    """Return the optional parameters of a model's forward that the inputs do not give."""
    try:
        signature = inspect.signature(model.forward)
        given = signature.bind_partial(*inputs.args, **(inputs.kwargs or {})).arguments
    except (TypeError, ValueError):  # some callables do not tell
        return {}
    return {
        name: parameter
        for name, parameter in signature.parameters.items()
        if parameter.default is not parameter.empty and given.get(name) is None
    }


def _fields(outputs: Any, parameters: Mapping[str, inspect.Parameter]) -> dict[Any, Any]:
    """Return what a model returned by name; by number, or by the parameter that takes its class, where it has no names."""
    if isinstance(outputs, Mapping):
        return dict(outputs)
    if hasattr(outputs, "_asdict"):
        return dict(outputs._asdict())
    if isinstance(outputs, (list, tuple)):
        return {_taken_by(item, parameters) or number: item for number, item in enumerate(outputs)}
    return {} if isinstance(outputs, Tensor) else dict(getattr(outputs, "__dict__", {}))


def _taken_by(item: Any, parameters: Mapping[str, inspect.Parameter]) -> str | None:
    """Return the parameter whose annotation names the class of an object, None for containers of Python's own."""
    classes = {kind.__name__ for kind in type(item).__mro__ if kind.__module__ != "builtins"}
    if isinstance(item, (Tensor, Mapping, list, tuple)):
        return None
    for name, parameter in parameters.items():
        words = str(parameter.annotation).replace("|", " ").replace("[", " ").replace("]", " ").split()
        if classes & {word.rpartition(".")[2].strip("'>,") for word in words}:
            return name
    return None
