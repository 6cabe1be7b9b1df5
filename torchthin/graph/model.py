"""What a model must be before anything is done with it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from torchthin.errors import ConfigError, InputError


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
