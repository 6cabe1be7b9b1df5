"""What a caller gives, checked: a model, and example inputs in one form."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_flatten, tree_map

from torchthin.errors import ConfigError, InputError, one_line


def check_model(model: Any, function: str) -> None:
    """Refuse what cannot be followed or changed, in the name of the public `function`.

    Raises:
        ConfigError: no module, or one of TorchScript, whose code and sizes are fixed.
        InputError: parameters or buffers of a lazy module have no shape yet.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(f"The model of {function} must be a torch.nn.Module. Got {type(model).__name__}.")
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise ConfigError(
                f"The model of {function} must be plain PyTorch. Got TorchScript ({path or type(module).__name__}); "
                "give the module that it was made from."
            )
        for local, tensor in (*module._parameters.items(), *module._buffers.items()):
            if is_lazy(tensor):
                name = f"{path}.{local}" if path else local
                raise InputError(
                    f"The weight {name} of {type(module).__name__} has no shape yet. "
                    "Run the model once on an example input first."
                )


@dataclass(frozen=True)
class Inputs:
    """Positional and keyword arguments of one forward call."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] | None = None

    def tensors(self) -> Iterator[Tensor]:
        """Yield every tensor among the arguments, at any depth."""
        for leaf in tree_flatten((list(self.args), dict(self.kwargs or {})))[0]:
            if isinstance(leaf, Tensor):
                yield leaf

    def map(self, change: Callable[[Tensor], Tensor]) -> Inputs:
        """Return the same arguments with every tensor replaced."""
        args, kwargs = tree_map(
            lambda leaf: change(leaf) if isinstance(leaf, Tensor) else leaf,
            (list(self.args), dict(self.kwargs or {})),
        )
        return Inputs(tuple(args), kwargs)


def as_inputs(example: Any) -> Inputs:
    """Return `example` as `Inputs`.

    A tensor is the only positional argument, a tuple (or list) holds the positional arguments, a mapping the keyword
    arguments; `Inputs` passes through.

    Raises:
        InputError: when there is no tensor among the arguments, or only empty ones.
    """
    if isinstance(example, Inputs):
        inputs = example
    elif isinstance(example, Mapping):
        inputs = Inputs((), dict(example))
    elif isinstance(example, (tuple, list)):
        inputs = Inputs(tuple(example))
    else:
        inputs = Inputs((example,))
    if next(inputs.tensors(), None) is None:
        raise InputError(
            "The example_inputs must be a tensor, a tuple of arguments or a dict of keyword arguments with at least "
            f"one tensor. Got {type(example).__name__}."
        )
    if not any(tensor.numel() for tensor in inputs.tensors()):
        raise InputError(
            "The example_inputs must hold values. All tensors given are empty; give at least one example."
        )
    return inputs


def sample_count(inputs: Inputs) -> int:
    """Return how many inputs a batch holds: the first axis of its first tensor."""
    first = next(inputs.tensors())
    return int(first.shape[0]) if first.dim() else 1


def from_shapes(shapes: Sequence[tuple[tuple[int, ...], torch.dtype]], seed: int = 0) -> Inputs:
    """Return random inputs: normal numbers for floating point dtypes, zeros and ones for integers and booleans."""
    generator = torch.Generator().manual_seed(seed)

    def make(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        if dtype.is_floating_point:
            return torch.randn(shape, generator=generator).to(dtype)
        return torch.randint(0, 2, shape, generator=generator).to(dtype)

    return Inputs(tuple(make(shape, dtype) for shape, dtype in shapes))


def refreshed(inputs: Inputs, seed: int, *, integers: bool = False) -> Inputs:
    """Return inputs of the same shapes with fresh random numbers.

    `integers`: whole numbers, which may be indices, are drawn anew from those that are there; else they are unchanged.
    """
    generator = torch.Generator().manual_seed(seed)

    def change(tensor: Tensor) -> Tensor:
        if tensor.layout != torch.strided:
            return tensor
        if not tensor.is_floating_point():
            if not integers or not tensor.numel() or tensor.dtype == torch.bool:
                return tensor
            drawn = torch.randint(tensor.numel(), tensor.shape, generator=generator)
            return tensor.flatten()[drawn.to(tensor.device)]
        made = torch.randn(tensor.shape, generator=generator).to(tensor)
        if torch.equal(made, tensor):  # the caller drew them from the same seed
            made = torch.randn(tensor.shape, generator=generator).to(tensor)
        return made

    return inputs.map(change)


_LONG = 32
"""Axes of at least this size are halved, shorter ones doubled."""


def resized(inputs: Inputs, *, batch: bool = False) -> Iterator[Inputs]:
    """Yield inputs of other sizes, made of the same numbers: pictures (or the last axes of sequences), then the second axis.

    batch: then the first one, too.
    """

    def change(tensor: Tensor, axes: Sequence[int]) -> Tensor:
        for axis in axes:
            if axis < tensor.dim() and tensor.shape[axis] > 0 and tensor.layout == torch.strided:
                size = tensor.shape[axis]
                longer = size < _LONG
                tensor = torch.cat([tensor, tensor], axis) if longer else tensor.narrow(axis, 0, size // 2)
        return tensor

    for axes in ((2, 3, 4), (1,), *([(0,)] if batch else [])):
        if any(tensor.dim() > axes[0] for tensor in inputs.tensors()):
            yield inputs.map(partial(change, axes=axes))


def call(model: nn.Module, inputs: Inputs) -> Any:
    """Call the model on a copy of `inputs`: its code may write into them, and the next call needs them as they are."""
    return call_on_originals(model, inputs.map(torch.clone))


def call_on_originals(model: nn.Module, inputs: Inputs) -> Any:
    """Call the model on the very tensors of `inputs`, which its code may write into."""
    return model(*inputs.args, **dict(inputs.kwargs or {}))


def does_not_run(model: nn.Module, inputs: Inputs, what: str, error: BaseException) -> InputError:
    """Return the error of a model that raised `error` on `inputs`, which the message calls `what`, with what to do."""
    cure = "Give inputs of the shapes and dtypes that its forward takes."
    takes = _parameters(model)
    try:
        takes.bind(*inputs.args, **dict(inputs.kwargs or {}))
    except TypeError:
        cure = (
            f"Its forward takes ({', '.join(takes.parameters)}): a tuple or list holds them by position, a dict by name. "
            "One argument that is a list or a dict itself is wrapped, as ([a, b],) or ({'image': a},)."
        )
    return InputError(f"The model ({type(model).__name__}) does not run on {what}: {one_line(error)}. {cure}")


def _parameters(model: nn.Module) -> inspect.Signature:
    try:
        return inspect.signature(model.forward)
    except (TypeError, ValueError):  # some callables do not tell: any arguments may be right
        return inspect.signature(lambda *args, **kwargs: None)


def on_device_of(model: nn.Module, inputs: Inputs) -> Inputs:
    """Return the inputs on the device of the model's first parameter, floating point ones in the dtype of the first such one.

    Raises:
        InputError: the model has values, but an input is on the meta device.
    """
    like = next(model.parameters(), None)
    if like is None:
        return inputs
    if not like.is_meta and any(tensor.is_meta for tensor in inputs.tensors()):
        raise InputError(
            "The example_inputs must have values, as the model has. Got a tensor on the meta device."
        )
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
    return inputs.map(lambda t: t.to(like.device, dtype if t.is_floating_point() else None))
