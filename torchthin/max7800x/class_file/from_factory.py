"""A Python file that builds the user's own class and makes it smaller: for models that are no chain of layers."""

from __future__ import annotations

import inspect
import keyword
import pprint
import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from torchthin.errors import InputError, ProofError, one_line
from torchthin.graph.inputs import Inputs, as_inputs, on_device_of
from torchthin.io.factory import named_function
from torchthin.max7800x.class_file.expressions import is_ai8x
from torchthin.max7800x.class_file.written import built_from
from torchthin.report.record import version
from torchthin.thinning.history import recipe_of
from torchthin.thinning.proof.verdict import verify
from torchthin.thinning.recipe import Recipe

_TEXT = '''"""{kind} at the widths that it was thinned to, written by torchthin {version}.

The class is built at full size and made smaller; its state dict is that of the thinned model.
"""

{imports}

import torch
from torch import nn

ARGUMENTS = {arguments}
KEPT = {kept}
"""Of a tensor's axes: how many entries stay, or which (of what no state dict holds)."""
NUMBERS = {numbers}
"""Numbers that modules keep."""
BIASES = {biases}
"""Biases that layers got, and their shapes."""


def {name}(pretrained: bool = False, **kwargs: object) -> nn.Module:
    """Return the model; keyword arguments that are fixed in ARGUMENTS stay so."""
    assert not pretrained
    model = {call}
    for path, axes in KEPT.items():
        tensor = _holder(model, path)[path.rpartition(".")[2]]
        for axis, kept in axes.items():
            indices = torch.tensor(kept) if isinstance(kept, list) else torch.arange(kept)
            tensor.data = tensor.data.index_select(axis, indices.to(tensor.device))
    for path, shape in BIASES.items():
        module, _, name = path.rpartition(".")
        setattr(model.get_submodule(module), name, nn.Parameter(torch.zeros(shape)))
    for path, values in NUMBERS.items():
        module = model.get_submodule(path)
        for name, value in values.items():
            first, *keys = name.split(".")
            setattr(module, first, _exchanged(getattr(module, first), keys, value))
    return model


def _holder(model: nn.Module, path: str) -> dict:
    module = model.get_submodule(path.rpartition(".")[0])
    return {{**module._parameters, **module._buffers}}


def _exchanged(held: object, keys: list, value: object) -> object:
    """Return what is held with another value at the end of the keys."""
    if not keys:
        return value
    key, *rest = keys
    if isinstance(held, (list, tuple)):
        parts = list(held)
        parts[int(key)] = _exchanged(parts[int(key)], rest, value)
        return type(held)(parts)
    if isinstance(held, dict):
        key = key if key in held else int(key)
        held[key] = _exchanged(held[key], rest, value)
    else:
        setattr(held, key, _exchanged(getattr(held, key), rest, value))
    return held
'''
_TRAIN_PY = """

models = [{{"name": "{name}", "min_input": 1, "dim": {axes}}}]
"""


def factory_source(
    model: nn.Module, factory: str, arguments: Mapping[str, Any] | None, example_inputs: Any
) -> tuple[str, str]:
    """Return the name of a function and the text of the file that defines it, after running it once.

    The function builds what `factory` builds, makes it as small as `model`, and its state dict is that of `model`. Files with
    ai8x layers also hold what train.py looks for in its folder of models. Nothing of torchthin is needed to run it.

    Args:
        model: a thinned model.
        factory: ``package.module:function`` or ``path/to/file.py:function`` that builds it at full size.
        arguments: of the factory.
        example_inputs: of the model.

    Raises:
        InputError: the file cannot be made of this model.
        ProofError: the function that was written builds another model.
    """
    recipe = recipe_of(model) or Recipe({}, {})
    inputs = on_device_of(model, as_inputs(example_inputs))
    name = _name(factory)
    saved = model.state_dict().keys()
    with named_function(factory, "model factory") as function:
        call = _call(function)
    text = _TEXT.format(
        kind=type(model).__name__,
        version=version(),
        imports=_imports(factory),
        name=name,
        call=call,
        arguments=_literal(dict(arguments or {})),
        kept=_literal(
            {tensor: _kept(axes, listed=tensor not in saved) for tensor, axes in recipe.keep.items()}
        ),
        numbers=_literal({path: dict(values) for path, values in recipe.attributes.items()}),
        biases=_literal({path: list(shape) for path, shape in recipe.added.items()}),
    )
    if any(is_ai8x(module) for module in model.modules()):
        axes = max(next(inputs.tensors()).dim() - 2, 1)
        text += _TRAIN_PY.format(name=name, axes=axes)
    _check(name, text, factory, model, inputs)
    return name, text


def _name(factory: str) -> str:
    name = re.sub(r"\W", "_", f"thin{factory.rpartition(':')[2]}".lower())
    return f"{name}_" if keyword.iskeyword(name) else name


def _imports(factory: str) -> str:
    """Return the lines that import the factory as FACTORY."""
    source, _, attribute = factory.rpartition(":")
    if not source.endswith(".py"):
        return f'import importlib\n\nFACTORY = importlib.import_module("{source}").{attribute}'
    return (
        "import importlib.util\n\n"
        f'_SPEC = importlib.util.spec_from_file_location("full_size", {source!r})\n'
        "_MODULE = importlib.util.module_from_spec(_SPEC)\n_SPEC.loader.exec_module(_MODULE)\n"
        f"FACTORY = _MODULE.{attribute}"
    )


def _call(function: Callable[..., object]) -> str:
    """Return how the factory is called: with the options of train.py where it takes any."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return "FACTORY(**ARGUMENTS)"
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    return "FACTORY(**{**kwargs, **ARGUMENTS})" if takes_all else "FACTORY(**ARGUMENTS)"


def _kept(axes: Mapping[int, tuple[int, ...]], *, listed: bool) -> dict[int, int | list[int]]:
    return {axis: list(kept) if listed else len(kept) for axis, kept in axes.items()}


def _literal(value: Any) -> str:
    return pprint.pformat(value, width=120, sort_dicts=False)


def _check(name: str, text: str, factory: str, model: nn.Module, inputs: Inputs) -> None:
    """Run the text, load the state dict strictly, and compare the outputs."""
    try:
        with named_function(factory, "model factory"):
            made = built_from(text, name, model)
    except Exception as error:
        raise InputError(
            f"No class file can be written: what {factory} builds does not become the thin model ({one_line(error)}). "
            "Use --save-to and torchthin.load."
        ) from error
    proof = verify(model, made, inputs)
    if not proof.holds:
        raise ProofError(
            f"The class file as written builds another model than the thin one, so it was not kept: {proof.sentence()}. "
            "Use --save-to and torchthin.load."
        )
