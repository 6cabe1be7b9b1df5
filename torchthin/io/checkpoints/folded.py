"""Layers of ai8x whose BatchNorm training has folded into the weights: a file without it, and a class that builds it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

_LAYER = ("op", "bn", "weight_bits", "quantize_activation")
"""What layers of ai8x that may have a BatchNorm have."""


def drop_folded_(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Take the BatchNorm out of those layers of ai8x that have none in a state dict, as ``ai8x.fuse_bn_layers`` does.

    train.py folds BatchNorm into the weights when quantisation-aware training starts; its factories build it again.
    """
    for path in list(folded_layers(model, state)):
        model.get_submodule(path).bn = None  # type: ignore[assignment]


def folded_layers(model: nn.Module, state: Mapping[str, Any]) -> Iterator[str]:
    """Yield the paths of layers of ai8x that have a BatchNorm in the model and none in the state dict."""
    for path, module in model.named_modules():
        if all(hasattr(module, name) for name in _LAYER) and isinstance(module.bn, nn.Module):
            own = f"{path}." if path else ""
            if f"{own}op.weight" in state and not any(name.startswith(f"{own}bn.") for name in state):
                yield path
