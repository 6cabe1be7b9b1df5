"""Texts and tokens as calibration data of a model of transformers: rows of token ids, as long as the model is calibrated on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchthin.config.files import read_text
from torchthin.errors import InputError, one_line
from torchthin.graph.inputs import Inputs
from torchthin.io.atomic import reason
from torchthin.io.data_sources import BATCH
from torchthin.pruning.pretrained.small_tokenizer import has_tokens

ROW = 128
"""Tokens in a row of a text, where the model takes as many."""


def open_tokenizer(folder: str | Path, *, trust_remote_code: bool = False) -> Any:
    """Return the tokenizer of a folder of transformers.

    Raises:
        InputError: there is none, or it does not load.
    """
    from transformers import AutoTokenizer

    if not has_tokens(Path(folder)):  # a loader may make one of no tokens
        raise InputError(f"The folder {folder} must have the model's tokenizer. It has no tokenizer.json.")
    try:
        return AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=trust_remote_code
        )
    except Exception as error:  # whatever the class raises
        raise InputError(f"The tokenizer of {folder} does not load: {one_line(error)}.") from error


def lines_of(path: str | Path) -> list[str]:
    """Return the lines of a text that are not empty.

    Raises:
        InputError: the file cannot be read, or is no UTF-8.
    """
    try:
        return [line for line in read_text(path).splitlines() if line.strip()]
    except OSError as error:
        raise InputError(f"The text file {path} cannot be read: {reason(error)}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"The text file {path} must be UTF-8: {error}.") from error


def rows_of(path: str | Path, tokenizer: Any, most: int, longest: int | None) -> Tensor:
    """Return the tokens of a text as at most `most` rows of equal length (n, length); what is left of them is left out.

    Args:
        path: of the text.
        tokenizer: of the model.
        most: rows.
        longest: as many tokens as the model takes at most, where it says.

    Raises:
        InputError: the text has too few tokens.
    """
    ids, length = list[int](), min(ROW, longest or ROW)
    for line in lines_of(path):
        ids += tokenizer(line)["input_ids"]
        if len(ids) >= most * length:
            break
    if len(ids) < length:
        raise InputError(
            f"The text {path} must have at least {length} tokens. It has {len(ids)}; give a longer one."
        )
    rows = min(most, len(ids) // length)
    return torch.tensor(ids[: rows * length]).view(rows, length)


def as_tokens(source: Any) -> Tensor | None:
    """Return what a file holds as rows of token ids; None where it holds something else."""
    rows = (
        torch.from_numpy(source) if isinstance(source, np.ndarray) and source.dtype.kind in "iu" else source
    )
    whole = isinstance(rows, Tensor) and rows.dim() == 2 and not rows.is_floating_point()
    return rows.long() if whole and rows.dtype != torch.bool and rows.numel() else None


def token_batches(like: Inputs, rows: Tensor) -> list[Inputs]:
    """Return rows of tokens as inputs like the example's: they take the place of all tokens in it.

    Raises:
        InputError: the model takes no tokens.
    """
    if not any(map(_are_tokens, like.tensors())):
        raise InputError("A text is calibration data of a model that takes tokens. This one takes none.")
    chunks = rows.split(BATCH)
    return [
        like.map(lambda tensor, chunk=chunk: chunk.to(tensor) if _are_tokens(tensor) else tensor)  # type: ignore[misc]
        for chunk in chunks
    ]


def _are_tokens(tensor: Tensor) -> bool:
    return tensor.dim() == 2 and not tensor.is_floating_point() and tensor.dtype != torch.bool
