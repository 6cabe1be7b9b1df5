"""Switches of the whole process that a run needs in another position, also where several threads run models at once."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


class ProcessSetting:
    """A setting of the whole process: the first of several threads that need it makes it, the last one takes it back."""

    def __init__(self, make: Callable[[], contextlib.AbstractContextManager[object]]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._users = 0
        self._made = contextlib.ExitStack()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Run the block with the setting made."""
        with self._lock:
            if not self._users:
                self._made.enter_context(self._make())
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    self._made.close()


@contextlib.contextmanager
def _plain_kernels() -> Iterator[None]:
    """Let attention run as the ops that it consists of, and compiled parts as they were written."""
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), _uncompiled():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)


@contextlib.contextmanager
def _plain_recurrence() -> Iterator[None]:
    """Let recurrent layers run step by step, which oneDNN and cuDNN compute as one op."""
    onednn, cudnn = torch._C._get_mkldnn_enabled(), torch._C._get_cudnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    torch._C._set_cudnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(onednn)
        torch._C._set_cudnn_enabled(cudnn)


def _uncompiled() -> contextlib.AbstractContextManager[object]:
    """Let parts under ``torch.compile`` run as they were written (torch 2.6 and later can be asked to)."""
    if "torch._dynamo" not in sys.modules or not hasattr(torch.compiler, "set_stance"):
        return contextlib.nullcontext()
    eager: contextlib.AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return eager


PLAIN_KERNELS = ProcessSetting(_plain_kernels)
PLAIN_RECURRENCE = ProcessSetting(_plain_recurrence)
