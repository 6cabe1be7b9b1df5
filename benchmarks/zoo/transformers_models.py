"""Families of Hugging Face transformers, each from a small configuration; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zoo import vision_ops
from zoo.case import Case, Inputs

_WORDS = 99
_TEXT: Mapping[str, Any] = {
    "vocab_size": _WORDS,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GROUPED = {**_TEXT, "num_key_value_heads": 2}
_IMAGE: Mapping[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "image_size": 32,
    "patch_size": 8,
}
_SEQ2SEQ: Mapping[str, Any] = {
    "vocab_size": _WORDS,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
_SPEECH: Mapping[str, Any] = {
    **{k: v for k, v in _TEXT.items() if k != "max_position_embeddings"},
    "conv_dim": (32, 32, 32),
    "conv_kernel": (5, 3, 3),
    "conv_stride": (4, 2, 2),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "num_feat_extract_layers": 3,
}


def _ids(samples: int, *, length: int = 12, seed: int = 1) -> Tensor:
    return torch.randint(3, _WORDS, (samples, length), generator=torch.Generator().manual_seed(seed))


def _normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _text(samples: int) -> Inputs:
    return {"input_ids": _ids(samples)}


def _text_pair(samples: int) -> Inputs:
    return {"input_ids": _ids(samples), "decoder_input_ids": _ids(samples, length=7, seed=2)}


def _picture(samples: int, *, side: int = 32) -> Inputs:
    return {"pixel_values": _normal(samples, 3, side, side)}


def _sound(samples: int) -> Inputs:
    return {"input_values": _normal(samples, 1600)}


def _spectrum(samples: int) -> Inputs:
    return {"input_features": _normal(samples, 16, 40), "decoder_input_ids": _ids(samples, length=7)}


def _spectrogram(samples: int) -> Inputs:
    return {"input_values": _normal(samples, 64, 32)}


def _text_and_picture(samples: int) -> Inputs:
    return {**_text(samples), **_picture(samples)}


def _clip(samples: int) -> Inputs:
    return {"pixel_values": _normal(samples, 2, 3, 32, 32)}


@dataclass(frozen=True)
class _Family:
    name: str
    config: str
    """Class of the configuration."""
    model: str
    """Class of the model."""
    settings: Mapping[str, Any]
    inputs: Callable[[int], Inputs] = _text


_CLIP_PARTS = {
    "text_config": {**_TEXT, "projection_dim": 32},
    "vision_config": {**_IMAGE, "projection_dim": 32},
    "projection_dim": 32,
}
_STAGES = {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 32, 48, 64]}
_SWIN = {
    "image_size": 32,
    "patch_size": 2,
    "embed_dim": 16,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
}

FAMILIES: tuple[_Family, ...] = (
    _Family("bert", "BertConfig", "BertForSequenceClassification", _TEXT),
    _Family("roberta", "RobertaConfig", "RobertaForTokenClassification", _TEXT),
    _Family(
        "distilbert",
        "DistilBertConfig",
        "DistilBertForSequenceClassification",
        {"vocab_size": _WORDS, "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128},
    ),
    _Family("electra", "ElectraConfig", "ElectraForSequenceClassification", {**_TEXT, "embedding_size": 32}),
    _Family("albert", "AlbertConfig", "AlbertForSequenceClassification", {**_TEXT, "embedding_size": 32}),
    _Family(
        "deberta",
        "DebertaConfig",
        "DebertaForSequenceClassification",
        {**_TEXT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False},
    ),
    _Family(
        "deberta-v2",
        "DebertaV2Config",
        "DebertaV2ForSequenceClassification",
        {
            **_TEXT,
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_buckets": 16,
            "share_att_key": True,
            "norm_rel_ebd": "layer_norm",
        },
    ),
    _Family("mpnet", "MPNetConfig", "MPNetForSequenceClassification", _TEXT),
    _Family(
        "mobilebert",
        "MobileBertConfig",
        "MobileBertForSequenceClassification",
        {**_TEXT, "embedding_size": 32, "intra_bottleneck_size": 32, "true_hidden_size": 32},
    ),
    _Family(
        "squeezebert",
        "SqueezeBertConfig",
        "SqueezeBertForSequenceClassification",
        {**_TEXT, "embedding_size": 64},
    ),
    _Family(
        "modernbert",
        "ModernBertConfig",
        "ModernBertForSequenceClassification",
        {**_TEXT, "cls_token_id": 1, "sep_token_id": 2},
    ),
    _Family("fnet", "FNetConfig", "FNetForSequenceClassification", _TEXT),
    _Family(
        "gpt2",
        "GPT2Config",
        "GPT2LMHeadModel",
        {
            "vocab_size": _WORDS,
            "n_embd": 64,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 64,
            "use_cache": False,
        },
    ),
    _Family(
        "gpt-neo",
        "GPTNeoConfig",
        "GPTNeoForCausalLM",
        {
            "vocab_size": _WORDS,
            "hidden_size": 64,
            "num_layers": 2,
            "num_heads": 4,
            "intermediate_size": 128,
            "attention_types": [[["global", "local"], 1]],
            "max_position_embeddings": 64,
            "use_cache": False,
        },
    ),
    _Family("gpt-neox", "GPTNeoXConfig", "GPTNeoXForCausalLM", {**_TEXT, "use_cache": False}),
    _Family(
        "gptj",
        "GPTJConfig",
        "GPTJForCausalLM",
        {
            "vocab_size": _WORDS,
            "n_embd": 64,
            "n_layer": 2,
            "n_head": 4,
            "rotary_dim": 8,
            "n_positions": 64,
            "use_cache": False,
        },
    ),
    _Family(
        "opt",
        "OPTConfig",
        "OPTForCausalLM",
        {
            "vocab_size": _WORDS,
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "ffn_dim": 128,
            "max_position_embeddings": 64,
            "word_embed_proj_dim": 64,
            "use_cache": False,
        },
    ),
    _Family(
        "bloom",
        "BloomConfig",
        "BloomForCausalLM",
        {"vocab_size": _WORDS, "hidden_size": 64, "n_layer": 2, "n_head": 4, "use_cache": False},
    ),
    _Family("falcon", "FalconConfig", "FalconForCausalLM", {**_TEXT, "use_cache": False}),
    _Family("llama", "LlamaConfig", "LlamaForCausalLM", {**_GROUPED, "use_cache": False}),
    _Family("mistral", "MistralConfig", "MistralForCausalLM", {**_GROUPED, "use_cache": False}),
    _Family(
        "mixtral",
        "MixtralConfig",
        "MixtralForCausalLM",
        {**_GROUPED, "num_local_experts": 4, "use_cache": False},
    ),
    _Family("qwen2", "Qwen2Config", "Qwen2ForCausalLM", {**_GROUPED, "use_cache": False}),
    _Family("qwen3", "Qwen3Config", "Qwen3ForCausalLM", {**_GROUPED, "head_dim": 16, "use_cache": False}),
    _Family("gemma", "GemmaConfig", "GemmaForCausalLM", {**_GROUPED, "head_dim": 16, "use_cache": False}),
    _Family("phi3", "Phi3Config", "Phi3ForCausalLM", {**_GROUPED, "use_cache": False}),
    _Family(
        "mamba",
        "MambaConfig",
        "MambaForCausalLM",
        {
            "vocab_size": _WORDS,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "state_size": 8,
            "use_cache": False,
        },
    ),
    _Family(
        "t5",
        "T5Config",
        "T5ForConditionalGeneration",
        {
            "vocab_size": _WORDS,
            "d_model": 64,
            "d_kv": 16,
            "d_ff": 128,
            "num_layers": 2,
            "num_heads": 4,
            "decoder_start_token_id": 0,
            "use_cache": False,
        },
        _text_pair,
    ),
    _Family(
        "bart",
        "BartConfig",
        "BartForConditionalGeneration",
        {**_SEQ2SEQ, "max_position_embeddings": 64, "use_cache": False},
        _text_pair,
    ),
    _Family(
        "marian",
        "MarianConfig",
        "MarianMTModel",
        {**_SEQ2SEQ, "max_position_embeddings": 64, "use_cache": False},
        _text_pair,
    ),
    _Family("vit", "ViTConfig", "ViTForImageClassification", _IMAGE, _picture),
    _Family("deit", "DeiTConfig", "DeiTForImageClassification", _IMAGE, _picture),
    _Family(
        "beit",
        "BeitConfig",
        "BeitForImageClassification",
        {**_IMAGE, "use_relative_position_bias": True},
        _picture,
    ),
    _Family("dinov2", "Dinov2Config", "Dinov2ForImageClassification", _IMAGE, _picture),
    _Family("swin", "SwinConfig", "SwinForImageClassification", _SWIN, _picture),
    _Family("swinv2", "Swinv2Config", "Swinv2ForImageClassification", _SWIN, _picture),
    _Family(
        "convnext", "ConvNextConfig", "ConvNextForImageClassification", _STAGES, partial(_picture, side=64)
    ),
    _Family(
        "convnextv2",
        "ConvNextV2Config",
        "ConvNextV2ForImageClassification",
        _STAGES,
        partial(_picture, side=64),
    ),
    _Family(
        "resnet-hf",
        "ResNetConfig",
        "ResNetForImageClassification",
        {**_STAGES, "embedding_size": 16},
        partial(_picture, side=64),
    ),
    _Family(
        "regnet-hf",
        "RegNetConfig",
        "RegNetForImageClassification",
        {**_STAGES, "embedding_size": 16, "groups_width": 8},
        partial(_picture, side=64),
    ),
    _Family(
        "segformer",
        "SegformerConfig",
        "SegformerForSemanticSegmentation",
        {**_STAGES, "num_attention_heads": [1, 2, 3, 4], "decoder_hidden_size": 32},
        partial(_picture, side=64),
    ),
    _Family(
        "poolformer",
        "PoolFormerConfig",
        "PoolFormerForImageClassification",
        _STAGES,
        partial(_picture, side=64),
    ),
    _Family(
        "pvt-v2",
        "PvtV2Config",
        "PvtV2ForImageClassification",
        {**_STAGES, "num_attention_heads": [1, 2, 3, 4], "image_size": 64},
        partial(_picture, side=64),
    ),
    _Family(
        "mobilevit",
        "MobileViTConfig",
        "MobileViTForImageClassification",
        {"image_size": 64, "hidden_sizes": [32, 40, 48], "neck_hidden_sizes": [8, 16, 24, 32, 40, 48, 64]},
        partial(_picture, side=64),
    ),
    _Family(
        "mobilevitv2",
        "MobileViTV2Config",
        "MobileViTV2ForImageClassification",
        {"image_size": 64, "width_multiplier": 0.25},
        partial(_picture, side=64),
    ),
    _Family(
        "mobilenet-v1-hf",
        "MobileNetV1Config",
        "MobileNetV1ForImageClassification",
        {"image_size": 64},
        partial(_picture, side=64),
    ),
    _Family(
        "mobilenet-v2-hf",
        "MobileNetV2Config",
        "MobileNetV2ForImageClassification",
        {"image_size": 64},
        partial(_picture, side=64),
    ),
    _Family(
        "levit",
        "LevitConfig",
        "LevitForImageClassification",
        {
            "image_size": 64,
            "hidden_sizes": [32, 48, 64],
            "num_attention_heads": [2, 3, 4],
            "depths": [1, 1, 1],
            "key_dim": [8, 8, 8],
        },
        partial(_picture, side=64),
    ),
    _Family(
        "hiera",
        "HieraConfig",
        "HieraForImageClassification",
        {"embed_dim": 16, "image_size": [64, 64], "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8]},
        partial(_picture, side=64),
    ),
    _Family(
        "dpt",
        "DPTConfig",
        "DPTForDepthEstimation",
        {
            **_IMAGE,
            "num_hidden_layers": 4,
            "backbone_out_indices": [0, 1, 2, 3],
            "neck_hidden_sizes": [16, 16, 32, 32],
            "fusion_hidden_size": 16,
        },
        _picture,
    ),
    _Family("clip", "CLIPConfig", "CLIPModel", _CLIP_PARTS, _text_and_picture),
    _Family(
        "siglip",
        "SiglipConfig",
        "SiglipModel",
        {"text_config": _TEXT, "vision_config": _IMAGE},
        _text_and_picture,
    ),
    _Family("vilt", "ViltConfig", "ViltModel", {**_TEXT, **_IMAGE}, _text_and_picture),
    _Family(
        "videomae", "VideoMAEConfig", "VideoMAEForVideoClassification", {**_IMAGE, "num_frames": 2}, _clip
    ),
    _Family(
        "timesformer",
        "TimesformerConfig",
        "TimesformerForVideoClassification",
        {**_IMAGE, "num_frames": 2},
        _clip,
    ),
    _Family(
        "whisper",
        "WhisperConfig",
        "WhisperForConditionalGeneration",
        {
            **_SEQ2SEQ,
            "num_mel_bins": 16,
            "max_source_positions": 20,
            "max_target_positions": 20,
            "use_cache": False,
        },
        _spectrum,
    ),
    _Family("wav2vec2", "Wav2Vec2Config", "Wav2Vec2ForSequenceClassification", _SPEECH, _sound),
    _Family("hubert", "HubertConfig", "HubertForSequenceClassification", _SPEECH, _sound),
    _Family("wavlm", "WavLMConfig", "WavLMForSequenceClassification", _SPEECH, _sound),
    _Family("sew", "SEWConfig", "SEWForSequenceClassification", {**_SPEECH, "squeeze_factor": 2}, _sound),
    _Family(
        "audio-spectrogram",
        "ASTConfig",
        "ASTForAudioClassification",
        {**_IMAGE, "max_length": 64, "num_mel_bins": 32, "frequency_stride": 8, "time_stride": 8},
        _spectrogram,
    ),
    _Family(
        "yolos",
        "YolosConfig",
        "YolosForObjectDetection",
        {**_IMAGE, "image_size": [32, 32], "num_detection_tokens": 5},
        _picture,
    ),
    _Family(
        "rt-detr-resnet",
        "RTDetrResNetConfig",
        "RTDetrResNetBackbone",
        {**_STAGES, "embedding_size": 16},
        partial(_picture, side=64),
    ),
)


LARGE = (
    _Family("sam-vision-base", "SamVisionConfig", "SamVisionModel", {}, partial(_picture, side=1024)),
    _Family("hiera-base", "HieraConfig", "HieraModel", {}, partial(_picture, side=224)),
)
"""Encoders in the size that they are used in, which is that of their default configuration; not among the cases of the zoo."""


def _make(family: _Family) -> nn.Module:
    import transformers

    settings = dict(family.settings)
    config = getattr(transformers, family.config)(**settings)
    return getattr(transformers, family.model)(config)


def transformers_cases(families: tuple[_Family, ...] = FAMILIES) -> list[Case]:
    """Return the cases of families; transformers must be installed."""
    vision_ops.define()  # transformers imports torchvision where it is installed
    return [
        Case(
            family.name,
            "transformers",
            partial(_make, family),
            partial(family.inputs, 1),
            partial(family.inputs, 1),
            partial(family.inputs, 2),
        )
        for family in families
    ]
