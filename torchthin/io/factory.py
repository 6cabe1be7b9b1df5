"""Build the user's model from ``package.module:function`` or ``path/to/file.py:function``."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from torchthin.config.files import regular
from torchthin.errors import FactoryError, near_matches, one_line


def build_model(factory: str, args: Mapping[str, Any] | None = None) -> nn.Module:
    """Call a factory and return its model.

    `factory` is ``package.module:function`` or ``path/to/file.py:function``; the function may be a class, or
    an attribute of one (``module:Net.small``). While it is imported and called, the current directory and the
    file's folder can be imported from. `args` are its keyword arguments.

    Raises:
        FactoryError: it cannot be imported or called, lacks arguments, raises, or returns no
        ``torch.nn.Module``.
    """
    with named_function(factory, "model factory") as function:
        if isinstance(function, nn.Module):
            raise FactoryError(
                f"The model factory {factory} must be a function that returns a model. It is a model; wrap it "
                "in a function."
            )
        arguments = dict(args or {})
        _refuse_wrong_arguments(function, arguments, factory)
        _choose_ai8x_device(factory)
        try:
            model = function(**arguments)
        except (Exception, SystemExit) as error:
            raise FactoryError(
                f"The model factory {factory} raised {one_line(error)}.{_argument_asked_for(error, function, arguments)} "
                "Use --debug for the traceback."
            ) from error
    if not isinstance(model, nn.Module):
        raise FactoryError(
            f"The model factory {factory} must return a torch.nn.Module. It returned {type(model).__name__}."
        )
    return model


def _choose_ai8x_device(factory: str) -> None:
    """Choose the chip in ADI's ai8x, where nobody has: its layers cannot be made before. ai87 in a name is the MAX78002."""
    ai8x: Any = sys.modules.get("ai8x")
    if ai8x is not None and getattr(ai8x, "dev", ...) is None and callable(getattr(ai8x, "set_device", None)):
        ai8x.set_device(
            87 if "ai87" in factory.lower() else 85, simulate=False, round_avg=False, verbose=False
        )


def _argument_asked_for(
    error: BaseException, function: Callable[..., object], given: Mapping[str, Any]
) -> str:
    """Return how to give the argument that an error names in backticks, if the factory takes it."""
    named = re.search(r"`(\w+)`", str(error))
    if named is None or named[1] in given:
        return ""
    try:
        inspect.signature(function).bind_partial(**{named[1]: None})
    except (TypeError, ValueError):
        return ""
    return f""" Give --factory-args '{{"{named[1]}": ...}}'."""


@contextlib.contextmanager
def named_function(reference: str, role: str) -> Iterator[Callable[..., Any]]:
    """Give the function that ``package.module:function`` or ``path/to/file.py:function`` names.

    Inside the ``with``, the current directory and the file's folder can be imported from: call the function there.
    `role` is what messages call it, such as "model factory".

    Raises:
        FactoryError: it cannot be imported, does not exist, or is no function.
    """
    source, separator, attribute = reference.rpartition(":")
    if not (separator and source and attribute):
        raise FactoryError(
            f"The {role} must be package.module:function or path/to/file.py:function. Got {reference!r}."
        )
    folders = [Path.cwd()]
    if source.endswith(".py"):
        folders.insert(0, Path(source).absolute().parent)
    label = f"{role} {reference}"
    with _importable(folders):
        yield _find(_import(source, label), attribute, label)


@contextlib.contextmanager
def _importable(folders: list[Path]) -> Iterator[None]:
    added = [str(folder) for folder in folders if str(folder) not in sys.path]
    sys.path[:0] = added
    try:
        yield
    finally:
        for folder in added:
            with contextlib.suppress(ValueError):  # the factory's own code may have taken it out
                sys.path.remove(folder)


def _import(source: str, label: str) -> ModuleType:
    try:
        return _import_file(Path(source)) if source.endswith(".py") else importlib.import_module(source)
    except (Exception, SystemExit) as error:
        if (
            isinstance(error, ModuleNotFoundError)
            and error.name
            and f"{source}.".startswith(f"{error.name}.")
        ):
            why = f"there is no module {error.name} here or among the installed packages"
        elif isinstance(error, FileNotFoundError) and error.filename == str(Path(source).absolute()):
            why = "there is no such file"
        else:
            why = f"importing it raised {one_line(error)}"
        raise FactoryError(
            f"The {label} cannot be imported: {why}. Check the name and the folder."
        ) from error


def _import_file(path: Path) -> ModuleType:
    path = regular(path.absolute())
    # A name of its own: the file may be called like an installed package.
    name = f"torchthin_factory_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling look the module up by name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _find(module: ModuleType, attribute: str, label: str) -> Callable[..., object]:
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            callables = [
                name for name, value in vars(found).items() if callable(value) and not name.startswith("_")
            ]
            raise FactoryError(
                f"The {label} does not exist: {_place(found)} has no {part!r}.{near_matches(part, callables)}"
            )
        found = getattr(found, part)
    if not callable(found):
        raise FactoryError(f"The {label} must be a function. It is of type {type(found).__name__}.")
    return found  # type: ignore[no-any-return]


def _place(found: object) -> str:
    path = getattr(found, "__file__", None)
    return Path(path).name if path else str(getattr(found, "__name__", found))


def _refuse_wrong_arguments(function: Callable[..., object], arguments: dict[str, Any], factory: str) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # some built-in callables have none; calling them tells
    try:
        signature.bind(**arguments)
    except TypeError as error:
        needed = [
            name
            for name, parameter in signature.parameters.items()
            if parameter.default is parameter.empty
            and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        ]
        example = "{" + ", ".join(f'"{name}": ...' for name in needed) + "}"
        cure = f"Give them as --factory-args '{example}'" if needed else f"It takes {signature}"
        raise FactoryError(f"The model factory {factory} cannot be called: {error}. {cure}.") from error
