"""A file that is read, whatever is in it, is understood or refused in one line: nothing hangs, and nothing in it runs."""

import contextlib
import copy
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import fuzz_corpus as corpus
import fuzz_mutations as damage
import pytest
import torch
from fuzz_mutations import Damage
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import nn

import torchthin
from torchthin.cli.config_file import read_config
from torchthin.cli.main import main
from torchthin.cli.prune_options import file_flags
from torchthin.errors import TorchthinError
from torchthin.evaluation.latency import LatencyCache
from torchthin.evaluation.results import Results
from torchthin.graph.inputs import Inputs
from torchthin.integrations.transformers import from_pretrained
from torchthin.io.calibration import calibration
from torchthin.io.checkpoints import read_state
from torchthin.io.distiller.schedule import read_schedule
from torchthin.max7800x.synthesis import ready_for_synthesis
from torchthin.pruning.comparison.comparison import Row
from torchthin.selection.sensitivity_table import Sensitivity, read_table

SECONDS = 30
"""A file that takes longer hangs."""
MEMORY = 2**30
"""Bytes that reading small files may take."""


def load_checkpoint(path: Path) -> None:
    torchthin.load(corpus.net(), path)


def load_shards(path: Path) -> None:
    for part in ("a.safetensors", "b.safetensors"):
        shutil.copy(corpus.CORPUS / "shards" / part, path.parent)
    load_checkpoint(path)


def load_pruner(path: Path) -> None:
    states = read_state(path, "state", ("pruner",), "Remove it.")
    copy.deepcopy(fresh_pruner())[2].load_state_dict(states["pruner"])


@cache
def fresh_pruner() -> Any:
    return corpus.pruner()


def load_training(path: Path) -> None:
    corpus.training_state().resume_(path)


def read_cache(path: Path) -> None:
    Results[Any, float](path, corpus.MARK, encode=float, decode=float, role="cache", command="sensitivity")


def read_rows(path: Path) -> None:
    Results[Any, Row](
        path, corpus.MARK, encode=Row.to_dict, decode=Row.from_dict, role="rows", command="compare"
    )


def read_times(path: Path) -> None:
    times = LatencyCache(path, corpus.MACHINE)
    assert all(time * 1.0 >= 0 for time in times.known.values())
    times.save()


def read_curves(path: Path) -> None:
    str(read_table(path))
    assert isinstance(read_table(path), Sensitivity)


def read_report(path: Path) -> None:
    """As `torchthin report`: 0, or 2 and one line."""
    assert main(["report", str(path), "--to", str(path.with_suffix(".html"))]) in (0, 2)


def read_options(path: Path) -> None:
    read_config(str(path), file_flags())
    assert main(["prune", "--config", str(path), "--print-config"]) in (0, 2)


@cache
def chip_network() -> Any:
    return ready_for_synthesis(corpus.chip_net(), corpus.IMAGES[:1], Path.cwd()).network


def read_description(path: Path) -> None:
    from torchthin.max7800x.synthesis.user_description import corrected_text

    corrected_text(path, chip_network())


def read_images(path: Path) -> None:
    calibration(path, like=Inputs((corpus.IMAGES,)))


def read_pictures(path: Path) -> None:
    calibration(path.parent, like=Inputs((corpus.IMAGES,)))


def read_folder(path: Path) -> None:
    for part in (corpus.CORPUS / "bert").iterdir():
        if part.name != path.name:
            shutil.copy(part, path.parent)
    assert isinstance(from_pretrained(path.parent), nn.Module)


@dataclass(frozen=True)
class Format:
    """A file of the corpus, what reads it, and how it can be damaged. Undamaged it is read."""

    file: str
    read: Callable[[Path], None]
    damages: tuple[Damage, ...]
    cost: int = 1
    """Of one read, roughly, in units of the quickest: a slow one is tried less often."""


