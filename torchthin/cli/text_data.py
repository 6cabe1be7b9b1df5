"""``--data`` of a model of transformers: a text, which the tokenizer of its folder reads, or rows of token ids."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torchthin.cli.model_args import ModelArgs
from torchthin.cli.pretrained import folder_of
from torchthin.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from torchthin.graph.inputs import Inputs

_TEXT = ".txt"
_ROWS = (".npy", ".pt", ".pth")


def read_tokens(
    data: str, model: nn.Module, like: Inputs, source: ModelArgs, most: int
) -> list[Inputs] | None:
    """Return the batches of a text or of a file of token ids; None where the data are something else.

    Args:
        data: what ``--data`` names.
        model: of transformers, or another one.
        like: example inputs, in which tokens take the place of all tokens.
        source: where the model came from.
        most: rows.

    Raises:
        ConfigError: a text for a model without a tokenizer. `InputError`: it cannot be read, or is too short.
    """
    from torchthin.config import Pixels
    from torchthin.io.data_sources import read_file
    from torchthin.pruning.pretrained.texts import as_tokens, open_tokenizer, rows_of, token_batches

    folder, ending = folder_of(source.model_factory), Path(data).suffix
    if ending == _TEXT:
        if folder is None:
            raise ConfigError(
                f"A text is --data of a model hf:FOLDER, which has a tokenizer. Got {data}; give token ids as a .npy file."
            )
        tokenizer = open_tokenizer(folder, trust_remote_code=source.trust_remote_code)
        longest = getattr(getattr(model, "config", None), "max_position_embeddings", None)
        longest = max(longest - 2, 1) if isinstance(longest, int) else None  # some count positions from 2
        return token_batches(like, rows_of(data, tokenizer, most, longest))
    if folder is None or ending not in _ROWS or not Path(data).is_file():
        return None
    rows = as_tokens(read_file(Path(data), like, most, Pixels()))
    return None if rows is None else token_batches(like, rows[:most])
