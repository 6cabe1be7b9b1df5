"""A recipe applied: to a copy that costs only its own size, or in place, where everything is undone if a step fails."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from torchthin.errors import InputError
from torchthin.graph.clone import clone, modules_of, share, state_tensors
from torchthin.graph.fake import SMALL
from torchthin.graph.kept_integers import set_kept_values_
from torchthin.graph.parametrized import recompute_
from torchthin.thinning.history import remember_
from torchthin.thinning.optimizer import cut_state, follow_, way_back
from torchthin.thinning.recipe import Recipe, check_fits, cut
from torchthin.thinning.shorten import shorten_, shortened

Make = Callable[[str, Tensor, Callable[[], Tensor]], Tensor]
"""(name, full-size tensor, how to cut it) -> the tensor that takes its place in the copy."""


def owned(name: str, tensor: Tensor, cut_it: Callable[[], Tensor]) -> Tensor:
    """Make a tensor of the copy's own."""
    thin = cut_it()
    return thin.clone() if thin.data_ptr() == tensor.data_ptr() else thin


def borrowed(name: str, tensor: Tensor, cut_it: Callable[[], Tensor]) -> Tensor:
    """Share the parameters that lose nothing: for copies that are only run."""
    thin = cut_it()
    return share(name, tensor) if thin.data_ptr() == tensor.data_ptr() else thin


def thin_copy(model: nn.Module, recipe: Recipe, make: Make = owned, *, values: bool = True) -> nn.Module:
    """Return a copy of `model` thinned by `recipe`.

    Args:
        model: full-size model, left as it is.
        recipe: what is removed.
        make: makes each tensor; by default the copy has its own.
        values: False: large tensors only get their shape, for a run without arithmetic.
    """
    if recipe.layers:
        model, recipe = shortened(model, recipe), recipe.of_channels
    check_fits(recipe, dict(state_tensors(model)), dict(modules_of(model)))
    small = _cut_clone(model, recipe, make, values)
    set_kept_values_(small, recipe.attributes)
    _set_parameters_(small, {name: _new_bias(small, name, n, None) for name, n in recipe.added.items()})
    return small


def _cut_clone(model: nn.Module, recipe: Recipe, make: Make, values: bool) -> nn.Module:
    met: dict[int, Tensor] = {}

    def exchange(name: str, tensor: Tensor) -> Tensor:
        if not values and tensor.numel() >= SMALL and tensor.is_contiguous() and name in recipe.keep:
            return make(name, tensor, lambda: tensor.new_empty(recipe.shape_after(name)))
        return make(name, tensor, lambda: cut(tensor.detach(), recipe.keep.get(name, {}), met))

    return clone(model, exchange)


def finish_(model: nn.Module, recipe: Recipe) -> None:
    """Do what is left when all tensors of a model were thinned: compute what was computed from them, note the recipe."""
    for step in _last_steps(model, recipe):
        step.do()


def _last_steps(model: nn.Module, recipe: Recipe) -> list[Step]:
    last = (partial(recompute_, model), partial(_drop_caches_, model), partial(remember_, model, recipe))
    return list(map(Step, last))


@dataclass(frozen=True)
class Step:
    """One change of a model or its optimizer, and the way back."""

    do: Callable[[], object]
    undo: Callable[[], object] = lambda: None


def apply_(
    model: nn.Module,
    recipe: Recipe,
    optimizer: torch.optim.Optimizer | None = None,
    values: Mapping[str, Tensor] | None = None,
    check: Callable[[], object] = lambda: None,
) -> None:
    """Thin `model` in place by `recipe`. Parameters, buffers and modules keep their identity; gradients are cut alike.

    Args:
        model: full-size model.
        recipe: what is removed.
        optimizer: its state is cut alike, and biases that the recipe adds join the group of their layer's weight.
        values: contents after thinning by name, where they differ from the cut ones (a constant was absorbed).
        check: looks at the thinned model; where it raises, the model is as it was.

    Raises:
        InputError: when the recipe or the optimizer's state does not fit; nothing is changed then.
    """
    if recipe.layers and optimizer is not None:
        raise InputError(
            "Layers cannot be taken out of a model with its optimizer. Make the optimizer afterwards."
        )
    with contextlib.ExitStack() as undo:
        if recipe.layers:
            undo.callback(shorten_(model, recipe))
        exchange_([*exchange_steps(model, recipe.of_channels, optimizer, values or {}), Step(check)])
        undo.pop_all()


