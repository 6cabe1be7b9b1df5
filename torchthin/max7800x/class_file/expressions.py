"""A layer -> the expression that builds it at its present sizes: torch's by their signatures, ai8x's by their names."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd

TORCH_LAYERS: tuple[type[nn.Module], ...] = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.Linear, nn.Flatten, nn.Identity),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d),
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh),
    *(nn.Sigmoid, nn.Tanh, nn.Softmax, nn.LogSoftmax, nn.PReLU, nn.Softplus),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d),
)
"""Layers whose arguments are kept as attributes of the same names. Subclasses may compute anything, so none of them."""
AI8X_HOMES = {
    "ai8x": "import ai8x",
    "torchthin.max7800x.ai8x.layers": "from torchthin.max7800x.ai8x import layers as ai8x",
}
"""Modules with ai8x layers -> how a file imports them under the name ai8x."""
_NOT_KEPT = ("self", "device", "dtype")


def is_ai8x(module: nn.Module) -> bool:
    """Whether a module is a layer of ai8x-training with an operation or pooling, or a stand-in for one."""
    return type(module).__module__ in AI8X_HOMES and hasattr(module, "op") and hasattr(module, "pool")


def is_layer(module: nn.Module) -> bool:
    """Whether there is an expression for the module."""
    return type(module) in TORCH_LAYERS or is_ai8x(module)


def expression(module: nn.Module) -> str:
    """Return how the module is built: ``nn.Conv2d(3, 12, 3, padding=1)``.

    >>> expression(nn.Conv2d(3, 12, (3, 3), padding=1, bias=False)), expression(nn.ReLU(inplace=True))
    ('nn.Conv2d(3, 12, 3, padding=1, bias=False)', 'nn.ReLU(inplace=True)')
    """
    name = type(module).__name__
    if is_ai8x(module):
        return f"ai8x.{name}({', '.join(_ai8x_arguments(module, name))})"
    return f"nn.{name}({', '.join(_arguments(module))})"


def _arguments(module: Any) -> list[str]:
    found = []
    for name, parameter in inspect.signature(type(module).__init__).parameters.items():
        if name in _NOT_KEPT or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        value = getattr(module, name, parameter.default)  # Hardtanh has old names of two arguments
        if name == "bias":
            value = value is not None
        if isinstance(module, _ConvNd):
            value = _single(value)
        if parameter.default is parameter.empty:
            found.append(repr(value))
        elif value != parameter.default:
            found.append(f"{name}={value!r}")
    return found


def _single(value: Any) -> Any:
    """Return the number that a tuple repeats, else the value."""
    return value[0] if isinstance(value, tuple) and len(set(value)) == 1 else value


def _ai8x_arguments(module: Any, name: str) -> list[str]:
    """Return arguments by what the class's name leaves open: it fixes pooling, activation, depthwise and transposed."""
    op, pool = module.op, module.pool
    if op is None:
        return [*_pooling(pool, "", "stride")]
    if isinstance(op, nn.Linear):
        sizes = [str(op.in_features), str(op.out_features)]
        return [*sizes, *([] if op.bias is None else ["bias=True"]), *_ending(module, name)]
    found = [str(op.in_channels), str(op.out_channels), repr(_single(op.kernel_size))]
    for key, default in (("stride", 1), ("padding", 0), ("dilation", 1)):
        value = _single(getattr(op, key))
        if value != default or (key == "stride" and "Transpose" in name):
            found.append(f"{key}={value!r}")
    if op.groups > 1 and "Depthwise" not in name:
        found.append(f"groups={op.groups}")
    found.append(f"bias={op.bias is not None}")
    if pool is not None:
        if "Pool" not in name:
            found.append(f"pooling={'Max' if 'Max' in type(pool).__name__ else 'Avg'!r}")
        found += _pooling(pool, "pool_size=", "pool_stride")
    return [*found, *_batch_norm(module.bn, name), *_ending(module, name)]


def _pooling(pool: Any, size: str, stride: str) -> list[str]:
    found = [f"{size}{_single(pool.kernel_size)!r}", f"{stride}={_single(pool.stride)!r}"]
    dilation = _single(getattr(pool, "dilation", 1))
    return found if dilation == 1 else [*found, f"{'pool_' if size else ''}dilation={dilation!r}"]


def _batch_norm(bn: Any, name: str) -> list[str]:
    """Return BatchNorm's arguments; a class with BN in its name has none when it was fused."""
    if bn is None:
        return ["batchnorm=None"] if "BN" in name else []
    kind = "Affine" if bn.affine else "NoAffine"
    found = [] if "BN" in name and bn.affine else [f"batchnorm={kind!r}"]
    found += [] if bn.eps == 1e-5 else [f"eps={bn.eps!r}"]
    return found if bn.momentum == 0.05 else [*found, f"momentum={bn.momentum!r}"]


def _ending(module: Any, name: str) -> list[str]:
    found = ["wide=True"] if module.wide else []
    if isinstance(module.activate, nn.ReLU) and "ReLU" not in name:
        found.append("activation='ReLU'")
    if type(module.activate).__name__ == "Abs" and "Abs" not in name:
        found.append("activation='Abs'")
    return found
