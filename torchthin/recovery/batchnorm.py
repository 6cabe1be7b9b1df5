"""BatchNorm statistics recalibrated from inputs, exactly, in one pass."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from torchthin.graph.evaluation_mode import evaluation_mode
from torchthin.graph.inputs import Inputs, call


def recalibrate_(model: nn.Module, inputs: Inputs) -> int:
    """Give every BatchNorm of `model` with running statistics the mean and variance of its input on `inputs`.

    Later layers see what earlier ones give with their new statistics. Training flags, momentum and counters do not change.

    Returns:
        the number of layers.
    """

    def measure(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        assert isinstance(module, _BatchNorm)
        assert module.running_mean is not None and module.running_var is not None
        values = args[0].detach()
        axes = [axis for axis in range(values.dim()) if axis != 1]
        if values.numel() == values.shape[1]:
            return  # one value a channel has no variance
        variance, mean = torch.var_mean(values.double(), dim=axes, correction=1)
        module.running_mean.copy_(mean)
        module.running_var.copy_(variance)

    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    hooks = [norm.register_forward_pre_hook(measure) for norm in norms]
    try:
        with evaluation_mode(model):
            call(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return len(norms)
