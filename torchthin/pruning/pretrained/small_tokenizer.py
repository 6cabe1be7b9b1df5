"""A tokenizer of transformers with fewer tokens, loaded from its own files."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchthin.config.files import parse_json, read_text
from torchthin.errors import InputError, ProofError, one_line
from torchthin.io.pretrained.quiet import quiet_transformers
from torchthin.io.pretrained.tokenizer_json import TokenTable

_TOKENS = "tokenizer.json"
_SETTINGS = "tokenizer_config.json"
_LISTS = ("vocab", "merges", "added_tokens", "tokenizer.model", "spiece", "sentencepiece", "source", "target")
"""How files with all tokens begin, which slow tokenizers read."""
_NAMES = (*_LISTS, "tokenizer", "special_tokens_map")
_ENDINGS = (".json", ".txt", ".model", ".vocab", ".bpe", ".tiktoken")
_SHOWN = 40
"""Letters of a text in a message."""


def entries_of(tokenizer: Any) -> dict[str, Any]:
    """Return what ``tokenizer.json`` of a tokenizer holds.

    Raises:
        InputError: it is not a fast tokenizer.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise InputError(
            f"The tokenizer must be a fast one, which has a tokenizer.json. Got {type(tokenizer).__name__}; "
            "give ids instead of texts, and renumber them yourself."
        )
    return json.loads(backend.to_str())  # type: ignore[no-any-return]


def has_tokens(folder: Path) -> bool:
    """Whether a folder has the tokens of a tokenizer."""
    return any(path.name.startswith((_TOKENS, *_LISTS)) for path in folder.iterdir())


def small_tokenizer(tokenizer: Any, table: TokenTable, kept: Sequence[int]) -> Any:
    """Return a tokenizer of the same class with the tokens `kept`, numbered 0, 1, 2 and so on.

    Raises:
        ProofError: its class does not load what was made.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_tokenizer(tokenizer, folder)
        (folder / _TOKENS).write_text(json.dumps(table.smaller(kept), ensure_ascii=False), encoding="utf-8")
        settings = parse_json(read_text(folder / _SETTINGS))
        if "added_tokens_decoder" in settings:
            new = {str(old): str(number) for number, old in enumerate(kept)}
            added = settings["added_tokens_decoder"]
            settings["added_tokens_decoder"] = {new[i]: token for i, token in added.items() if i in new}
            (folder / _SETTINGS).write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")
        try:
            with quiet_transformers():
                return type(tokenizer).from_pretrained(str(folder))
        except Exception as error:  # whatever the class raises
            raise ProofError(
                f"The smaller tokenizer does not load as {type(tokenizer).__name__}: {one_line(error)}. "
                "Give ids instead of texts and tokenizer."
            ) from error


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write a tokenizer's files in place of those that are there; None: leave none that would have other ids."""
    for path in folder.iterdir():
        if path.name.startswith(_NAMES) and path.suffix in _ENDINGS:
            path.unlink()
    if tokenizer is not None:
        tokenizer.save_pretrained(str(folder))
        for path in folder.iterdir():
            if path.name.startswith(_LISTS):
                path.unlink()


def compare_texts(
    smaller: Any, texts: Sequence[str], written: Sequence[Sequence[int]], kept: Sequence[int]
) -> None:
    """Check that a smaller tokenizer writes every text with the same tokens.

    Args:
        smaller: the tokenizer.
        texts: any.
        written: the old ids of each.
        kept: the old id of every new one.

    Raises:
        ProofError: naming a text that it writes otherwise.
    """
    found = smaller(texts)["input_ids"] if texts else []
    for text, old, new in zip(texts, written, found, strict=True):
        if [kept[number] for number in new] != list(old):
            raise ProofError(
                f"The smaller tokenizer writes {text[:_SHOWN]!r} with other tokens than the one that was given. "
                "Give ids instead of texts and tokenizer."
            )
