"""Follow one run of a model whose forward passes one tensor from layer to layer, or say where it does something else."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils.hooks import RemovableHandle

from torchthin.errors import InputError
from torchthin.graph.call_sites import user_line
from torchthin.graph.evaluation_mode import evaluation_mode
from torchthin.graph.inputs import Inputs, call_on_originals
from torchthin.graph.outputs import output_tensors
from torchthin.max7800x.class_file.expressions import is_layer

RELU, FLATTEN = "torch.relu(x)", "x.flatten(1)"
KEEP = "Keep the thin model with --save-to and torchthin.load instead."
"""What to do where no class can be written."""
_RELUS: tuple[Any, ...] = (
    *(torch.relu, Tensor.relu, nn.functional.relu),
    *(torch.relu_, Tensor.relu_, nn.functional.relu_),
)
_FLATTENS: tuple[Any, ...] = (torch.flatten, Tensor.flatten, Tensor.view, Tensor.reshape, torch.reshape)


def layers_of(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers of a model by name; what is inside a layer, such as ai8x's ``op``, is no layer of its own."""
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if is_layer(module) and not any(name.startswith(f"{outer}.") for outer in found):
            found[name] = module
    return found


def follow(model: nn.Module, inputs: Inputs) -> tuple[str, ...]:
    """Run `model`, a copy, in evaluation mode and return its steps: names of layers, or the expressions `RELU` and `FLATTEN`.

    Raises:
        InputError: the chain breaks; the message says at which layer or function, and in which line.
    """
    given = list(inputs.tensors())
    if len(given) != 1:
        raise _broken("at its beginning: forward takes more than one tensor")
    run = _Run(given[0])
    with evaluation_mode(model, disposable=True), run.watching(layers_of(model)), run:
        output = call_on_originals(model, inputs)
    if output is not run.now:
        what = "another tensor than the last layer gave" if isinstance(output, Tensor) else "no single tensor"
        raise _broken(f"at its end: forward returns {what}")
    return tuple(run.steps)


def _broken(where: str) -> InputError:
    return InputError(
        f"A class can be written for a plain chain of layers only, and this one breaks {where}. {KEEP}"
    )


class _Run(TorchFunctionMode):
    """Sees layers by hooks, and the functions that forward calls between them."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.now = start
        self.steps: list[str] = []
        self._seen = [start]
        self._inside = 0

    @contextlib.contextmanager
    def watching(self, layers: dict[str, nn.Module]) -> Iterator[None]:
        """Watch the calls of `layers` inside the block."""
        handles: list[RemovableHandle] = []
        try:
            for name, layer in layers.items():
                handles.append(layer.register_forward_pre_hook(self._enter(name), with_kwargs=True))
                handles.append(layer.register_forward_hook(self._leave(name)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, name: str) -> Callable[..., None]:
        def enter(layer: nn.Module, given: Any, named: Any) -> None:
            tensors = output_tensors([given, named])
            if not self._inside and (len(tensors) != 1 or tensors[0] is not self.now):
                raise _broken(f"at {name}: it is not given what {self._last()} gave, or not that alone")
            self._inside += 1

        return enter

    def _leave(self, name: str) -> Callable[..., None]:
        def leave(layer: nn.Module, given: Any, output: Any) -> None:
            self._inside -= 1
            if not self._inside:
                if not isinstance(output, Tensor):
                    raise _broken(f"at {name}: it returns no single tensor")
                self._append(name, output)

        return leave

    def _last(self) -> str:
        return self.steps[-1] if self.steps else "the model's input"

    def _append(self, step: str, output: Tensor) -> None:
        self.steps.append(step)
        self.now = output
        self._seen.append(output)

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a function of torch, and note or refuse it when it uses a value of the chain."""
        self._inside += 1  # what the function itself calls is no step of forward
        try:
            output = function(*args, **(kwargs or {}))
        finally:
            self._inside -= 1
        if self._inside or not isinstance(output, Tensor | list | tuple) or output is self.now:
            return self._in_place(function, output)
        given = output_tensors([args, kwargs])
        used = [tensor for tensor in given if any(tensor is own for own in self._seen)]
        if used and output_tensors(output):
            self._append(*self._step(function, used, output))
        return output

    def _in_place(self, function: Any, output: Any) -> Any:
        """Note ``relu_``, which returns the tensor that it was given; no other function may change it."""
        if not self._inside and output is self.now and isinstance(output, Tensor):
            name = _name(function).rpartition(".")[2]
            if function in _RELUS:
                self.steps.append(RELU)
            elif name.endswith("_") or name.startswith("__i"):
                raise _broken(f"at {_name(function)}{_line()}")
        return output

    def _step(self, function: Any, used: list[Tensor], output: Any) -> tuple[str, Tensor]:
        if len(used) == 1 and used[0] is self.now and isinstance(output, Tensor):
            if function in _RELUS:
                return RELU, output
            if function in _FLATTENS and output.shape == used[0].flatten(1).shape:
                return FLATTEN, output
        raise _broken(f"at {_name(function)} after {self._last()}{_line()}")


def _name(function: Any) -> str:
    return str(resolve_name(function) or getattr(function, "__name__", function))


def _line() -> str:
    file, number = user_line()
    return f" ({Path(file).name}, line {number})" if file else ""
