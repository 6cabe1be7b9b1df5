"""What a model is evaluated on and recovered from: calibration data, and the user's metric."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torchthin.cli.flags_from_fields import part
from torchthin.config import Pixels, Recovery, option
from torchthin.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from torchthin.cli.console import Console
    from torchthin.cli.model_args import ModelArgs
    from torchthin.evaluation.evaluator import Metric
    from torchthin.io.calibration import Calibration


def data_option(use: str, default: str) -> Any:
    """Return the field of ``--data``; `use` and `default` complete its help."""
    return option(
        None,
        "--data",
        f"calibration data without labels, for {use}: a .npy or .pt file, a folder of pictures, module:function, or noise; of "
        "hf:FOLDER also a .txt file, or token ids (n, length) "
        f"(default: {default})",
        "SOURCE",
    )


@dataclass(frozen=True)
class DataArgs:
    """Calibration data without labels, and whether a thinned model is recovered from them."""

    data: str | None = data_option("criteria that need it and for recovery", "none")
    pixels: Pixels = part("data")
    recover: bool = option(
        True, "--no-recover", "use --data for criteria only (default: --thin with --data refits the layers)"
    )
    recovery: Recovery = part("recovery of a thinned model from --data")

    def read(self, model: nn.Module, inputs: Any, source: ModelArgs, console: Console) -> Calibration | None:
        """Read the data once, for criteria and recovery; None where none was named.

        Args:
            model: what they are for.
            inputs: example inputs that were given.
            source: where the model came from: a folder of transformers has a tokenizer for texts.
            console: shows how far noise is fitted to the model.

        Raises:
            InputError: the data cannot be read or do not fit the model.
        """
        if self.data is None:
            return None
        from torchthin.cli.text_data import read_tokens
        from torchthin.graph.inputs import as_inputs
        from torchthin.graph.own_example import own_example
        from torchthin.io.calibration import calibration

        example = own_example(model) if inputs is None else inputs
        if example is None:
            raise ConfigError(
                "The option --data needs the model's input. Give --input-shape 1,3,128,128 or --dataset."
            )
        limit, like = self.recovery.max_samples, as_inputs(example)
        tokens = read_tokens(self.data, model, like, source, limit)
        if tokens:
            return calibration(tokens, like=tokens[0], max_samples=limit)
        with console.progress("noise", "steps") as progress:
            return calibration(
                self.data, like=like, max_samples=limit, pixels=self.pixels, model=model, progress=progress
            )


@dataclass(frozen=True)
class MetricArgs:
    """What says how good a model is."""

    metric: str | None = option(
        None,
        "--metric",
        "function(model) that returns a number, higher is better (default: distance to the dense outputs on --data)",
        "MODULE:FUNCTION",
    )
    workers: int = option(
        1, "--workers", "processes that evaluate, of one thread each if several (default: 1)", "N"
    )


@contextlib.contextmanager
def named_metric(reference: str | None) -> Iterator[Metric | None]:
    """Give the function that was named; what it imports is found within the block."""
    if reference is None:
        yield None
        return
    from torchthin.io.factory import named_function

    with named_function(reference, "metric") as function:
        yield function