def exchange_(steps: Iterable[Step]) -> None:
    """Take all steps; where one fails, those that were begun are undone, the last first."""
    with contextlib.ExitStack() as undo:
        for step in steps:
            undo.callback(step.undo)
            step.do()
        undo.pop_all()


def exchange_steps(
    model: nn.Module, recipe: Recipe, optimizer: torch.optim.Optimizer | None, values: Mapping[str, Tensor]
) -> list[Step]:
    """Prepare everything that `apply_` does (see there); nothing is changed yet."""
    tensors, modules = dict(state_tensors(model)), dict(model.named_modules())
    check_fits(recipe, tensors, modules)
    parameters = {name: t for name, t in tensors.items() if isinstance(t, nn.Parameter)}
    cuts = cut_state(optimizer, parameters, recipe) if optimizer is not None else {}
    added = {name: _new_bias(model, name, shape, values.get(name)) for name, shape in recipe.added.items()}
    attributes = {
        path: {
            name: getattr(modules[path], name) for name in own if "." not in name
        }  # others: `_put_back_plain_`
        for path, own in recipe.attributes.items()
    }
    plain = [(module.__dict__, dict(module.__dict__)) for module in modules.values()]
    steps = [Step(lambda: None, partial(_put_back_plain_, plain))]
    for name, tensor in tensors.items():
        if name in recipe.keep or name in values:
            data, grad = _thinned(tensor, recipe.keep.get(name, {}), values.get(name))
            steps.append(
                Step(partial(_fill_, tensor, data, grad), partial(_fill_, tensor, tensor.data, tensor.grad))
            )
    steps += [
        Step(
            partial(set_kept_values_, model, recipe.attributes), partial(set_kept_values_, model, attributes)
        ),
        Step(partial(_set_parameters_, model, added), partial(_set_parameters_, model, dict.fromkeys(added))),
    ]
    if optimizer is not None:
        neighbours = {bias: _neighbour(model, name) for name, bias in added.items()}
        steps.append(Step(partial(follow_, optimizer, cuts, neighbours), way_back(optimizer)))
    return [*steps, *_last_steps(model, recipe)]


def _put_back_plain_(contents: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    """Put module attributes back; what torch keeps in dicts of its own (parameters, modules) has other ways back."""
    for now, before in contents:
        now.clear()
        now.update(before)


def _drop_caches_(model: nn.Module) -> None:
    """Let a model in evaluation mode drop what it cached there, as models do that go to training mode."""
    modes = {module: module.training for module in model.modules()}
    if model.training or all(type(module).train is nn.Module.train for module in modes):
        return
    model.train()
    model.eval()
    for module, mode in modes.items():
        module.training = mode


def _thinned(
    tensor: Tensor, axes: Mapping[int, tuple[int, ...]], value: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Return contents and gradient of a tensor after thinning."""
    data = cut(tensor.detach(), axes)
    if value is not None:
        data = value.detach().to(data)
    data = data.contiguous(memory_format=_memory_format(tensor))
    return data, None if tensor.grad is None else cut(tensor.grad, axes)


def _memory_format(tensor: Tensor) -> torch.memory_format:
    last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last and not tensor.is_contiguous() else torch.contiguous_format


def _fill_(tensor: Tensor, data: Tensor, grad: Tensor | None) -> None:
    tensor.grad = None
    if tensor.requires_grad and tensor.shape != data.shape:
        # A loss of an earlier step that is still alive holds a gradient accumulator of the old shape. Torch makes a new
        # one only when the dtype changes, so it changes for a moment.
        other = torch.float16 if tensor.dtype != torch.float16 else torch.float32
        tensor.data = torch.empty(0, dtype=other, device=tensor.device)
    tensor.data = data
    tensor.grad = grad


def _new_bias(model: nn.Module, name: str, shape: tuple[int, ...], value: Tensor | None) -> nn.Parameter:
    like = _neighbour(model, name)
    zeros = like.detach().new_zeros(shape)
    return nn.Parameter(
        zeros if value is None else zeros.copy_(value.detach()), requires_grad=like.requires_grad
    )


def _neighbour(model: nn.Module, name: str) -> nn.Parameter:
    """Return a parameter of the same module (of a parametrized one, that its weight is computed from)."""
    return next(model.get_submodule(name.rpartition(".")[0]).parameters())


def _set_parameters_(model: nn.Module, parameters: Mapping[str, nn.Parameter | None]) -> None:
    for name, parameter in parameters.items():
        path, _, local = name.rpartition(".")
        setattr(model.get_submodule(path), local, parameter)
