"""Where in a model an op is called: followed through hooks that do not touch it."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as module_hooks

from torchthin.graph.clone import modules_of
from torchthin.graph.inputs import call_on_originals
from torchthin.graph.opgraph import CallSite, Source

_LIBRARY = tuple(str(folder) + os.sep for folder in (Path(torch.__file__).parent, Path(__file__).parents[1]))


@cache
def _is_library(file: str) -> bool:
    return file.startswith(_LIBRARY)


def user_line() -> tuple[str, int]:
    """Return file and number of the innermost running line of the model that is neither torch's nor ours; ("", 0): none is."""
    frame: Any = sys._getframe(1)
    # what called the model is no part of it
    while frame is not None and frame.f_code is not call_on_originals.__code__:
        file = frame.f_code.co_filename
        if not _is_library(file):
            return file, frame.f_lineno
        frame = frame.f_back
    return "", 0


@dataclass(slots=True)
class _Frame:
    """One running call of a module."""

    module: str
    call: int
    ops: int = 0


class ModuleStack:
    """Knows which module is running, through hooks that do not touch the model."""

    def __init__(self, model: nn.Module) -> None:
        self._held = modules_of(
            model
        )  # while the model runs, no new module may get the address of one of these
        self._names = {id(module): name for name, module in self._held}
        self._calls: Counter[str] = Counter()
        self._stack: list[_Frame] = [_Frame("", 0)]
        self._thread = threading.get_ident()
        """The hooks see the modules of all threads; only this one runs the model."""

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Follow module calls inside the block."""
        enter = module_hooks.register_module_forward_pre_hook(self._enter)
        leave = module_hooks.register_module_forward_hook(self._leave, always_call=True)
        try:
            yield
        finally:
            enter.remove()
            leave.remove()
            del self._stack[1:]

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        if threading.get_ident() != self._thread:
            return
        name = self._names.get(id(module), "")
        self._calls[name] += 1
        self._stack.append(_Frame(name, self._calls[name]))

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if len(self._stack) > 1 and threading.get_ident() == self._thread:
            self._stack.pop()

    def call_site(self) -> CallSite:
        """Return the call site of the op that is called now; call it once for each op."""
        frame = self._stack[-1]
        frame.ops += 1
        return frame.module, frame.call, frame.ops

    def source(self) -> Source:
        """The running module and the innermost line of code that is neither torch's nor ours."""
        return Source(self._stack[-1].module, *user_line())
