"""Pickles without running anything they name.

``weights_only=True`` refuses a whole file for one foreign class, and training checkpoints often hold one (the optimizer's
class, a thinning recipe). Here tensors are rebuilt by functions of this module, and every other global that the pickle names
becomes a :class:`Foreign` placeholder: it can be called, filled and given state, and does nothing.

A pickle is a program for a small stack machine. Its own words can make Python's unpickler reserve gigabytes (a memo index of
four thousand million, a byte array longer than the file), so its opcodes are checked before it is loaded.
"""

from __future__ import annotations

import contextlib
import io
import pickle
import pickletools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import torch

from torchthin.errors import CheckpointError

Global = tuple[str, str]
"""Module and name, such as ("torch.optim.adam", "Adam")."""

# Naming one of these has no purpose in a checkpoint but to run code, so the file as a whole is refused.
_CODE_RUNNERS = {
    "os", "posix", "nt", "subprocess", "sys", "shutil", "runpy", "importlib", "socket", "pty", "ctypes",
    "code", "codeop", "commands", "webbrowser", "pip", "timeit", "pdb", "asyncio", "multiprocessing",
}  # fmt: skip
_CODE_RUNNING_BUILTINS = {
    "eval", "exec", "compile", "open", "__import__", "getattr", "setattr", "delattr", "breakpoint",
}  # fmt: skip
_REFUSED_OPCODES = {"BYTEARRAY8", "NEXT_BUFFER", "READONLY_BUFFER", "EXT1", "EXT2", "EXT4"}
_PUTS = {"PUT", "BINPUT", "LONG_BINPUT"}
_GETS = {"GET", "BINGET", "LONG_BINGET"}
_LARGEST_PICKLE = 2**24
_STORAGE_MODULES = ("torch", "torch.storage")
_STORAGE_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}


def named_globals(file: IO[bytes]) -> Iterator[Global]:
    """Yield the globals that the pickle at the file's position names, and move the file to its end.

    Raises ``ValueError`` or ``UnpicklingError`` where it is no sound pickle.
    """
    texts: list[Any] = ["", ""]  # STACK_GLOBAL takes the two strings that were pushed last
    memo: dict[int, Any] = {}
    start = file.tell()
    argument: Any
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in _REFUSED_OPCODES:
            raise pickle.UnpicklingError(f"opcode {opcode.name}")
        if opcode.name in _PUTS or opcode.name == "MEMOIZE":
            index = len(memo) if opcode.name == "MEMOIZE" else int(argument)
            if index > file.tell() - start:  # each entry takes at least a byte
                raise pickle.UnpicklingError("memo index")
            memo[index] = texts[-1]
        elif opcode.name in _GETS:
            texts.append(memo.get(int(argument), ""))
        elif opcode.name in ("GLOBAL", "INST"):
            module, _, name = str(argument).partition(" ")
            yield module, name
        elif opcode.name == "STACK_GLOBAL":
            yield str(texts[-2]), str(texts[-1])
        elif isinstance(argument, str):
            texts.append(argument)


def refuse_code_runners(path: Path, names: Iterable[Global]) -> None:
    """Raise CheckpointError when one of `names` serves only to run code; all of `names` is consumed."""
    for module, name in list(names):
        builtin = module in ("builtins", "__builtin__") and name in _CODE_RUNNING_BUILTINS
        if builtin or module.split(".")[0] in _CODE_RUNNERS:
            raise CheckpointError(
                f"The checkpoint {path} is refused: it would run code ({_dotted(module, name)}). Do not open it elsewhere."
            )


def refuse_foreign(path: Path) -> None:
    """Raise CheckpointError when a file that is no archive names a foreign global.

    The torch format before 1.6 is four pickles (magic number, protocol, system, object), then raw storages.
    """
    names: list[Global] = []
    with path.open("rb") as file:
        start = io.BytesIO(file.read(_LARGEST_PICKLE))
    with contextlib.suppress(Exception):  # what follows the pickles is none
        for _ in range(4):
            for name in named_globals(start):
                names.append(name)  # noqa: PERF402 (what was seen before the damage counts)
    refuse_code_runners(path, names)
    for module, own in names:
        if not all(part.isidentifier() for part in f"{module}.{own}".split(".")):
            return  # a text that reads like a pickle for a while
        if _known(module, own) is None:
            raise unsafe(path, f"the class {_dotted(module, own)}")


