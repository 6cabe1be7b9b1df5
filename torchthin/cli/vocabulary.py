"""``torchthin vocabulary``: a folder of transformers with the tokens that some texts use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchthin.cli.console import printing
from torchthin.cli.flags_from_fields import Command, json_option
from torchthin.cli.pretrained import PREFIX, folder_of, open_folder
from torchthin.config import option
from torchthin.errors import ConfigError, InputError

if TYPE_CHECKING:
    from torchthin.thinning.proof.verdict import Proof


@dataclass(frozen=True)
class VocabularyOptions:
    """Which tokens stay."""

    model: str | None = option(
        None, "model", "hf:FOLDER, a model of transformers with its tokenizer", "hf:FOLDER"
    )
    texts: tuple[str, ...] = option(
        (), "--texts", "files of the texts that the smaller model will read and write, one in a line", "FILE"
    )
    tokens: str | None = option(
        None,
        "--tokens",
        "file of more tokens to keep, one in a line: as the tokenizer writes it, or its id",
        "FILE",
    )
    round_to: int = option(
        1, "--round-to", "fill up with other tokens to a multiple, such as 64 for GPUs (default: 1)", "N"
    )
    save_to: str | None = option(None, "--save-to", "new folder to write", "FOLDER")
    trust_remote_code: bool = option(
        False, "--trust-remote-code", "run the code that the configuration of hf:FOLDER names"
    )
    json: bool = json_option()

    def __post_init__(self) -> None:
        if folder_of(self.model) is None:
            raise ConfigError(
                f"The model must be a folder of transformers, {PREFIX}FOLDER. Got {self.model}."
            )
        if not self.texts and self.tokens is None:
            raise ConfigError("Which tokens stay must be said. Give --texts FILE, --tokens FILE, or both.")
        if self.save_to is None:
            raise ConfigError("The folder to write is needed. Give --save-to FOLDER.")


@dataclass(frozen=True)
class Cut:
    """What was kept, and how both models compare."""

    kept: int
    size: int
    parameters: int
    parameters_before: int
    proof: Proof
    saved_to: str

    def to_dict(self) -> dict[str, Any]:
        """Return all facts as JSON types."""
        return {**vars(self), "proof": self.proof.to_dict()}

    def __str__(self) -> str:
        share = self.parameters / self.parameters_before
        return (
            f"{self.kept:,} of {self.size:,} tokens kept, {self.parameters:,} of {self.parameters_before:,} parameters "
            f"({share:.0%}).\n{self.proof}\nSaved {self.saved_to}."
        )


def _vocabulary(options: VocabularyOptions) -> Cut:
    from torchthin.pruning.pretrained.files import check_folder
    from torchthin.pruning.pretrained.texts import lines_of, open_tokenizer
    from torchthin.pruning.pretrained.vocabulary import keep_tokens

    folder, target = str(folder_of(options.model)), str(options.save_to)
    check_folder(target)
    texts = [line for path in options.texts for line in lines_of(path)]
    model: Any = open_folder(folder, trusted=options.trust_remote_code)
    tokenizer = open_tokenizer(folder, trust_remote_code=options.trust_remote_code)
    ids = () if options.tokens is None else _ids(options.tokens, tokenizer)
    result = keep_tokens(model, ids, tokenizer=tokenizer, texts=texts, round_to=options.round_to)
    result.save_pretrained(target)
    after, before = (sum(each.numel() for each in net.parameters()) for net in (result.model, model))
    return Cut(len(result.kept), result.size, after, before, result.proof, target)


def _ids(path: str, tokenizer: Any) -> list[int]:
    """Return the ids of the tokens in a file."""
    from torchthin.pruning.pretrained.texts import lines_of

    known, found = tokenizer.get_vocab(), list[int]()
    for line in lines_of(path):
        token = line.strip()
        if token not in known and not token.isdecimal():
            raise InputError(
                f"Every line of {Path(path)} must be a token of the tokenizer, or an id. Got {token!r}."
            )
        found.append(known[token] if token in known else int(token))
    return found


COMMAND = Command.of(
    "Take tokens out of a model of transformers and of its tokenizer: those that given texts do not use.",
    """\
example:
  %(prog)s hf:my-bert --texts german.txt --save-to my-bert-german
""",
    VocabularyOptions,
    printing(_vocabulary),
)
