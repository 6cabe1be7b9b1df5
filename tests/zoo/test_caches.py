"""Models of transformers as they are built return caches: these are cut, and generation with them is the masked model's."""

import copy
import warnings
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

import torchthin
from torchthin.selection.masks import apply_masks_

_SPECIAL = {"vocab_size": 50, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_WIDTH = {"hidden_size": 32, "num_hidden_layers": 1}
_ATTENTION = {"num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 32}
_BART = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "max_position_embeddings": 32,
    "decoder_start_token_id": 1,
}
_BART_SIZES = {
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
}
_GRIFFIN = {**_WIDTH, **_ATTENTION, "num_hidden_layers": 3, "lru_width": 32}

MODELS: Mapping[str, tuple[str, str, Mapping[str, Any], str]] = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", {**_WIDTH, **_ATTENTION, "num_key_value_heads": 2}, "k_proj"),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", {"n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 32}, "c_attn"),
    "bart": ("BartConfig", "BartForConditionalGeneration", {**_BART, **_BART_SIZES}, "self_attn.k_proj"),
    "mamba": ("MambaConfig", "MambaForCausalLM", {**_WIDTH, "state_size": 4}, "conv1d"),
    "recurrent-gemma": (
        "RecurrentGemmaConfig", "RecurrentGemmaForCausalLM",
        {**_GRIFFIN, "num_key_value_heads": 1, "attention_window_size": 16}, "conv_1d",
    ),
}  # fmt: skip
"""Name -> class of configuration, class of model, sizes, a layer that makes a state."""


@pytest.fixture(autouse=True)
def _foreign_warnings() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _built(name: str) -> nn.Module:
    from zoo import vision_ops

    vision_ops.define()
    import transformers

    config, kind, sizes, _ = MODELS[name]
    torch.manual_seed(0)
    model: nn.Module = getattr(transformers, kind)(getattr(transformers, config)(**_SPECIAL, **sizes))
    with torch.no_grad():
        for parameter in model.parameters():  # what is drawn by default is too small for tokens to differ
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


@pytest.mark.parametrize("name", MODELS)
def test_states_are_cut_and_generation_is_the_masked_models(name: str) -> None:
    model = _built(name)
    ids = torch.randint(3, 50, (2, 9), generator=torch.Generator().manual_seed(1))
    example = {"input_ids": ids, "decoder_input_ids": ids[:, :5]} if name == "bart" else {"input_ids": ids}

    result = torchthin.prune(model, example, 0.5, exact=True, include=["*"])

    assert result.proof is not None and result.proof.exact
    before, after = ({n: p.numel() for n, p in net.named_parameters()} for net in (model, result.model))
    layers = [n for n in before if MODELS[name][3] in n and n.endswith("weight")]
    assert layers and all(after[n] < before[n] for n in layers)
    masked = copy.deepcopy(model)
    apply_masks_(masked, result.masks)
    how = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    tokens: Any = [net.generate(input_ids=ids, **how) for net in (masked, result.model)]  # type: ignore[operator]
    uncached: Any = result.model.generate(input_ids=ids, use_cache=False, **how)  # type: ignore[operator]
    assert torch.equal(*tokens)
    assert torch.equal(tokens[1], uncached)
