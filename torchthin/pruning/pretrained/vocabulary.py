"""Fewer tokens: rows of the embedding and of the head, the configuration and the tokenizer, for texts that use the rest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from torchthin.errors import ConfigError, InputError, ProofError
from torchthin.io.pretrained.token_ids import ids_in
from torchthin.io.pretrained.tokenizer_json import TokenTable
from torchthin.pruning.pretrained.fewer_rows import compared, configs_of, with_rows
from torchthin.pruning.pretrained.save import SHARD, check_pretrained, write_pretrained
from torchthin.pruning.pretrained.small_tokenizer import (
    compare_texts,
    entries_of,
    save_tokenizer,
    small_tokenizer,
)
from torchthin.thinning.proof.verdict import Proof


@dataclass(frozen=True)
class VocabularyResult:
    """A model with fewer tokens, its tokenizer, and the comparison with the model of all tokens."""

    model: nn.Module
    tokenizer: Any
    """None where none was given."""
    kept: tuple[int, ...]
    """The old id of every new one."""
    size: int
    """Tokens before."""
    proof: Proof
    """The outputs of both models for kept tokens, scores of kept tokens alone."""

    def __str__(self) -> str:
        return f"{len(self.kept):,} of {self.size:,} tokens kept. {self.proof}"

    def save_pretrained(self, folder: str | Path, *, max_shard_size: str = SHARD) -> None:
        """Write a folder that the loaders of transformers read: model, configuration and tokenizer.

        Raises:
            CheckpointError: the folder cannot be written; nothing is left.
        """
        more = partial(save_tokenizer, self.tokenizer)
        write_pretrained(
            self.model, folder, None, None, described=True, max_shard_size=max_shard_size, more=more
        )


def keep_tokens(
    model: Any,
    ids: Iterable[int] = (),
    *,
    tokenizer: Any = None,
    texts: Iterable[str] = (),
    round_to: int = 1,
) -> VocabularyResult:
    """Return a copy of a model of transformers that knows only some tokens: a smaller embedding, a smaller head.

    Kept are `ids`, what `tokenizer` makes of `texts`, what these tokens are made of (pieces that byte-pair encoding joins,
    single letters), special and added tokens, and those that the configuration names. For texts of kept tokens the model
    computes what it did, without the scores of removed tokens; it generates the same as long as no removed token would win.

    Args:
        model: of transformers; it is left as it is.
        ids: tokens to keep by their numbers.
        tokenizer: a fast tokenizer of the model (one with a ``tokenizer.json``), of which a smaller one is made.
        texts: what the smaller model will read and write, as much as there is; each is written with the same tokens by the new
            tokenizer, which is checked.
        round_to: the number of kept tokens is filled up to a multiple with the first of the others, such as 64 for GPUs.

    Raises:
        ConfigError: the model is not one of transformers, or texts are given without a tokenizer.
        InputError: ids are out of range, the tokenizer is not a fast one, or no field of the configuration sets the number of
            tokens.
        ProofError: the smaller model or tokenizer does something else.
    """
    check_pretrained(model, "keep_tokens")
    texts, size = list(texts), _size(model)
    if texts and tokenizer is None:
        raise ConfigError("The texts of keep_tokens need the model's tokenizer. Give tokenizer, or ids.")
    if not isinstance(round_to, int) or round_to < 1:
        raise ConfigError(f"The round_to of keep_tokens must be at least 1. Got {round_to}.")
    wanted = _checked(ids, size)
    if not wanted and not texts:
        raise ConfigError(
            "There is nothing that keep_tokens should keep. Give ids, or texts and the tokenizer."
        )
    table = None if tokenizer is None else TokenTable(entries_of(tokenizer))
    written = tokenizer(texts)["input_ids"] if texts else []
    wanted |= {number for ids_of_text in written for number in ids_of_text}
    for config in configs_of(model):
        wanted |= ids_in(config.to_dict(), size)
    kept = _complete(wanted, table, size, round_to)
    new_tokenizer = None
    if table is not None:
        new_tokenizer = small_tokenizer(tokenizer, table, kept)
        compare_texts(new_tokenizer, texts, written, kept)
    smaller = with_rows(model, kept, size)
    proof = compared(model, smaller, kept, size)
    if not proof.holds:
        raise ProofError(f"The model of fewer tokens is another one: {proof}. Give other tokens to keep.")
    return VocabularyResult(smaller, new_tokenizer, tuple(kept), size, proof)


def _size(model: Any) -> int:
    table = getattr(model.get_input_embeddings(), "weight", None)
    if not isinstance(table, Tensor):
        raise InputError(
            f"{type(model).__name__} has no embedding of tokens. Give keep_tokens a model of texts."
        )
    return len(table)


def _checked(ids: Iterable[int], size: int) -> set[int]:
    wanted = set(ids)
    wrong = next((number for number in wanted if not isinstance(number, int) or not 0 <= number < size), None)
    if wrong is not None:
        raise InputError(
            f"The ids of keep_tokens must be in 0 to {size - 1}, the rows of the embedding. Got {wrong!r}."
        )
    return wanted


def _complete(wanted: set[int], table: TokenTable | None, size: int, round_to: int) -> list[int]:
    """Return the ids with all that they are made of, filled up to a multiple of `round_to`, ascending."""

    def made_of(number: int) -> set[int]:
        return {number} if table is None else table.made_of(number)

    kept = set[int]()
    for number in wanted | (set() if table is None else table.always()):
        kept |= made_of(number)
    if max(kept) >= size:
        raise InputError(
            f"The tokenizer must be the model's. It has a token with the id {max(kept)}, the embedding has {size} rows."
        )
    for number in range(size):
        if len(kept) % round_to == 0:
            break
        kept |= made_of(number)
    return sorted(kept)