def unsafe(path: Path, held: str) -> CheckpointError:
    """Return the error of a file whose weights cannot be read without a foreign class; `held` names it."""
    return CheckpointError(
        f"The checkpoint {path} is refused: it holds {held}, and loading that can run code. "
        "Save model.state_dict() instead."
    )


def _dotted(module: str, name: str) -> str:
    """Return ``module.name`` for a message; a damaged file may have any character in it."""
    return " ".join(f"{module}.{name}".split())


class Foreign:
    """Stands for a class or function the reader does not know, and for everything that it would have made."""

    origin = ""
    """Full name of what it stands for, such as ``torch.optim.adam.Adam``."""

    def __new__(cls, *args: object, **kwargs: object) -> Foreign:  # noqa: D102
        return super().__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None: ...

    def __call__(self, *args: object, **kwargs: object) -> Foreign:  # noqa: D102
        return self

    def __setstate__(self, state: object) -> None: ...

    def __setitem__(self, key: object, value: object) -> None: ...

    def append(self, value: object) -> None:
        """Do nothing."""

    extend = add = append


class StoredRecipe(Foreign):
    """A ``ThinningRecipe`` of Distiller, whose two parts are kept as they were read."""

    origin = "distiller.thinning.ThinningRecipe"
    modules: object
    parameters: object

    def __new__(cls, *args: object, **kwargs: object) -> StoredRecipe:  # noqa: D102
        made: StoredRecipe = super().__new__(cls)  # type: ignore[assignment]
        made.modules, made.parameters = args if len(args) == 2 else (None, None)
        return made


def foreign_origin(value: object) -> str | None:
    """Return the name of what `value` stands for when it is a placeholder (or its class), else None."""
    kind = value if isinstance(value, type) else type(value)
    return kind.origin if issubclass(kind, Foreign) else None


class _Builder:
    """A function the pickle may call and, unlike a plain function, cannot set attributes on."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., object]) -> None:
        self._function = function

    def __call__(self, *args: object) -> object:
        return self._function(*args)

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("state for a function")


def _tensor(
    flat: torch.Tensor,
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    requires_grad: bool,
    hooks: object,
    metadata: object = None,
) -> torch.Tensor:
    if metadata:
        raise pickle.UnpicklingError("tensor with metadata (conjugate or negative view)")
    return flat.as_strided(size, stride, offset)  # as_strided checks the bounds; equal storages stay shared


def _tensor_v3(flat: torch.Tensor, *layout: Any) -> torch.Tensor:
    *given, dtype = layout[:6]
    return _tensor(flat.view(dtype), *given, *layout[6:])


def _parameter(data: torch.Tensor, *rest: object) -> torch.Tensor:
    return data


def _bytes(text: str, encoding: str) -> bytes:
    return text.encode("latin1")  # how protocol 2 writes bytes; no other codec is looked up


_KNOWN: Mapping[Global, object] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): torch.Size,
    ("torch", "device"): torch.device,
    ("torch._utils", "_rebuild_tensor_v2"): _Builder(_tensor),
    ("torch._utils", "_rebuild_tensor_v3"): _Builder(_tensor_v3),
    ("torch._utils", "_rebuild_parameter"): _Builder(_parameter),
    ("torch._utils", "_rebuild_parameter_with_state"): _Builder(_parameter),
    ("_codecs", "encode"): _Builder(_bytes),
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
    **{("torch", name): dtype for name, dtype in vars(torch).items() if isinstance(dtype, torch.dtype)},
}


def _known(module: str, name: str) -> object:
    """Return what a pickle may have under that name, None for what is foreign."""
    if module in _STORAGE_MODULES and name in _STORAGE_DTYPES:
        return _STORAGE_DTYPES[name]
    return _KNOWN.get((module, name))


class SafeUnpickler(pickle.Unpickler):
    """Unpickles tensors and plain types; everything else turns into :class:`Foreign`."""

    def __init__(self, file: IO[bytes], storage: Callable[[str], torch.Tensor]) -> None:
        super().__init__(file)
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        """Return the known object, or a placeholder class for ``module.name``."""
        if (known := _known(module, name)) is not None:
            return known
        if f"{module}.{name}" == StoredRecipe.origin:
            return StoredRecipe
        return type("Foreign", (Foreign,), {"origin": _dotted(module, name)})

    def persistent_load(self, pid: Any) -> torch.Tensor:
        """Return the flat tensor of a storage: pid is ("storage", dtype, key, location, numel, ...)."""
        kind, dtype, key = pid[:3]
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"storage of kind {kind!r}")
        return self._storage(key).view(dtype)
