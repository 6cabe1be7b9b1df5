"""Work in a process of its own: forked, so that what was imported need not be imported again, with a limit of CPU time."""

from __future__ import annotations

import json
import os
import resource
import signal
import traceback
from collections.abc import Callable
from typing import Any


def in_own_process(work: Callable[[], dict[str, Any]], seconds: int) -> dict[str, Any]:
    """Return what the work returns, or why nothing came back: a row with ``ok`` false, a stage and a message."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        _child(work, seconds, write)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    if answer:
        row: dict[str, Any] = json.loads(answer)
        return row
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL):
        return {"ok": False, "stage": "time", "message": f"over {seconds} CPU s"}
    return {"ok": False, "stage": "process", "message": f"ended with status {status}"}


def _child(work: Callable[[], dict[str, Any]], seconds: int, write: int) -> None:
    """Do the work, write the answer, and end without anything that the parent would do at its end."""
    code = 1
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # models talk
        os.dup2(1, 2)
        with os.fdopen(write, "wb") as pipe:
            pipe.write(json.dumps(work()).encode())
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
