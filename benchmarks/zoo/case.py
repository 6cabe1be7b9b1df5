"""One model of the zoo: how it is built, what it is run on, and the random values that make a proof say something."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils._pytree import tree_flatten

Inputs = Any
"""What `torchthin.prune` takes as example inputs: a tensor, a tuple or a dict."""


@dataclass(frozen=True)
class Case:
    """A model with its inputs. Nothing in it says how to prune it."""

    name: str
    source: str
    """``torchvision`` or ``transformers``."""
    make: Callable[[], nn.Module]
    inputs: Callable[[], Inputs]
    """Inputs of the size that the model is made for."""
    small: Callable[[], Inputs]
    """Inputs as small as the model allows, for tests."""
    training: Callable[[], Inputs]
    """Inputs of a training step (two samples, targets where the model computes its own loss)."""
    ranks: bool = False
    """The model ranks what it finds: its activations must neither explode nor die, or ranks are rounding."""

    def build(self, seed: int = 0) -> nn.Module:
        """Return the model in evaluation mode with random weights and no constant parameter."""
        torch.manual_seed(seed)
        model = self.make()
        randomise_(model)
        if self.ranks:
            settle_(model, self.inputs())
        return model.eval()


def randomise_(model: nn.Module) -> None:
    """Give norms random statistics, and parameters that start constant (zero heads, layer scales) random values.

    Without that, a wrong removal could go unseen: zeros and ones hide which channel is which.
    """
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, _NormBase) and module.running_mean is not None:
                module.running_mean.normal_(0, 0.2)
                assert module.running_var is not None
                module.running_var.uniform_(0.5, 1.5)
        for parameter in model.parameters():
            if (
                parameter.numel() > 1
                and parameter.is_floating_point()
                and bool((parameter == parameter.flatten()[0]).all())
            ):
                _fill_(parameter)


def settle_(model: nn.Module, inputs: Inputs) -> None:
    """Give every norm with running statistics, frozen ones too, nearly those that its input has."""

    def take(norm: Any, given: tuple[Tensor, ...]) -> None:
        axes = [axis for axis in range(given[0].dim()) if axis != 1]
        variance, mean = torch.var_mean(given[0], axes, correction=0)
        norm.running_mean.copy_(mean + 0.2 * variance.sqrt() * torch.randn_like(mean))
        norm.running_var.copy_(variance * torch.empty_like(variance).uniform_(0.5, 1.5) + 1e-3)

    hooks = [
        module.register_forward_pre_hook(take)
        for module in model.modules()
        if getattr(module, "running_mean", None) is not None
    ]
    with torch.no_grad():
        run(model.eval(), inputs)
    for hook in hooks:
        hook.remove()


def _fill_(parameter: Tensor) -> None:
    if float(parameter.flatten()[0]) != 0.0:
        parameter.uniform_(0.5, 1.5)
    elif parameter.dim() > 1:
        parameter.normal_(0, max(parameter[0].numel(), 1) ** -0.5)
    else:
        parameter.normal_(0, 0.2)


def tensors(outputs: Any) -> list[Tensor]:
    """Return all tensors of a model's outputs."""
    return [leaf for leaf in tree_flatten(outputs)[0] if isinstance(leaf, Tensor)]


def run(model: nn.Module, inputs: Inputs) -> Any:
    """Call a model on a tensor, a tuple or a dict."""
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def outputs_of(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """Run a model without gradients; return the tensors of its outputs."""
    with torch.no_grad():
        return tensors(run(model, inputs))


def train_step(model: nn.Module, inputs: Inputs) -> set[str]:
    """Run forward and backward in training mode; return the names of the parameters that got a gradient."""
    torch.manual_seed(0)  # some models drop whole layers by chance
    model.train()
    made = [t for t in tensors(run(model, inputs)) if t.requires_grad]
    torch.stack([t.float().square().mean() for t in made]).sum().backward()
    return {name for name, parameter in model.named_parameters() if parameter.grad is not None}
