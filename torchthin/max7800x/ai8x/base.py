"""What every ai8x layer shares: quantisation settings, the order of the steps, fusing of BatchNorm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from torchthin.errors import ConfigError
from torchthin.graph.output_shift import OutputShiftLimit
from torchthin.max7800x.ai8x.quantization import in_bits, limited, stored, truncated
from torchthin.max7800x.cost.layer import WEIGHT_BITS

Operation = nn.Conv1d | nn.Conv2d | nn.Linear


def _setting(value: float | int | bool) -> nn.Parameter:
    return nn.Parameter(torch.tensor([value]), requires_grad=False)


class Ai8xLayer(nn.Module):
    """Pooling, then the operation `op` by its bare function, BatchNorm / 4, scale, ReLU, grid and limits.

    The operation's module is never called: its weight and bias are scaled, rounded and limited and go into `op._conv_forward`,
    bound once. Six settings per layer, never per channel, come first in the state dict, each of shape (1,): `output_shift`,
    `weight_bits`, `bias_bits`, `quantize_activation`, `adjust_output_shift`, `shift_quantile`.
    Outputs lie in [-1, 127/128], or within ±32768 when `wide`.
    """

    _conv_forward: Callable[..., torch.Tensor]

    def __init_subclass__(cls, **defaults: str) -> None:
        """Let a class give other defaults to the arguments of the class that it extends."""
        super().__init_subclass__()
        if defaults:
            base = super(cls, cls).__init__

            def build(self: Ai8xLayer, *args: Any, **given: Any) -> None:
                base(self, *args, **{**defaults, **given})

            cls.__init__ = build  # type: ignore[method-assign]

    def __init__(
        self,
        op: Operation | None,
        *,
        pool: nn.Module | None = None,
        bn: nn.BatchNorm1d | nn.BatchNorm2d | None = None,
        relu: bool = False,
        wide: bool = False,
    ) -> None:
        super().__init__()
        self.wide = wide
        self.activate: nn.Module = nn.ReLU(inplace=True) if relu else nn.Identity()
        self.pool = pool
        self.op = op
        self.bn = bn
        self.calc_out_shift = OutputShiftLimit()
        if isinstance(op, nn.Conv1d | nn.Conv2d):
            self._conv_forward = op._conv_forward
        self.output_shift = _setting(0.0)
        self.set_quantization(None)
        self.register_load_state_dict_post_hook(_follow_settings)  # type: ignore[no-untyped-call]

    def set_quantization(self, bits: int | None, shift_quantile: float = 1.0) -> None:
        """Switch to quantisation-aware training with `bits` for weights and biases; None: back to float.

        Raises ConfigError when `bits` is not None, 1, 2, 4 or 8.
        """
        if bits is not None and bits not in WEIGHT_BITS:
            raise ConfigError(f"The bits of set_quantization must be None, 1, 2, 4 or 8. Got {bits!r}.")
        self.weight_bits = _setting(bits or 0)
        self.bias_bits = _setting(bits or 0)
        self.quantize_activation = _setting(bits is not None)
        self.adjust_output_shift = _setting(bits is not None)
        self.shift_quantile = _setting(shift_quantile)
        self.set_functions()

    def set_functions(self) -> None:
        """Follow the settings, which are parameters: they are kept as plain values, so that a run asks for no numbers."""
        self._bits = int(self.weight_bits), int(self.bias_bits)
        self._on_grid, self._shifted = bool(self.quantize_activation), bool(self.adjust_output_shift)
        self.calc_out_shift.shift_quantile = float(self.shift_quantile)

    def _operate(self, values: torch.Tensor, op: Operation) -> torch.Tensor:
        weight, bias = op.weight, op.bias
        flat = weight.detach().flatten()
        if bias is not None:
            flat = torch.cat((flat, bias.detach().flatten()))
        shift, weight_scale = self.output_shift.detach(), torch.ones(1, device=self.output_shift.device)
        if self._shifted:
            shift = self.calc_out_shift(flat, shift)
            weight_scale = torch.exp2(-shift)
        weight = in_bits(weight.mul(weight_scale), self._bits[0])
        if bias is not None:
            bias = in_bits(bias.mul(weight_scale), self._bits[1])
        values = self._conv_forward(values, weight, bias)
        if self.bn is not None:
            values = self.bn(values).div(4.0)
        if not self.wide:  # the chip applies no output shift to wide outputs
            values = values.mul(torch.exp2(shift))
        return stored(self.activate(values), wide=self.wide, on_grid=self._on_grid)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return the output: (N, C_in, H, W) -> (N, C_out, H', W'), or without W; linear layers (N, in) -> (N, out)."""
        if self.pool is not None:
            values = self.pool(values)
        if isinstance(self.pool, nn.AvgPool1d | nn.AvgPool2d):
            values = limited(truncated(values) if self._on_grid else values)
        return values if self.op is None else self._operate(values, self.op)


def _follow_settings(layer: nn.Module, keys: Any) -> None:
    """Use the settings in a freshly loaded state dict."""
    if isinstance(layer, Ai8xLayer):
        layer.set_functions()


def initiate_qat(model: nn.Module, bits: int = 8, shift_quantile: float = 1.0) -> None:
    """Switch every stand-in layer of `model` to quantisation-aware training with `bits` bits, in place."""
    for layer in ai8x_layers(model):
        layer.set_quantization(bits, shift_quantile)


def ai8x_layers(model: nn.Module) -> list[Ai8xLayer]:
    """Return the ai8x stand-in layers of `model` in module order."""
    return [module for module in model.modules() if isinstance(module, Ai8xLayer)]


@torch.no_grad()
def fuse_batch_norm_(model: nn.Module) -> None:
    """Fold each layer's BatchNorm and its division by 4 into `op`'s weight and bias and drop `bn`, in place.

    w' = w·g, b' = (b - mean)·g + beta/4 with g = gamma / (4·sqrt(var + eps)): ai8x-training does this before
    quantisation-aware training begins.
    """
    for layer in ai8x_layers(model):
        bn, op = layer.bn, layer.op
        if bn is None or not isinstance(op, nn.Conv1d | nn.Conv2d) or op.bias is None:
            continue
        if bn.running_mean is None or bn.running_var is None:
            raise ConfigError(
                "The BatchNorm of an ai8x layer needs running statistics to be fused. Got one without."
            )
        gain = 0.25 * torch.rsqrt(bn.running_var + bn.eps)
        if bn.weight is not None:
            gain = gain * bn.weight
        op.weight.mul_(gain.reshape(-1, *[1] * (op.weight.dim() - 1)))
        op.bias.copy_((op.bias - bn.running_mean) * gain + (0.25 * bn.bias if bn.bias is not None else 0.0))
        layer.bn = None
