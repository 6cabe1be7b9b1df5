"""How far the layers of a thinned model are from the dense model's, channel by channel among those that were kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from torchthin.graph.inputs import Inputs
from torchthin.graph.recorder import record
from torchthin.recovery.layers import find_layers
from torchthin.thinning.recipe import Recipe


class LayerDistance:
    """Notes the outputs of corresponding layers of both models while it is entered."""

    def __init__(self, dense: nn.Module, small: nn.Module, recipe: Recipe, example: Inputs) -> None:
        """Find the layers. recipe: which channels `small` has kept; example: an input that both take."""
        self._models = {True: dense, False: small}
        self._compared = dict(_compared(small, recipe, example))
        self._outputs: dict[tuple[bool, str], Tensor | None] = {}
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> LayerDistance:
        for is_dense, model in self._models.items():
            for name in self._compared:
                note = self._note(is_dense, name)
                self._hooks.append(model.get_submodule(name).register_forward_hook(note))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()

    def _note(self, is_dense: bool, name: str) -> Callable[..., None]:
        def note(module: nn.Module, args: Any, output: Any) -> None:
            called_twice = (is_dense, name) in self._outputs
            usable = isinstance(output, Tensor) and not called_twice
            self._outputs[is_dense, name] = output if usable else None

        return note

    def take(self) -> Tensor:
        """Return the mean over all layers since the last call, each channel in units of its variance."""
        parts = []
        outputs, self._outputs = self._outputs, {}
        for name, (kept, axis) in self._compared.items():
            dense, small = outputs.get((True, name)), outputs.get((False, name))
            if dense is None or small is None:
                continue
            dense = dense if kept is None else dense.index_select(axis, kept.to(dense.device))
            if dense.shape != small.shape:
                continue
            rest = [d for d in range(dense.dim()) if d != axis % dense.dim()]
            variance = dense.float().var(rest, correction=0, keepdim=True)
            error = (dense.float() - small.float()).square().mean(rest, keepdim=True)
            parts.append((error / (variance + 1e-3 * variance.mean() + 1e-12)).mean())
        return torch.stack(parts).mean() if parts else torch.zeros(())


def _compared(
    small: nn.Module, recipe: Recipe, example: Inputs
) -> Iterator[tuple[str, tuple[Tensor | None, int]]]:
    """Yield the modules to compare, with the kept channels (None: all) and their axis: layers, or the BatchNorm after one."""
    layers, _ = find_layers(record(small, example).live(), small)
    modules = dict(small.named_modules())
    dims = {name: p.dim() for name, p in small.named_parameters()}
    for layer in layers:
        name = layer.mean.rpartition(".")[0] if layer.mean is not None else layer.module
        if name and name in modules:
            kept = recipe.keep.get(layer.weight, {}).get(0)
            axis = 1 if dims[layer.weight] > 2 else -1
            yield name, (None if kept is None else torch.tensor(kept), axis)
