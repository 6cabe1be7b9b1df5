"""One function of many keys, in this process or in several forked ones."""

from __future__ import annotations

import multiprocessing
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from numbers import Integral
from typing import Any, TypeVar

import torch
from torch import nn

from torchthin.errors import ConfigError, TorchthinError

Key = TypeVar("Key")
Value = TypeVar("Value")


def check_workers(workers: Any, command: str) -> int:
    """Return the number of processes; `ConfigError` unless it is a whole number of at least 1."""
    if isinstance(workers, bool) or not isinstance(workers, Integral) or int(workers) < 1:
        raise ConfigError(f"The workers of {command} must be a whole number of at least 1. Got {workers!r}.")
    return int(workers)


def evaluated(
    task: Callable[[Key], Value], keys: Sequence[Key], workers: int, model: nn.Module
) -> Iterator[tuple[Key, Value]]:
    """Yield each key with ``task(key)``: in order with one worker, else as they end, each process with one thread.

    Keys and values are pickled. The task, and `model`, which it evaluates, are not: the processes are forked with them.

    Raises:
        ConfigError: several workers, and the system cannot fork or the model is not on the CPU.
        TorchthinError: a process died.
    """
    workers = min(workers, len(keys))
    if workers <= 1:
        yield from ((key, task(key)) for key in keys)
        return
    if "fork" not in multiprocessing.get_all_start_methods():
        raise ConfigError("More than one worker needs a system that can fork processes. Use --workers 1.")
    if any(tensor.device.type != "cpu" for tensor in model.parameters()):
        raise ConfigError("More than one worker needs the model on the CPU. Use --workers 1.")
    _TASK[:] = [task]
    with ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), _begin) as pool:
        try:
            futures = _submitted(pool, keys)
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise TorchthinError(
                "A process died (memory?). Results are kept where a file was named for them; run again with fewer "
                "--workers."
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        finally:
            _TASK.clear()


_TASK: list[Callable[[Any], Any]] = []
"""The task of this process's children: they are forked with it, since models need not be picklable."""


def _submitted(pool: ProcessPoolExecutor, keys: Sequence[Key]) -> dict[Future[Any], Key]:
    """Fork the processes and give them the keys."""
    with warnings.catch_warnings():
        # Python warns of forks beside threads; the children use one thread.
        warnings.simplefilter("ignore", DeprecationWarning)
        return {pool.submit(_run, key): key for key in keys}


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops the children
    torch.set_num_threads(1)


def _run(key: Any) -> Any:
    return _TASK[0](key)
