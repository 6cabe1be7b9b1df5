"""Read a pickle without running anything it names.

``weights_only=True`` refuses a whole file for one foreign class, and training checkpoints often hold one (the
optimizer's class, a thinning recipe). Here tensors are rebuilt by functions of this module, and every other
global the pickle names becomes a :class:`Foreign` placeholder: it can be called, filled and given state, and
does nothing.
"""

from __future__ import annotations

import contextlib
import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import torch

from torchthin.errors import CheckpointError
from torchthin.io.checkpoints.checksums import record_bytes
from torchthin.io.checkpoints.opcodes import Global, code_runner, named_globals, one_line

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
_LARGEST_PICKLE = 2**24
_STORAGE_MODULES = ("torch", "torch.storage")


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

    def __init__(self, file: IO[bytes], storage: Callable[[str], torch.Tensor]) -> None:
        super().__init__(file)
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        """Return the known object, or a placeholder class for ``module.name``."""
        if module in _STORAGE_MODULES and name in _STORAGE_DTYPES:
            return _STORAGE_DTYPES[name]
        if (module, name) in _KNOWN:
            return _KNOWN[module, name]
        if f"{module}.{name}" == StoredRecipe.origin:
            return StoredRecipe
        return type("Foreign", (Foreign,), {"origin": one_line(module, name)})

    def persistent_load(self, pid: Any) -> torch.Tensor:
        """Return the flat tensor of a storage: pid is ("storage", dtype, key, location, numel, ...)."""
        kind, dtype, key = pid[:3]
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"storage of kind {kind!r}")
        return self._storage(key).view(dtype)


def read_zip(path: Path) -> object:
    """Return what the torch archive at `path` holds, on the CPU, with placeholders for what is foreign.

    Raises:
        CheckpointError: the archive names something that serves only to run code. A damaged archive provokes
        all sorts of other exceptions (``BadZipFile``, ``KeyError``, ``UnpicklingError`` ...).
    """
    with zipfile.ZipFile(path) as archive:
        root = next(n for n in archive.namelist() if n.endswith("/data.pkl")).removesuffix("data.pkl")
        if (
            f"{root}byteorder" in archive.namelist()
            and record_bytes(archive, f"{root}byteorder") != b"little"
        ):
            raise pickle.UnpicklingError("written on a big-endian machine")
        flat: dict[str, torch.Tensor] = {}

        def storage(key: str) -> torch.Tensor:
            if key not in flat:
                data = bytearray(record_bytes(archive, f"{root}data/{key}"))
                flat[key] = (
                    torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
                )
            return flat[key]

        program = io.BytesIO(record_bytes(archive, f"{root}data.pkl"))
        refuse_code_runners(path, named_globals(program))
        program.seek(0)
        return InertUnpickler(program, storage).load()


def refuse_code_runners(path: Path, names: Iterable[Global]) -> None:
    """Raise CheckpointError when one of `names` serves only to run code; all of `names` is gone through."""
    if (runner := code_runner(list(names))) is not None:
        raise CheckpointError(
            f"The checkpoint {path} is refused: it would run code ({runner}). Do not open it elsewhere."
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
        if (module, own) not in _KNOWN and not (module in _STORAGE_MODULES and own in _STORAGE_DTYPES):
            raise CheckpointError(
                f"The checkpoint {path} is refused: it holds the class {one_line(module, own)}, and loading that "
                "can run code. Save model.state_dict() instead."
            )
