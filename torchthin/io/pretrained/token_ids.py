"""Ids of tokens in a configuration: which there are, and the same configuration for other ids."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from torchthin.io.pretrained.fields import Field, numbers_of, with_numbers

_ID = re.compile(r"(^|_)token_ids?$|_token_index$|_to_id$|^(pad|bos|eos|unk|mask|sep|cls)_index$")
"""Fields with ids of tokens that a model asks for."""
_LIST = re.compile(r"suppress_tokens$|^(bad|force)_words_ids$")
"""Fields with tokens that a model must not or must write: removed ones fall out."""


def ids_in(config: Mapping[str, Any], size: int) -> set[int]:
    """Return the ids below `size` that fields of a configuration (made a dict) name, and that have to stay."""
    return {number for _, number in _named(config) if 0 <= number < size}


def renumbered(config: Mapping[str, Any], new: Mapping[int, int], size: int) -> dict[str, Any]:
    """Return a configuration with new ids in place of those below `size`; what is no id of a token stays as it is."""
    made = with_numbers(config, {field: new[n] for field, n in _named(config) if 0 <= n < size})
    for key, value in made.items():
        if isinstance(value, list) and _LIST.search(str(key)):
            made[key] = [item for item in (_mapped(each, new) for each in value) if item is not None]
    return made


def _mapped(item: Any, new: Mapping[int, int]) -> Any:
    """Return an id, or a list of ids that is one word, by the new ids; None where one of them is gone."""
    if isinstance(item, list):
        ids = [new.get(number) for number in item]
        return None if None in ids else ids
    return new.get(item)


def _named(config: Mapping[str, Any]) -> Iterator[tuple[Field, int]]:
    """Yield the numbers that are ids of tokens by the names of their fields."""
    for field, value in numbers_of(config):
        if type(value) is int and any(isinstance(key, str) and _ID.search(key) for key in field):
            yield field, value
