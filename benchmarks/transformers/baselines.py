"""What a few dozen lines do without torchthin: heads and neurons by energy, output layers refitted; Wanda; SparseGPT."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

RIDGE = 1e-3
"""Strength, times the mean variance of an input."""


@torch.no_grad()
def by_energy(model: nn.Module, inputs: dict[str, Tensor], ratio: float) -> nn.Module:
    """Return a copy with the heads and neurons of least energy at zero, layer by layer, each output layer refitted.

    The energy is the mean square of what a head or neuron adds to the output layer. The refit sees the inputs that arrive
    from layers cut before, and aims at what the dense layer gives. Padding is left out.
    """
    small = copy.deepcopy(model)
    layers = dict(_output_layers(model))
    arrived = _inputs(model, layers, inputs)
    for name, units in layers.items():
        dense, layer = model.get_submodule(name), small.get_submodule(name)
        before, after = arrived[name], _inputs(small, [name], inputs)[name]
        wanted = before @ dense.weight.T + dense.bias
        width = before.shape[1] // units
        power = dense.weight.square().sum(0) * after.square().mean(0)
        order = power.reshape(units, width).sum(1).argsort(descending=True)
        kept = order[: units - int(ratio * units)].sort().values
        columns = (kept[:, None] * width + torch.arange(width)).flatten()
        weight, bias = _ridge(after[:, columns], wanted)
        layer.weight.zero_()
        layer.weight[:, columns] = weight.float()
        layer.bias.copy_(bias)
    return small


@torch.no_grad()
def wanda(model: nn.Module, inputs: dict[str, Tensor], ratio: float, pattern: bool = False) -> nn.Module:
    """Return a copy without the share of each output's weights of least |w| times the norm of its input, 2:4 with `pattern`.

    Sun et al. 2024, "A Simple and Effective Pruning Approach for Large Language Models" (arXiv 2306.11695).
    """
    small = copy.deepcopy(model)
    for block in (f"bert.encoder.layer.{index}." for index in range(model.bert.config.num_hidden_layers)):
        names = [n for n, m in small.named_modules() if isinstance(m, nn.Linear) and n.startswith(block)]
        for name, arrived in _inputs(small, names, inputs).items():
            weight = small.get_submodule(name).weight
            score = weight.abs() * arrived.norm(dim=0)
            if pattern:
                fours = score.reshape(len(score), -1, 4)
                weight.view(fours.shape).scatter_(2, fours.argsort(2)[..., :2], 0.0)
            else:
                weight.scatter_(1, score.argsort(1)[:, : int(ratio * score.shape[1])], 0.0)
    return small


@torch.no_grad()
def sparsegpt(model: nn.Module, inputs: dict[str, Tensor], ratio: float, pattern: bool = False) -> nn.Module:
    """Return a copy without the share of each layer's weights that SparseGPT removes, 2:4 with `pattern`, the rest updated.

    Frantar & Alistarh 2023, "Massive Language Models Can Be Accurately Pruned in One-Shot" (arXiv 2301.00774), with its
    settings: blocks of 128 columns, ridge 0.01, block by block of the model on what arrives from those pruned before.
    """
    small = copy.deepcopy(model)
    for block in (f"bert.encoder.layer.{index}." for index in range(model.bert.config.num_hidden_layers)):
        names = [n for n, m in small.named_modules() if isinstance(m, nn.Linear) and n.startswith(block)]
        for name, arrived in _inputs(small, names, inputs).items():
            weight = small.get_submodule(name).weight
            weight.copy_(_swept(weight.double(), (arrived.mT @ arrived).double(), ratio, pattern))
    return small


SLICED_HALF, SLICED_QUARTER = 0.464, 0.674
"""Share of the width that leaves half, or three quarters, of a block's 12 d^2 weights: 12 r + 2 r^2 = 6, or 9 with rotations."""


