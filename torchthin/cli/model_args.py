"""The model that a command works on: built by its factory, with the weights of a checkpoint, example inputs and a device."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torchthin.cli.console import Console
from torchthin.cli.pretrained import check_source, folder_of, open_folder
from torchthin.config import option
from torchthin.errors import ConfigError, near_matches

if TYPE_CHECKING:
    import torch
    from torch import nn

    from torchthin.io.checkpoints import Checkpoint

DATASET_SHAPES: dict[str, tuple[int, int, int]] = {
    "imagenet": (3, 224, 224), "cifar10": (3, 32, 32), "cifar100": (3, 32, 32), "svhn": (3, 32, 32), "stl10": (3, 96, 96),
    "mnist": (1, 28, 28), "fashionmnist": (1, 28, 28), "kmnist": (1, 28, 28), "emnist": (1, 28, 28), "usps": (1, 16, 16),
}  # fmt: skip
"""Image size (channels, height, width) of data sets, by torchvision's class names in small letters."""
_DTYPES = (
    "float16", "bfloat16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64", "bool",
)  # fmt: skip
_FACTORY = "MODULE:FUNCTION"


@dataclass(frozen=True)
class ModelArgs:
    """Which model, with which weights and inputs, and where it runs."""

    model_factory: str = option(
        None,
        "--model-factory",
        "function that returns the model: package.module:function or path/to/file.py:function; or hf:FOLDER, a model of "
        "transformers on this machine",
        _FACTORY,
    )
    """Empty where no model is needed; None, where none was given, is refused."""
    factory_args: Mapping[str, Any] | None = option(
        None,
        "--factory-args",
        """keyword arguments of the factory, such as '{"num_classes": 10}'""",
        "JSON",
    )
    checkpoint: str | None = option(
        None,
        "--checkpoint",
        "its weights: a torch checkpoint, .safetensors, or a folder of those as Hugging Face has them (without it: as the "
        "factory made them)",
        "FILE",
    )
    dataset: str | None = option(
        None, "--dataset", "data set whose image size the model takes, such as cifar10", "NAME"
    )
    input_shape: tuple[str, ...] = option(
        (), "--input-shape", "example input of the model, one for each argument of forward", "N,C,H,W[:DTYPE]"
    )
    device: str = option("cpu", "--device", "cpu, cuda, cuda:1, mps (default: cpu)")
    trust_remote_code: bool = option(
        False, "--trust-remote-code", "run the code that the configuration of hf:FOLDER names"
    )

    def __post_init__(self) -> None:
        factory: Any = self.model_factory
        if factory is not None:
            own = {"--factory-args": self.factory_args, "--checkpoint": self.checkpoint}
            check_source(folder_of(factory), own, trusted=self.trust_remote_code)
            return
        taken = [value for value in self.input_shape if not value[:1].isdigit() and ":" in value]
        if taken:
            raise ConfigError(
                f"The --input-shape took {taken[0]}, which is no shape. Put the model before the flags, or give it as "
                f"--model-factory {taken[0]}."
            )
        raise ConfigError(
            "A model factory is needed. Give --model-factory package.module:function or path/to/file.py:function, or hf:FOLDER."
        )

    @property
    def files(self) -> dict[str, str | None]:
        """What is read of it, as `torchthin.cli.files.refuse_same_files` takes it."""
        folder = folder_of(self.model_factory)
        return {
            "the checkpoint itself": self.checkpoint,
            "the model's own": folder or self.model_factory.rpartition(":")[0] or None,
        }

    def build(self) -> nn.Module:
        """Return the model of full size as its factory makes it, or what its folder holds.

        Raises:
            InputError: the factory or the folder cannot be used.
        """
        from torchthin.io.factory import build_model

        folder = folder_of(self.model_factory)
        if folder is not None:
            return open_folder(folder, trusted=self.trust_remote_code)
        return build_model(self.model_factory, self.factory_args)

    def inputs(self) -> tuple[torch.Tensor, ...] | None:
        """Return the example inputs on the device: for each shape (``1,3,128,128``, ``1,16:int64``), else of the data set.

        Floating inputs are normal random numbers, whole ones 0 or 1; always the same ones.

        Raises:
            ConfigError: a shape, dtype, data set or device is unknown, or this machine has no such device.
        """
        from torchthin.graph.inputs import from_shapes

        device = usable_device(self.device)
        by_dataset = () if self.dataset is None else (_dataset_shape(self.dataset),)
        shapes = [_parsed(shape) for shape in self.input_shape or by_dataset]
        return tuple(value.to(device) for value in from_shapes(shapes).args) or None

    def load_model(self, console: Console) -> tuple[nn.Module, Checkpoint | None]:
        """Read the checkpoint, build the model, and load the one into the other; the model is on the device.

        Raises:
            InputError: the factory or the checkpoint cannot be used, or they do not fit.
        """
        from torchthin.io.checkpoints import are_large, read_checkpoint
        from torchthin.io.empty import build_empty
        from torchthin.pruning.save_and_load import fill_

        device = usable_device(self.device)
        checkpoint = None if self.checkpoint is None else read_checkpoint(self.checkpoint)
        mapped = checkpoint is not None and are_large(checkpoint.path)
        model = (
            build_empty(self.build, checkpoint.state_dict.values()) if checkpoint and mapped else self.build()
        )
        if folder_of(self.model_factory) is not None:
            console.say(f"Read {folder_of(self.model_factory)} ({type(model).__name__}).")
        elif checkpoint is None:
            console.say("No --checkpoint: the weights are as the model factory made them.")
        else:
            checkpoint = fill_(model, checkpoint)
            if mapped:
                console.say(
                    "The weights stay in their files, and are read and pruned in the types that they have there."
                )
            epoch = f" (epoch {checkpoint.epoch})" if checkpoint.epoch else ""
            console.say(f"Read {checkpoint.path}{epoch}.")
            if checkpoint.skipped:
                skipped = ", ".join(checkpoint.skipped)
                console.say(f"Not read, since loading foreign classes can run code: {skipped}.")
        return on_device(model, device), checkpoint

    def load(self, console: Console | None = None) -> tuple[nn.Module, Any]:
        """Return the model and its example inputs. Without a console, only a checkpoint that was read is reported.

        Raises:
            ConfigError: no inputs were given, and the model is none of transformers, which says itself what it takes.
            InputError: something given cannot be used.
        """
        from torchthin.graph.own_example import own_example

        inputs: Any = self.inputs()
        if inputs is None and folder_of(self.model_factory) is None:
            raise ConfigError(
                "Example inputs are needed: the model is run on them. Give --input-shape 1,3,224,224 or --dataset."
            )
        model, _ = self.load_model(console or Console(quiet=self.checkpoint is None))
        return model, own_example(model) if inputs is None else inputs


