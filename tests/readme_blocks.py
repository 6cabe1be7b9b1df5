"""The documents' blocks of output and the programs that print them.

    python tests/readme_blocks.py        runs the programs and writes what they print into README and docs/

A block of Python is marked ``<!-- python -->``; the text block after it is what it prints. The blocks share variables.
A text block marked ``<!-- output of: prune_pose_drive.py ... -->`` is the script's output; with ``--thin`` only what
comes after the table.
"""

import contextlib
import io
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import torch

from pose_demo import cli as pose_drive
from pose_demo import score
from torchthin.dependency import propagate as propagate  # registers the rules
from torchthin.dependency import registry as rules
from torchthin.importance import registry as criteria
from torchthin.importance import scores as scores  # registers the criteria
from torchthin.max7800x import chips

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCUMENTS = (
    README,
    *(
        path
        for path in sorted((ROOT / "docs").glob("*.md"))
        if "<!-- python -->" in path.read_text(encoding="utf-8")
    ),
)
POSE = ROOT / "docs" / "pose.md"
"""Where the script's output stands."""
_PYTHON = re.compile(
    r"(<!-- python -->\n```python\n(?P<code>.*?)```\n```text\n)(?P<text>.*?)(```)", re.DOTALL
)
_SCRIPT = re.compile(
    r"(<!-- output of: prune_pose_drive.py(?P<flags>[^>]*) -->\n```text\n)(?P<text>.*?)(```)", re.DOTALL
)


@contextlib.contextmanager
def elsewhere() -> Iterator[None]:
    """Run in an empty folder, which is gone afterwards."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


def run_python(code: str, names: dict[str, object]) -> str:
    """Return what `code` prints; `names` are its globals, kept for the next block."""
    torch.manual_seed(0)
    stdout = io.StringIO()
    with elsewhere(), contextlib.redirect_stdout(stdout):
        exec(compile(code, "net.py", "exec"), names)
    return stdout.getvalue()


def run_script(flags: str) -> str:
    """Return what the pose script prints where no Drive is mounted; with ``--thin`` without the table."""
    stdout = io.StringIO()
    with elsewhere(), contextlib.redirect_stdout(stdout):
        code = pose_drive.main(flags.split(), drive=Path("no drive"))
    assert code == 0, stdout.getvalue()
    text = stdout.getvalue()
    return text.partition("\n\n")[2] if "--thin" in flags else text


@contextlib.contextmanager
def registries_restored() -> Iterator[None]:
    """Forget afterwards what examples registered."""
    assert criteria.criteria() and rules.operators(), "the package's own entries must be there first"
    with (
        mock.patch.dict(criteria._CRITERIA),
        mock.patch.dict(chips._CHIPS),
        mock.patch.dict(rules.RULES),
    ):
        yield


@contextlib.contextmanager
def scores_once() -> Iterator[None]:
    """Score equal models once: both runs of the script begin with the shipped student."""
    known: dict[bytes, score.PoseScore] = {}
    measure = score.score_validation

    def remembered(model: torch.nn.Module, device: str = "cpu") -> score.PoseScore:
        buffer = io.BytesIO()
        torch.save(model.state_dict(), buffer)
        if buffer.getvalue() not in known:
            known[buffer.getvalue()] = measure(model, device=device)
        return known[buffer.getvalue()]

    with mock.patch.object(score, "score_validation", remembered):
        yield


def replaced(readme: str, run: Callable[[re.Match[str]], str], pattern: re.Pattern[str]) -> str:
    return pattern.sub(lambda match: match[1] + run(match) + "```", readme)


def python_blocks(readme: str) -> list[tuple[str, str]]:
    """Return code and output of every block of Python."""
    return [(match["code"], match["text"]) for match in _PYTHON.finditer(readme)]


def script_blocks(readme: str) -> list[tuple[str, str]]:
    """Return flags and output of every run of the script."""
    return [(match["flags"], match["text"]) for match in _SCRIPT.finditer(readme)]


def main() -> None:
    for path in (*DOCUMENTS, POSE):
        text = path.read_text(encoding="utf-8")
        names: dict[str, object] = {"__name__": path.stem}
        text = replaced(text, lambda match: run_python(match["code"], names), _PYTHON)  # noqa: B023
        with scores_once():
            text = replaced(text, lambda match: run_script(match["flags"]), _SCRIPT)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
