"""Processes of their own that begin at once: forked from a server that has imported torch and the package already.

They get signals, limits and exit codes of their own, as programs that a user starts do, without the seconds of imports.
What the start or the end of the interpreter is part of is tested with real programs.
"""

import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from torch.distributed import TCPStore

ROOT = Path(__file__).parents[1]
_SERVER = multiprocessing.get_context("forkserver")
# what the first step of an optimizer imports is among them
_SERVER.set_forkserver_preload(
    ["torch", "torchthin.pruning.one_shot", "torchthin.cli.prune", "torch._dynamo"]
)


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


class Running:
    """A process that runs a function, in a folder of its choice."""

    def __init__(self, function: Callable[..., object], *given: Any, folder: Path, **env: str) -> None:
        self._written = tempfile.TemporaryDirectory()
        self._files = [Path(self._written.name) / name for name in ("out", "err")]
        self.process: ForkServerProcess = _SERVER.Process(
            target=_child, args=(function, given, folder, env, self._files)
        )
        self.process.start()

    def wait_for(self, there: Callable[[], bool]) -> None:
        """Wait until the process got as far as that; a slow machine may take its time, but not one that has ended."""
        deadline = time.monotonic() + 600
        while not there():
            assert self.process.is_alive(), self.outcome()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def stop(self, number: signal.Signals) -> Outcome:
        """Send a signal, and return how the process ends."""
        assert self.process.pid is not None
        os.kill(self.process.pid, number)
        return self.outcome()

    def outcome(self) -> Outcome:
        """Return how the process ended; minus the number of a signal that ended it."""
        self.process.join(600)
        if self.process.exitcode is None:
            self.process.kill()
            raise TimeoutError("The process does not end.")
        out, err = (file.read_text() if file.exists() else "" for file in self._files)
        self._written.cleanup()
        return Outcome(self.process.exitcode, out, err)


def _child(
    function: Callable[..., object],
    given: tuple[Any, ...],
    folder: Path,
    env: Mapping[str, str],
    files: list[Path],
) -> None:
    os.chdir(folder)
    os.environ.update(env)
    sys.dont_write_bytecode = True
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # what starts the tests in the background ignores it
    for number, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    sys.exit(function(*given))  # type: ignore[arg-type]


def ranks(
    count: int, function: Callable[..., object], *given: Any, folder: Path, **env: str
) -> list[Outcome]:
    """Run a function in as many processes, each of which finds in its environment what torchrun puts there."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    env |= {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True",
        "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "GLOO_SOCKET_IFNAME": "lo",
    }  # fmt: skip
    numbers = map(str, range(count))
    started = [Running(function, *given, folder=folder, RANK=n, LOCAL_RANK=n, **env) for n in numbers]
    return [process.outcome() for process in started]


def without_torchthin() -> None:
    """Forget the package and let nothing import it again in this process."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchthin"]:
        del sys.modules[name]
    sys.modules["torchthin"] = None  # type: ignore[assignment]


def as_program(script: Path, *arguments: str) -> None:
    """Run a script as Python does that is given its path."""
    sys.argv = [str(script), *arguments]
    sys.path.insert(0, str(script.parent))
    runpy.run_path(str(script), run_name="__main__")


def as_foreign_program(script: Path) -> None:
    """Run a script that may import lightning or transformers: they import torchvision where it is installed."""
    sys.path[:0] = [str(ROOT / "examples"), str(ROOT / "benchmarks")]
    warnings.filterwarnings("ignore")
    from zoo import vision_ops

    vision_ops.define()
    as_program(script)
