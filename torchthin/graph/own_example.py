"""Example inputs that a model itself knows, or that its configuration says how to make."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from torchthin.graph.inputs import from_shapes

_TOKENS = 16
"""Length of a text, where the model takes as long a one."""
_SAMPLES = 2
_WIDTH = 224
"""Pixels of a picture, where the configuration does not say."""
_SOUND = 8000
"""Samples of a sound wave."""


def own_example(model: nn.Module) -> Any:
    """Return the example inputs that the model itself knows, or None.

    Looked for: ``example_input_array`` (Lightning), the configuration and ``dummy_inputs`` (transformers),
    ``pretrained_cfg["input_size"]`` (timm).
    """
    example = getattr(model, "example_input_array", None)
    if example is not None:
        return example
    made = _by_config(model)
    if made is not None:
        return made
    example = getattr(model, "dummy_inputs", None)
    if example is not None:
        return example
    size = (getattr(model, "pretrained_cfg", None) or {}).get("input_size")
    return from_shapes([((1, *size), torch.float32)]) if size else None


def _by_config(model: Any) -> dict[str, Any] | None:
    """Return keyword arguments for a model of transformers: texts, pictures or sounds of the sizes that it is made for."""
    main, config = getattr(model, "main_input_name", None), getattr(model, "config", None)
    if config is None or main not in _MAKERS or not hasattr(model, "get_input_embeddings"):
        return None
    made = _MAKERS[main](model, config)
    if made is None:
        return None
    takes = inspect.signature(model.forward).parameters
    two_towers = hasattr(config, "text_config") and hasattr(config, "vision_config")
    fused = any("image_token" in name for name in vars(config))
    if main == "input_ids" and "pixel_values" in takes and two_towers and not fused:
        made |= _pictures(model, config) or {}
    if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in takes:
        words = _tokens(model, config)
        made |= {"decoder_input_ids": words["input_ids"]} if words else {}
    if "use_cache" in takes:
        made["use_cache"] = False
    return made


def _tokens(model: Any, config: Any) -> dict[str, Any] | None:
    table = getattr(model.get_input_embeddings(), "weight", None)
    if not isinstance(table, Tensor):
        return None
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    longest = getattr(text, "max_position_embeddings", None) or _TOKENS
    shape = (_SAMPLES, min(_TOKENS, max(longest - 2, 1)))  # some count positions from 2
    drawn = torch.randint(len(table), shape, generator=torch.Generator().manual_seed(0))
    return {"input_ids": drawn}


def _pictures(model: Any, config: Any) -> dict[str, Any] | None:
    of_pictures = getattr(config, "vision_config", None) or getattr(config, "backbone_config", None) or config
    size = getattr(of_pictures, "image_size", None) or getattr(config, "image_size", None) or _WIDTH
    height, width = (size, size) if isinstance(size, int) else tuple(size)[-2:]
    channels = getattr(of_pictures, "num_channels", None) or getattr(config, "num_channels", None) or 3
    return {"pixel_values": _noise(_SAMPLES, channels, height, width)}


def _waves(model: Any, config: Any) -> dict[str, Any] | None:
    return {"input_values": _noise(_SAMPLES, _SOUND)}


def _spectra(model: Any, config: Any) -> dict[str, Any] | None:
    bands, steps = getattr(config, "num_mel_bins", None), getattr(config, "max_source_positions", None)
    return {"input_features": _noise(1, bands, 2 * steps)} if bands and steps else None


def _noise(*shape: int) -> Tensor:
    made: Tensor = from_shapes([(shape, torch.float32)]).args[0]
    return made


_MAKERS = {
    "input_ids": _tokens,
    "pixel_values": _pictures,
    "input_values": _waves,
    "input_features": _spectra,
}
"""``main_input_name`` of a model -> what makes it."""
