"""Small models of transformers with random weights, and what they do: shared by tests and by a program without torchthin."""

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from zoo import vision_ops

with warnings.catch_warnings():  # of torchvision and transformers
    warnings.simplefilter("ignore")
    vision_ops.define()
    import transformers as T

VOCABULARY = 96
TEXT = {"input_ids": torch.randint(3, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(1))}
PICTURES = {"pixel_values": torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))}
PAIR = {**TEXT, "decoder_input_ids": TEXT["input_ids"][:, :5]}
_WORDS = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 4}
_GROUPED = {**_WORDS, **_LAYERS, "hidden_size": 32, "intermediate_size": 48, "num_key_value_heads": 2}


@dataclass(frozen=True)
class Family:
    """One architecture: its loader, how a small one is made, and what it takes."""

    auto: str
    make: Callable[[], Any]
    inputs: dict[str, torch.Tensor]
    heads: bool = False
    """Whether its configuration has heads of a width of their own, so that fewer of them can be described."""
    kind: str = "mlp"
    """What a test cuts."""

    def model(self) -> Any:
        torch.manual_seed(0)
        return self.make().eval()

    @property
    def example(self) -> dict[str, Any]:
        return (
            self.inputs
            if self.auto in {"AutoModel", "AutoModelForImageClassification"}
            else {**self.inputs, "use_cache": False}
        )


FAMILIES = {
    "llama": Family(
        "AutoModelForCausalLM", lambda: T.LlamaForCausalLM(T.LlamaConfig(**_GROUPED)), TEXT, heads=True
    ),
    "qwen3": Family(
        "AutoModelForCausalLM",
        lambda: T.Qwen3ForCausalLM(T.Qwen3Config(**_GROUPED, head_dim=8, tie_word_embeddings=True)),
        TEXT,
        heads=True,
    ),
    "mixtral": Family(
        "AutoModelForCausalLM",
        lambda: T.MixtralForCausalLM(T.MixtralConfig(**_GROUPED, num_local_experts=4, num_experts_per_tok=2)),
        TEXT,
        kind="experts",
    ),
    "gpt-oss": Family(
        "AutoModelForCausalLM",
        lambda: T.GptOssForCausalLM(
            T.GptOssConfig(**_GROUPED, head_dim=8, num_local_experts=4, num_experts_per_tok=2)
        ),
        TEXT,
        kind="experts",
    ),
    "gpt2": Family(
        "AutoModelForCausalLM",
        lambda: T.GPT2LMHeadModel(T.GPT2Config(**_WORDS, n_embd=32, n_layer=2, n_head=4, n_positions=64)),
        TEXT,
    ),
    "bert": Family(
        "AutoModel",
        lambda: T.BertModel(T.BertConfig(**_WORDS, **_LAYERS, hidden_size=32, intermediate_size=48)),
        TEXT,
    ),
    "bart": Family(
        "AutoModelForSeq2SeqLM",
        lambda: T.BartForConditionalGeneration(
            T.BartConfig(
                **_WORDS, d_model=32, encoder_ffn_dim=48, decoder_ffn_dim=40, encoder_layers=2, decoder_layers=2,
                encoder_attention_heads=4, decoder_attention_heads=4, max_position_embeddings=64,
                decoder_start_token_id=2, forced_eos_token_id=None,
            )
        ),
        PAIR,
    ),
    "t5": Family(
        "AutoModelForSeq2SeqLM",
        lambda: T.T5ForConditionalGeneration(
            T.T5Config(**_WORDS, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0)
        ),
        PAIR,
        heads=True,
    ),
    "vit": Family(
        "AutoModelForImageClassification",
        lambda: T.ViTForImageClassification(
            T.ViTConfig(**_LAYERS, hidden_size=32, intermediate_size=48, image_size=16, patch_size=8)
        ),
        PICTURES,
    ),
}  # fmt: skip


def behaviour(family: Family, model: Any) -> dict[str, torch.Tensor]:
    """Return outputs, generated tokens (with and without cache, with padding on the left), and outputs after a step."""
    model.eval()
    seen = {"outputs": _outputs(model, family.inputs)}
    if family.auto in {"AutoModelForCausalLM", "AutoModelForSeq2SeqLM"}:
        padded = {
            "input_ids": TEXT["input_ids"].clone(),
            "attention_mask": torch.ones(2, 9, dtype=torch.long),
        }
        padded["input_ids"][0, :3], padded["attention_mask"][0, :3] = 0, 0
        for name, given in {"whole": TEXT, "padded": padded}.items():
            for cache in (True, False):
                seen[f"tokens, {name}, cache {cache}"] = model.generate(
                    **given, do_sample=False, min_new_tokens=6, max_new_tokens=6, use_cache=cache
                )
        if family.auto == "AutoModelForCausalLM":
            seen["padded"] = _outputs(model, padded)[:, 3:]
    model.requires_grad_(True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    first = model(**family.inputs)[0]
    first.square().mean().backward()
    optimizer.step()
    return {**seen, "after a step": _outputs(model, family.inputs)}


def _outputs(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs)[0]
