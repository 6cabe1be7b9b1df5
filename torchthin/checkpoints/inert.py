"""Read a pickle without running anything it names.

``weights_only=True`` refuses a whole file for one foreign class, and training checkpoints often hold one (the
optimizer's class, a thinning recipe). Here tensors are rebuilt by functions of this module, and every other
global the pickle names becomes a :class:`Foreign` placeholder: it can be called, filled and given state, and
does nothing.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import torch

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
_STORAGE_MODULES = ("torch", "torch.storage")
# Naming one of these has no purpose in a checkpoint but to run code, so the file as a whole is refused.
_CODE_RUNNERS = {
    "os", "posix", "nt", "subprocess", "sys", "shutil", "runpy", "importlib", "socket", "pty", "ctypes",
    "code", "codeop", "commands", "webbrowser", "pip", "timeit", "pdb", "asyncio", "multiprocessing",
}  # fmt: skip
_CODE_RUNNING_BUILTINS = {
    "eval",
    "exec",
    "compile",
    "open",
    "__import__",
    "getattr",
    "setattr",
    "delattr",
    "breakpoint",
}


class Foreign:
    """Stands for a class or function the reader does not know, and for whatever that would have made."""

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
        """Take no notice."""

    extend = add = append


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


def _tensor_v3(
    flat: torch.Tensor,
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    requires_grad: bool,
    hooks: object,
    dtype: torch.dtype,
    metadata: object = None,
) -> torch.Tensor:
    return _tensor(flat.view(dtype), offset, size, stride, requires_grad, hooks, metadata)


def _parameter(data: torch.Tensor, *rest: object) -> torch.Tensor:
    return data


def _bytes(text: str, encoding: str) -> bytes:
    return text.encode("latin1")  # how protocol 2 writes bytes; no other codec is looked up


_KNOWN: Mapping[tuple[str, str], object] = {
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


class InertUnpickler(pickle.Unpickler):
    """Unpickles tensors and plain types; everything else turns into :class:`Foreign`."""

    def __init__(
        self, file: IO[bytes], storage: Callable[[str, torch.dtype], torch.Tensor] | None = None
    ) -> None:
        super().__init__(file)
        self._storage = storage
        self.foreign: dict[tuple[str, str], type[Foreign]] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return the known object, or a placeholder class for ``module.name``."""
        known = (module, name) in _KNOWN or (module in _STORAGE_MODULES and name in _STORAGE_DTYPES)
        if known and self._storage is None:
            return Foreign  # only names are wanted; nothing is built
        if module in _STORAGE_MODULES and name in _STORAGE_DTYPES:
            return _STORAGE_DTYPES[name]
        if (module, name) in _KNOWN:
            return _KNOWN[module, name]
        return self.foreign.setdefault(
            (module, name), type("Foreign", (Foreign,), {"origin": f"{module}.{name}"})
        )

    def persistent_load(self, pid: Any) -> object:
        """Return the flat tensor of a storage: pid is ("storage", dtype, key, location, numel, ...)."""
        if self._storage is None:
            return Foreign()
        kind, dtype, key = pid[:3]
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"storage of kind {kind!r}")
        return self._storage(key, dtype)

    def code_runner(self) -> str | None:
        """Return the first named global that serves only to run code, or None."""
        for module, name in self.foreign:
            builtin = module in ("builtins", "__builtin__") and name in _CODE_RUNNING_BUILTINS
            if builtin or module.split(".")[0] in _CODE_RUNNERS:
                return f"{module}.{name}"
        return None


def read_zip(path: Path) -> tuple[object, InertUnpickler]:
    """Return what the torch archive at `path` holds, on the CPU, with placeholders for what is foreign.

    Raises whatever a damaged archive provokes (``BadZipFile``, ``KeyError``, ``UnpicklingError`` ...).
    """
    with zipfile.ZipFile(path) as archive:
        root = next(n for n in archive.namelist() if n.endswith("/data.pkl")).removesuffix("data.pkl")
        if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
            raise pickle.UnpicklingError("written on a big-endian machine")
        flat: dict[str, torch.Tensor] = {}

        def storage(key: str, dtype: torch.dtype) -> torch.Tensor:
            if key not in flat:
                data = bytearray(archive.read(f"{root}data/{key}"))
                flat[key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
            return flat[key].view(dtype)

        with archive.open(f"{root}data.pkl") as file:
            unpickler = InertUnpickler(file, storage)
            return unpickler.load(), unpickler


def name_foreign(path: Path) -> InertUnpickler:
    """Go through the pickles of a file that is no archive, only to learn which globals they name.

    The pre-1.6 torch format is four pickles (magic number, protocol, system, object), then raw storages.
    """
    with path.open("rb") as file:
        for _ in range(4):
            unpickler = InertUnpickler(file)
            try:
                unpickler.load()
            except (
                Exception
            ):  # whatever follows the pickles is not one; the names seen so far are what is wanted
                break
            if unpickler.foreign:
                break
    return unpickler
