"""A folder with a model and its checkpoint, and the program, run inside this process or as a real one."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from processes import Outcome, Running, as_program

from torchthin.cli import prune

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "prune_with_ai8x.py"
NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3)
        self.bn = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, 4, 1)
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(self.conv2(self.bn(self.conv1(x))).mean((2, 3)))

def net(width=8):
    torch.manual_seed(0)
    return Net(width)

def loud():
    print("building")
    return net()

def needs(num_classes): return net()
def raises(): raise RuntimeError("no weights here")
def pair(): return net(), net()
number = 3
"""


@dataclass(frozen=True)
class Workplace:
    """The current directory of a test: ``net.py``, and ``best.pth`` with a state of its `net`."""

    path: Path
    capture: pytest.CaptureFixture[str]

    def run(self, *arguments: str, main: Callable[[list[str]], int] = prune.main) -> Outcome:
        """Run a program inside this process."""
        self.capture.readouterr()
        code = main(list(arguments))
        out, err = self.capture.readouterr()
        return Outcome(code, out, err)

    def started(self, *arguments: str, main: Callable[[list[str]], int] | None = None, **env: str) -> Running:
        """Start a program in a process of its own: the script of this repository, or one of the package's."""
        if main is None:
            return Running(as_program, SCRIPT, *arguments, folder=self.path, **env)
        return Running(main, list(arguments), folder=self.path, **env)

    def process(self, *arguments: str, main: Callable[[list[str]], int] | None = None, **env: str) -> Outcome:
        """Run a program in a process of its own."""
        return self.started(*arguments, main=main, **env).outcome()

    def files(self) -> dict[str, bytes]:
        """Return every file here with its content, and every folder; without the bytecode of what was imported."""
        return {
            str(path.relative_to(self.path)): path.read_bytes() if path.is_file() else b"folder"
            for path in self.path.rglob("*")
            if "__pycache__" not in path.parts
        }

    def assert_refused(self, message: str, *arguments: str, run: Callable[..., Outcome] | None = None) -> str:
        """Assert exit code 2, one line on stderr that holds `message`, no file touched; return the line."""
        before = self.files()
        outcome = (run or self.run)(*arguments)
        assert outcome.code == 2, outcome
        assert outcome.err.count("\n") == 1, outcome.err
        assert outcome.err.startswith("error: ")
        assert message in outcome.err
        assert "Traceback" not in outcome.err + outcome.out
        assert self.files() == before
        return outcome.err


def trained_state(path: Path) -> dict[str, torch.Tensor]:
    """Return a state for `Net` with values no factory makes."""
    from torchthin.io.factory import build_model

    generator = torch.Generator().manual_seed(1)
    model = build_model(f"{path / 'net.py'}:net")
    return {
        name: torch.randn(value.shape, generator=generator) if value.is_floating_point() else value + 5
        for name, value in model.state_dict().items()
    }
