"""``tokenizer.json`` with fewer tokens: texts that were written with the remaining ones are written with the same ones still."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from torchthin.errors import InputError

_MODELS = ("BPE", "WordPiece", "WordLevel", "Unigram")
_ENDS = ("sep", "cls")
"""Where the processors of BERT and RoBERTa have a token and its id."""
_BYTES = [f"<0x{number:02X}>" for number in range(256)]


class TokenTable:
    """The tokens of a ``tokenizer.json``, and what each of them is made of.

    Raises:
        InputError: the file is of a kind of tokenizer that is not known.
    """

    def __init__(self, entries: Mapping[str, Any]) -> None:
        self.entries = entries
        self.model: Mapping[str, Any] = entries["model"]
        kind = self.model.get("type")
        if kind not in _MODELS:
            raise InputError(
                f"The tokenizer must be one of {', '.join(_MODELS)} for tokens to be taken out. It is {kind}; keep all tokens."
            )
        table = self.model["vocab"]
        self.names = (
            {number: piece for number, (piece, _) in enumerate(table)}
            if kind == "Unigram"
            else {number: name for name, number in table.items()}
        )
        self.ids = {name: number for number, name in self.names.items()}
        self._ranks = {pair: rank for rank, pair in enumerate(_merges(self.model))}

    def always(self) -> set[int]:
        """Return the ids of tokens that no text has to use: added and special ones, the unknown one, single bytes."""
        found = {int(token["id"]) for token in self.entries.get("added_tokens") or ()}
        unknown = self.model.get("unk_id", self.ids.get(self.model.get("unk_token") or ""))
        found |= set() if unknown is None else {unknown}
        found |= set(_processor_ids(self.entries.get("post_processor")))
        padding = self.entries.get("padding")
        found |= {padding["pad_id"]} if isinstance(padding, dict) else set()
        letters = _byte_letters() if "ByteLevel" in set(_types(self.entries)) else ()
        return found | {self.ids[name] for name in (*_BYTES, *letters) if name in self.ids}

    def made_of(self, number: int) -> set[int]:
        """Return the ids of the tokens that a token is made of, itself and its single letters among them."""
        name = self.names.get(number)
        if name is None:  # an added token, or a row of the model that the tokenizer has no token for
            return {number}
        parts = self._letters(name)
        found = {name, *parts}
        while self._ranks and len(parts) > 1:
            rank, place = min(
                (self._ranks.get((a, b), len(self._ranks)), i) for i, (a, b) in enumerate(pairwise(parts))
            )
            if rank == len(self._ranks):
                break
            parts[place : place + 2] = [self._joined(parts[place], parts[place + 1])]
            found.add(parts[place])
        return {self.ids[part] for part in found if part in self.ids}

    def smaller(self, kept: Sequence[int]) -> dict[str, Any]:
        """Return the file's entries with the tokens `kept`, whose ids become 0, 1, 2 and so on.

        Args:
            kept: old ids, ascending.
        """
        new = {old: number for number, old in enumerate(kept)}
        made = copy.deepcopy(dict(self.entries))
        model = made["model"]
        if model["type"] == "Unigram":
            model["vocab"] = [item for number, item in enumerate(model["vocab"]) if number in new]
            model["unk_id"] = new.get(model.get("unk_id"))
        else:
            model["vocab"] = {name: new[number] for name, number in model["vocab"].items() if number in new}
        if "merges" in model:
            pairs = zip(model["merges"], _merges(self.model), strict=True)
            stay = {name for name, number in self.ids.items() if number in new}
            model["merges"] = [item for item, (a, b) in pairs if {a, b, self._joined(a, b)} <= stay]
        made["added_tokens"] = [
            {**token, "id": new[token["id"]]}
            for token in made.get("added_tokens") or ()
            if token["id"] in new
        ]
        if isinstance(made.get("padding"), dict):
            made["padding"]["pad_id"] = new[made["padding"]["pad_id"]]
        _renumber_processor_(made.get("post_processor"), new)
        return made

    def _letters(self, name: str) -> list[str]:
        """Return what a token is joined of at first: letters with the marks of their place in a word."""
        before = self.model.get("continuing_subword_prefix") or ""
        after = self.model.get("end_of_word_suffix") or ""
        start = len(before) if before and name.startswith(before) else 0
        end = len(name) - len(after) if after and name.endswith(after) else len(name)
        letters = list(name[start:end])
        if not letters:
            return [name]
        letters[1:] = [before + letter for letter in letters[1:]]
        letters[0] = name[:start] + letters[0]
        letters[-1] += name[end:]
        return letters

    def _joined(self, a: str, b: str) -> str:
        return a + b.removeprefix(self.model.get("continuing_subword_prefix") or "")


def _merges(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the pairs that byte-pair encoding joins, in their order; files have them as pairs or as texts."""
    merges = model.get("merges") or ()
    pairs = [item.split(" ") if isinstance(item, str) else item for item in merges]
    return [(first, second) for first, second in pairs]


def _types(entries: Any) -> Iterator[str]:
    if isinstance(entries, dict):
        if isinstance(entries.get("type"), str):
            yield entries["type"]
        for key, value in entries.items():
            if key != "model":
                yield from _types(value)
    elif isinstance(entries, list):
        for value in entries:
            yield from _types(value)


def _byte_letters() -> Iterable[str]:
    from tokenizers.pre_tokenizers import ByteLevel

    return ByteLevel.alphabet()


def _processor_ids(processor: Any) -> Iterator[int]:
    """Yield the ids that are put around texts."""
    if isinstance(processor, dict):
        for each in processor.get("processors") or ():
            yield from _processor_ids(each)
        for token in _templates(processor):
            yield from token["ids"]
        for key in _ENDS:
            if isinstance(processor.get(key), list):
                yield processor[key][1]


def _renumber_processor_(processor: Any, new: Mapping[int, int]) -> None:
    if isinstance(processor, dict):
        for each in processor.get("processors") or ():
            _renumber_processor_(each, new)
        for token in _templates(processor):
            token["ids"] = [new[number] for number in token["ids"]]
        for key in _ENDS:
            if isinstance(processor.get(key), list):
                processor[key][1] = new[processor[key][1]]


def _templates(processor: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    tokens = processor.get("special_tokens")
    return tokens.values() if isinstance(tokens, dict) else ()