FORMATS = {
    "torch": Format("thin.pth", load_checkpoint, (damage.with_torch,)),
    "torch before 1.6": Format("legacy.pth", load_checkpoint, (damage.with_torch,)),
    "checkpoint of Distiller": Format("distiller.pth.tar", load_checkpoint, ()),
    "safetensors": Format("thin.safetensors", load_checkpoint, (damage.with_header, damage.with_metadata)),
    "index of safetensors": Format("shards/model.safetensors.index.json", load_shards, (damage.with_json,)),
    "state of a Pruner": Format("pruner.pth", load_pruner, (damage.with_torch,), cost=3),
    "state of a recovery": Format("training.pth", load_training, (damage.with_torch,)),
    "schedule of Distiller": Format("schedule.yaml", read_schedule, (damage.with_yaml,)),
    "configuration": Format("config.yaml", read_options, (damage.with_yaml,)),
    "network description": Format("network.yaml", read_description, (damage.with_yaml,)),
    "cache of sensitivity": Format("cache.jsonl", read_cache, (damage.with_json_lines,)),
    "rows of compare": Format("rows.jsonl", read_rows, (damage.with_json_lines,)),
    "layer times": Format("times.json", read_times, (damage.with_json,)),
    "sensitivity table": Format("table.json", read_curves, (damage.with_json,)),
    "report": Format("report.json", read_report, (damage.with_json,), cost=5),
    "array": Format("images.npy", read_images, (damage.with_array,)),
    "tensor": Format("images.pt", read_images, ()),
    "picture": Format("pictures/one.png", read_pictures, ()),
    "picture with losses": Format("pictures/two.jpg", read_pictures, ()),
    "recipe of a folder": Format("bert/torchthin_recipe.json", read_folder, (damage.with_json,), cost=3),
    "weights of a folder": Format("bert/model.safetensors", read_folder, (damage.with_header,), cost=3),
    "configuration of a folder": Format("bert/config.json", read_folder, (damage.with_json,), cost=3),
}


class Hangs(BaseException):
    """Raised by the alarm; no reader may catch it."""


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Raise in the block when it takes too long, and after it when it took too much memory."""

    def ring(*_: object) -> None:
        raise Hangs

    before = signal.signal(signal.SIGALRM, ring)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most) * 1024 < MEMORY


def warm(form: Format, path: Path) -> None:
    """Read the sound file: what is imported or prepared at the first time is not the reader's."""
    if form.read is read_folder:
        import tiny_pretrained as tiny_pretrained  # with what transformers imports
    shutil.copy(corpus.CORPUS / form.file, path)
    form.read(path)


def law(read: Callable[[Path], None], path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Read a file, which is understood or refused in one line."""
    capsys.readouterr()
    with bounded():
        try:
            read(path)
        except TorchthinError as error:
            assert str(error).strip() and "\n" not in str(error), repr(str(error))
    told = capsys.readouterr().err
    assert told.count("\n") <= 1 and "Traceback" not in told, told
    assert not Path(damage.MARKER).exists()


@pytest.mark.filterwarnings("ignore")  # of torch and PIL, about what is odd in a file
@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_file_is_read_or_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    form = FORMATS[name]
    sound = corpus.CORPUS / form.file
    path = tmp_path / "folder" / sound.name
    path.parent.mkdir()
    warm(form, path)

    # Not shrunk, which takes minutes: the file is left where it was read.
    @settings(max_examples=max(settings().max_examples // (2 * form.cost), 5), phases=[Phase.generate])
    @given(data=st.data())
    def one(data: st.DataObject) -> None:
        data.draw(st.sampled_from((*form.damages, damage.with_bytes)))(sound, path, data)
        law(form.read, path, capsys)

    one()


def test_what_would_run_code_is_written_so_that_it_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(damage.RunsCode(), "evil.pth")
    torch.load("evil.pth", weights_only=False)
    assert Path(damage.MARKER).exists()
