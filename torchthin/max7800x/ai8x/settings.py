"""The settings of ai8x layers: ADI's, or the stand-ins of this package, found by what they have and not by their class."""

from __future__ import annotations

from torch import nn

from torchthin.max7800x.cost.layer import WeightBits

SETTINGS = (
    "output_shift",
    "weight_bits",
    "bias_bits",
    "quantize_activation",
    "adjust_output_shift",
    "shift_quantile",
)
"""In the order in which ai8x-training writes them."""
_REQUIRED = SETTINGS[:4]
_BITWISE = {"BitwiseXor", "BitwiseOr"}


def layers_with_settings(model: nn.Module) -> list[nn.Module]:
    """Return the ai8x layers of `model`, in module order."""
    return [module for module in model.modules() if all(hasattr(module, name) for name in _REQUIRED)]


def _paths(path: str) -> list[str]:
    """Return a module path and those of the modules that it lies in, the innermost first."""
    parts = path.split(".") if path else []
    return [".".join(parts[:count]) for count in range(len(parts), 0, -1)]


class ModuleSettings:
    """Says of a module path whether it lies in an ai8x layer, where scaling and rounding are the chip's own."""

    def __init__(self, model: nn.Module, weight_bits: WeightBits = 8) -> None:
        self._modules = dict(model.named_modules())
        self._weight_bits = weight_bits

    def _ancestors(self, path: str) -> list[nn.Module]:
        return [self._modules[one] for one in _paths(path) if one in self._modules]

    def layer(self, path: str) -> nn.Module | None:
        """Return the ai8x layer that `path` lies in, or None."""
        return next((one for one in self._ancestors(path) if all(hasattr(one, s) for s in _REQUIRED)), None)

    def scales(self, path: str) -> bool:
        """Whether products with constants, rounding and the like in `path` are how the chip stores numbers."""
        bitwise = any(
            cls.__name__ in _BITWISE for module in self._ancestors(path) for cls in type(module).__mro__
        )
        return bitwise or self.layer(path) is not None

    def wide(self, path: str) -> bool:
        """Whether the layer keeps outputs of 32 bits."""
        return bool(getattr(self.layer(path), "wide", False))

    def weight_bits(self, path: str) -> int:
        """Return the bits of the layer's weights: as it says itself when it is quantised, else what was asked for."""
        setting = getattr(self.layer(path), "weight_bits", None)
        asked = self._weight_bits
        if not isinstance(asked, int):
            asked = next((asked[one] for one in _paths(path) if one in asked), 8)
        return (int(setting) or asked) if setting is not None else asked