@dataclass(frozen=True)
class PositionalModelArgs(ModelArgs):
    """The same, with the factory by position or as a flag."""

    model: str | None = option(
        None, "model", "function that returns the model, or hf:FOLDER, as --model-factory", _FACTORY
    )

    def __post_init__(self) -> None:
        if self.model is not None and self.model_factory is not None:
            raise ConfigError(
                f"The model must be given once. Got {self.model} and --model-factory {self.model_factory}."
            )
        object.__setattr__(self, "model_factory", self.model or self.model_factory)
        super().__post_init__()


def _dataset_shape(dataset: str) -> str:
    name = re.sub(r"[-_ ]", "", dataset.lower())
    if name not in DATASET_SHAPES:
        raise ConfigError(
            f"The dataset must be one of {', '.join(DATASET_SHAPES)}. Got "
            f"{dataset!r}.{near_matches(name, DATASET_SHAPES)} "
            "Or give the model's input as --input-shape."
        )
    return ",".join(map(str, (1, *DATASET_SHAPES[name])))


def _parsed(text: str) -> tuple[tuple[int, ...], torch.dtype]:
    """Return the sizes and the dtype of an input shape."""
    import torch

    sizes, _, dtype = text.partition(":")
    if not re.fullmatch(r"\d+(,\d+)*(:.+)?", text) or 0 in (shape := tuple(map(int, sizes.split(",")))):
        raise ConfigError(
            f"An input shape must be sizes such as 1,3,128,128, with a dtype as in 1,16:int64. Got {text!r}."
        )
    if math.prod(shape) > 2**31:
        raise ConfigError(f"An input shape must have at most 2**31 entries. Got {text!r}.")
    dtype = dtype or "float32"
    if dtype not in _DTYPES:
        raise ConfigError(
            f"The dtype of an input shape must be one of {', '.join(_DTYPES)}. Got {dtype!r}.{near_matches(dtype, _DTYPES)}"
        )
    return shape, getattr(torch, dtype)


def on_device(model: nn.Module, device: torch.device) -> nn.Module:
    """Return `model` moved to `device`; a model on the meta device has no values to move, and is returned as it is."""
    return model if any(parameter.is_meta for parameter in model.parameters()) else model.to(device)


def usable_device(name: str) -> torch.device:
    """Return the device called `name`.

    Raises:
        ConfigError: there is no such kind of device, or this machine has none.
    """
    import torch

    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise ConfigError(f"The device must be cpu, cuda, cuda:<number> or mps. Got {name!r}.")
    device = torch.device(name)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("The device mps is not available here. Use --device cpu.")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not count:
            raise ConfigError(
                f"The device {name} is not available here: torch sees no CUDA GPU. Use --device cpu."
            )
        if device.index is not None and device.index >= count:
            raise ConfigError(f"The device must be one of cuda:0 to cuda:{count - 1}. Got {name!r}.")
    return device
