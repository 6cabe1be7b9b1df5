"""A Python file with the class of a thinned model: run once to see that it computes the same, then written."""

from __future__ import annotations

import keyword
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchthin.errors import CheckpointError, InputError, ProofError, one_line
from torchthin.graph.clone import clone, duplicate
from torchthin.graph.inputs import Inputs, as_inputs, call, on_device_of
from torchthin.io.atomic import check_destination, write_whole
from torchthin.max7800x.class_file.chain import FLATTEN, KEEP, RELU, follow, layers_of
from torchthin.max7800x.class_file.expressions import AI8X_HOMES, expression, is_ai8x
from torchthin.max7800x.class_file.written import built_from
from torchthin.report.record import version

_HOLDERS = (nn.Sequential, nn.ModuleList)
_CLASS = '''"""{kind} at the widths that it was thinned to, written by torchthin {version}."""

{imports}


class {name}(nn.{base}):
    """A chain of layers; written for an input of {shape}. Its state dict is that of the thinned model."""

    def __init__(self) -> None:
        super().__init__()
{building}

    def forward(self, x: Tensor) -> Tensor:
{steps}
        return x
'''
_FOR_TRAIN_PY = '''

def {function}(pretrained: bool = False, **kwargs: object) -> {name}:
    """Return the model; sizes and options that train.py gives are fixed here."""
    assert not pretrained
    return {name}()


models = [{{"name": "{function}", "min_input": 1, "dim": {axes}}}]
'''
"""The function and the list by which ai8x-training finds a model in its folder."""


def save_class(path: str | Path, model: nn.Module, example_inputs: Any) -> str:
    """Write a Python file with the class of `model` at its present sizes, and return the class's name.

    The class takes no arguments; ``load_state_dict(model.state_dict())`` fits it strictly. Its forward is what `model` does in
    evaluation mode. Files with ai8x layers also hold what train.py looks for in its folder of models.

    Args:
        path: file to write.
        model: a thinned model, or any plain chain of torch's and ai8x's layers.
        example_inputs: a tensor, or a tuple or dict that holds one.

    Raises:
        InputError: the model is no plain chain, or has values outside its layers; the message says where.
        ProofError: the class that was written computes something else.
        CheckpointError: the file cannot be written. After any of these nothing was written.
    """
    check_destination(path)
    name, text = class_source(model, example_inputs)
    write_source(path, text)
    return name


def write_source(path: str | Path, text: str) -> None:
    """Write the text of a class file, whole or not at all.

    Raises:
        CheckpointError: the file cannot be written.
    """
    try:
        write_whole(Path(path), lambda file: file.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(
            f"The class file {path} could not be written: {error.strerror}. Choose another place."
        ) from error


def class_source(model: nn.Module, example_inputs: Any) -> tuple[str, str]:
    """Return the name of the class and the text of the file that `save_class` writes, after running it once."""
    inputs = on_device_of(model, as_inputs(example_inputs))
    copied = clone(model, duplicate)  # hooks, and what forward stores in the model, do not reach the caller's
    steps = follow(copied, inputs)
    layers = layers_of(copied)
    for key in copied.state_dict():
        if not any(key.startswith(f"{name}.") for name in layers):
            raise InputError(
                f"A class can be written for a plain chain of layers only, and {key} belongs to no known layer. {KEEP}"
            )
    kind = type(copied).__name__
    name = f"Thin{kind}" if kind.isidentifier() else "Thin"
    text = _text(name, copied, layers, steps, inputs)
    _check(name, text, copied.eval(), inputs)
    return name, text


def _text(
    name: str, model: nn.Module, layers: dict[str, nn.Module], steps: tuple[str, ...], inputs: Inputs
) -> str:
    example = next(inputs.tensors())
    homes = dict.fromkeys(AI8X_HOMES[type(m).__module__] for m in layers.values() if is_ai8x(m))
    torch_itself = ["import torch"] if RELU in steps else []
    text = _CLASS.format(
        kind=type(model).__name__,
        version=version(),
        imports="\n".join([*torch_itself, "from torch import Tensor, nn", *homes]),
        name=name,
        base="Sequential" if isinstance(model, nn.Sequential) else "Module",
        shape="x".join(map(str, example.shape)),
        building="\n".join(f"        {line}" for line in _building(model, layers)),
        steps="\n".join(
            f"        x = {step if step in (RELU, FLATTEN) else f'{_place(model, step)}(x)'}"
            for step in steps
        ),
    )
    if not homes:
        return text
    axes = max(example.dim() - 2, 1)
    return text + _FOR_TRAIN_PY.format(name=name, function=name.lower(), axes=axes)


def _building(model: nn.Module, layers: dict[str, nn.Module]) -> list[str]:
    """Return the lines that build every layer under its name, in the model's order."""
    lines: list[str] = []
    done: dict[int, str] = {}
    built: list[str] = []
    for name, module in model.named_modules(remove_duplicate=False):
        holds = any(layer.startswith(f"{name}.") for layer in layers)
        if not name or not (name in layers or holds) or any(name.startswith(f"{one}.") for one in layers):
            continue
        holder = f"nn.{(type(module) if type(module) in _HOLDERS else nn.Module).__name__}()"
        value = done.get(id(module)) or (expression(module) if name in layers else holder)
        done.setdefault(id(module), _place(model, name))
        built.append(name)
        owner, _, local = name.rpartition(".")
        if isinstance(model.get_submodule(owner), _HOLDERS):
            lines.append(f"{_place(model, owner)}.{_adding(built, owner, local)}{value})")
        else:
            lines.append(f"{_place(model, name)} = {value}")
    return lines


def _adding(built: list[str], owner: str, local: str) -> str:
    """Return the call that adds a part to a Sequential or ModuleList: by its place where all before it are there."""
    before = sum(name.rpartition(".")[0] == owner for name in built[:-1])
    return "append(" if local == str(before) else f'add_module("{local}", '


def _place(model: nn.Module, name: str) -> str:
    """Return how code of the class names a module: ``self.stem.conv``, ``self.features[3]``."""
    text, path = "self", ""
    for part in name.split(".") if name else ():
        owner = model.get_submodule(path)
        numbered = part.isdecimal() and list(owner._modules).index(part) == int(part)
        if isinstance(owner, _HOLDERS) and numbered:
            text += f"[{part}]"
        elif part.isidentifier() and not keyword.iskeyword(part):
            text += f".{part}"
        else:
            text = f'getattr({text}, "{part}")'
        path = f"{path}.{part}" if path else part
    return text


def _check(name: str, text: str, model: nn.Module, inputs: Inputs) -> None:
    """Run the text, load the state dict strictly and compare the outputs bit for bit."""
    try:
        made = built_from(text, name, model)
    except Exception as error:
        raise InputError(
            f"The class cannot be written: its layers cannot be built at the sizes of the thin model ({one_line(error)}). {KEEP}"
        ) from error
    with torch.no_grad():
        expected, found = call(model, inputs), call(made.eval(), inputs)
    if not isinstance(found, Tensor) or not torch.equal(expected, found):
        raise ProofError(
            f"The class as written computes something else than the thin model, so it was not kept. {KEEP}"
        )
