"""Every model class of diffusers that builds small by rule and runs on tensors that `forward` names."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zoo.by_signature import first_that_runs
from zoo.candidates import Candidate
from zoo.case import Inputs

_ENDS: tuple[tuple[tuple[str, ...], Any], ...] = (
    (("num_layers", "num_single_layers", "num_refiner_layers", "depth", "num_decoder_layers"), 1),
    (("layers_per_block", "num_res_blocks"), 1),
    (("num_attention_heads", "num_heads", "num_kv_heads", "num_key_value_heads", "num_cross_attention_heads"), 2),
    (("attention_head_dim", "head_dim"), 16),
    (("norm_num_groups",), 8),
    (("sample_size", "sample_height", "sample_width"), 16),
    (("cross_attention_dim", "caption_channels", "joint_attention_dim", "pooled_projection_dim", "text_embed_dim",
    "encoder_hid_dim",
      "inner_dim", "hidden_size", "caption_projection_dim", "text_dim", "ffn_dim", "dim", "hidden_dim",
      "model_channels", "embedding_dim",
      "cross_attention_input_dim", "projection_dim", "time_embed_dim", "cap_feat_dim"), 32),
    (("base_dim", "decoder_base_dim", "base_channels"), 16),
    (("axes_dims_rope", "rope_axes_dim", "axes_dim"), (4, 6, 6)),
    (("block_out_channels", "encoder_block_out_channels", "decoder_block_out_channels", "channels"), 16),
    (("dim_mult",), None),
)  # fmt: skip
"""Ends of parameter names -> size; of a tuple, every entry."""


def found() -> Iterator[Candidate]:
    """Yield the model classes."""
    import diffusers

    for name in dir(diffusers):
        try:
            kind = getattr(diffusers, name)
        except Exception:  # needs a package that is not here
            continue
        if (
            inspect.isclass(kind)
            and issubclass(kind, diffusers.ModelMixin)
            and kind is not diffusers.ModelMixin
        ):
            yield Candidate(name, name, partial(_open, kind))


def _open(kind: Any) -> tuple[nn.Module, Inputs]:
    def build(**given: Any) -> nn.Module:
        with torch.device("meta"):
            size = sum(parameter.numel() for parameter in kind(**given).parameters())
        if size > 20_000_000:
            raise ValueError(f"{size} parameters: the rules did not make it small")
        model: nn.Module = kind(**given)
        return model

    small = dict[str, Any]()
    for name, parameter in inspect.signature(kind).parameters.items():
        if (value := _small(name, parameter.default)) is not None:
            small[name] = value
    ways = [small, {name: value for name, value in small.items() if "sample" not in name}, {}]
    return first_that_runs(build, ways, _inputs(kind, small))


def _small(name: str, default: Any) -> Any:
    for ends, size in _ENDS:
        if name.endswith(ends) and size is not None:
            if isinstance(default, (tuple, list)):
                return (
                    size
                    if isinstance(size, tuple)
                    else type(default)(size * (1 + n % 2) for n in range(len(default)))
                )
            return size if type(default) is int and default > size else None
    return None


_WIDTHS = ("cross_attention_dim", "joint_attention_dim", "caption_channels", "text_dim", "text_embed_dim")
_ALSO = (
    "encoder_hidden_states", "timestep", "pooled_projections", "img_ids", "txt_ids", "guidance", "class_labels",
)  # fmt: skip


def _inputs(kind: Any, small: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield values by name for what `forward` requires, with channels and widths as the class has them by default."""
    defaults = {n: p.default for n, p in inspect.signature(kind).parameters.items()} | small
    channels = defaults.get("in_channels", defaults.get("in_dim", 4))
    channels = channels if type(channels) is int else 4
    asked = [
        n
        for n, p in inspect.signature(kind.forward).parameters.items()
        if p.default is p.empty and n != "self"
    ]
    width = next((defaults[name] for name in _WIDTHS if type(defaults.get(name)) is int), 32)
    also = [name for name in _ALSO if name in inspect.signature(kind.forward).parameters]
    for shape in (
        (2, channels, 16, 16),
        (2, 16, channels),
        (2, channels, 4, 16, 16),
        (2, channels, 64),
        (2, channels, 32, 32),
        (2, 3, 32, 32),
        (2, 3, 5, 32, 32),
    ):
        for names in (asked, [*asked, *also]):
            named = {
                name: _value(name, shape, width, defaults)
                for name in dict.fromkeys(names)
                if name not in ("kwargs", "args")
            }
            if all(value is not None for value in named.values()):
                yield named


def _value(name: str, shape: tuple[int, ...], width: int, defaults: dict[str, Any]) -> Tensor | None:
    generator = torch.Generator().manual_seed(1)
    if name in ("sample", "hidden_states", "x", "controlnet_cond", "input"):
        return torch.randn(shape, generator=generator)
    if "timestep" in name or name in ("t", "guidance"):
        return torch.tensor([3.0, 7.0]) if name == "guidance" else torch.tensor([3, 7])
    if name in ("encoder_hidden_states", "cap_feats"):
        return torch.randn(2, 7, width, generator=generator)
    if name == "pooled_projections":
        return torch.randn(2, defaults.get("pooled_projection_dim", 32), generator=generator)
    if name in ("img_ids", "txt_ids"):
        return torch.zeros(16 if name == "img_ids" else 7, 3)
    if name == "class_labels":
        return torch.tensor([1, 2])
    if "mask" in name:
        return torch.ones(2, 7)
    return None