@torch.no_grad()
def slicegpt(model: nn.Module, inputs: dict[str, Tensor], ratio: float) -> nn.Module:
    """Return a copy whose hidden states after each norm lie in their first principal components, as if sliced there.

    Ashkboos et al. 2024, "SliceGPT: Compress Large Language Models by Deleting Rows and Columns" (arXiv 2401.15024). Written for
    norms after the sum: what a norm sees is centred, rotated, sliced, divided by its length, and rotated back with the norm's own
    factors in the next weights. Norm by norm on what arrives from those sliced before; the width is one number.
    """
    small = copy.deepcopy(model)
    share = {0.25: SLICED_QUARTER, 0.5: SLICED_HALF}[ratio]
    for name in [name for name, module in model.named_modules() if isinstance(module, nn.LayerNorm)]:
        norm = small.get_submodule(name)
        rows = _inputs(small, [name], inputs)[name].double()
        rows = rows - rows.mean(1, keepdim=True)
        rows = rows / rows.square().mean(1, keepdim=True).sqrt()
        axes = torch.linalg.eigh(rows.T @ rows)[1].flip(1)[:, : round(share * rows.shape[1])]
        parent, _, last = name.rpartition(".")
        setattr(small.get_submodule(parent), last, _Sliced(norm, axes.float()))
    return small


class _Sliced(nn.Module):
    """A norm of what is left of its input in some directions."""

    def __init__(self, norm: nn.LayerNorm, axes: Tensor) -> None:
        super().__init__()
        self.norm, self.axes = norm, axes

    def forward(self, x: Tensor) -> Tensor:
        """Return the same shape."""
        kept = (x - x.mean(-1, keepdim=True)) @ self.axes
        length = (kept.square().sum(-1, keepdim=True) / x.shape[-1] + self.norm.eps).sqrt()
        return (kept / length) @ self.axes.T * self.norm.weight + self.norm.bias


def _swept(weight: Tensor, squares: Tensor, ratio: float, pattern: bool) -> Tensor:
    squares.diagonal().add_(0.01 * squares.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(squares))
    upper = torch.linalg.cholesky(inverse, upper=True)
    size, diagonal = weight.shape[1], upper.diagonal()
    for start in range(0, size, 128):
        end = min(start + 128, size)
        costs = (weight[:, start:end] / diagonal[start:end]).square()
        gone = costs <= costs.flatten().kthvalue(int(ratio * costs.numel())).values
        errors = torch.zeros_like(costs)
        for column in range(start, end):
            if pattern and column % 4 == 0:
                own = slice(column - start, column - start + 4)
                costs = (weight[:, column : column + 4] / diagonal[column : column + 4]).square()
                gone[:, own] = False
                gone[:, own] = gone[:, own].scatter(1, costs.argsort(1)[:, :2], True)
            error = weight[:, column] * gone[:, column - start] / diagonal[column]
            weight[:, column:end] -= error[:, None] * upper[column, column:end]
            weight[:, column][gone[:, column - start]] = 0.0
            errors[:, column - start] = error
        weight[:, end:] -= errors @ upper[start:end, end:]
    return weight


def _output_layers(model: nn.Module) -> Iterator[tuple[str, int]]:
    """Yield the layers after heads and neurons in the order in which they run, and the number of heads or neurons."""
    config = model.bert.config
    for index in range(config.num_hidden_layers):
        yield f"bert.encoder.layer.{index}.attention.output.dense", config.num_attention_heads
        yield f"bert.encoder.layer.{index}.output.dense", config.intermediate_size


class _Enough(Exception):
    """All that was asked for has arrived."""


def _inputs(model: nn.Module, names: Iterable[str], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return what arrives at each of the layers, (tokens, width), without padding; nothing after them is run."""
    wanted = set(names)
    found: dict[str, Tensor] = {}

    def note(name: str, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        found[name] = args[0][inputs["attention_mask"].bool()]
        if len(found) == len(wanted):
            raise _Enough

    handles = [model.get_submodule(n).register_forward_pre_hook(partial(note, n)) for n in wanted]
    with contextlib.suppress(_Enough):
        model(**inputs)
    for handle in handles:
        handle.remove()
    return found


def _ridge(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    x, y = inputs.double(), targets.double()
    mean, target_mean = x.mean(0), y.mean(0)
    x, y = x - mean, y - target_mean
    within = x.T @ x
    within.diagonal().add_(RIDGE * within.diagonal().mean())
    weight = torch.linalg.solve(within, x.T @ y).T
    return weight, target_mean - weight @ mean
