"""Look at a pickle without loading it: which globals it names, and whether it is sound enough to be loaded.

A pickle is a program for a small stack machine. Its own words can make Python's unpickler reserve gigabytes
(a memo index of four thousand million, a byte array longer than the file), so a damaged or hostile one is
found here, before.
"""

from __future__ import annotations

import pickle
import pickletools
from collections.abc import Iterable, Iterator
from typing import IO, Any

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
_REFUSED = {"BYTEARRAY8", "NEXT_BUFFER", "READONLY_BUFFER", "EXT1", "EXT2", "EXT4"}
_PUTS = {"PUT", "BINPUT", "LONG_BINPUT"}
_GETS = {"GET", "BINGET", "LONG_BINGET"}


def named_globals(file: IO[bytes]) -> Iterator[Global]:
    """Yield the globals that the pickle at the file's position names, and leave the file behind it.

    Raises ``ValueError`` or ``UnpicklingError`` where it is no sound pickle.
    """
    texts: list[Any] = ["", ""]  # STACK_GLOBAL takes the two strings that were pushed last
    memo: dict[int, Any] = {}
    start = file.tell()
    argument: Any
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in _REFUSED:
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


def code_runner(names: Iterable[Global]) -> str | None:
    """Return the first of `names` that serves only to run code, with its module, or None."""
    for module, name in names:
        builtin = module in ("builtins", "__builtin__") and name in _CODE_RUNNING_BUILTINS
        if builtin or module.split(".")[0] in _CODE_RUNNERS:
            return one_line(module, name)
    return None


def one_line(module: str, name: str) -> str:
    """Return ``module.name`` for a message; a damaged file may have any character in it."""
    return " ".join(f"{module}.{name}".split())
