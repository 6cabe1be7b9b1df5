"""The law: a model whose weights lie in files gives what the same model in memory gives, and the files stay as they are."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import Running
from safetensors.torch import save_file
from torch import Tensor, nn

import torchthin
from torchthin.errors import CheckpointError, InputError
from torchthin.graph import deferred
from torchthin.graph.op_counter import CountingMode
from torchthin.io.checkpoints import shards
from torchthin.io.empty import build_empty

TOKENS = torch.arange(10).view(2, 5)


class Net(nn.Module):
    """A tied head, a recurrent layer, and positions that no file holds."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, 64)
        self.rnn = nn.LSTM(64, 64, batch_first=True)
        self.up, self.down = nn.Linear(64, 128), nn.Linear(128, 64)
        self.head = nn.Linear(64, 100, bias=False)
        self.head.weight = self.embed.weight
        self.positions: Tensor
        self.register_buffer("positions", torch.arange(64) / 64, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x, _ = self.rnn(self.embed(tokens) + self.positions)
        return self.head(x + self.down(self.up(x).relu()))  # type: ignore[no-any-return]


def net(dtype: torch.dtype = torch.float32) -> Net:
    torch.manual_seed(0)
    return Net().to(dtype)


def untied(model: nn.Module) -> dict[str, Tensor]:
    return {name: t.detach().clone() for name, t in model.state_dict().items() if name != "head.weight"}


def one_file(folder: Path, state: dict[str, Tensor]) -> Path:
    save_file(state, folder / "model.safetensors")
    return folder / "model.safetensors"


def hub_folder(folder: Path, state: dict[str, Tensor]) -> Path:
    """Write what Hugging Face does for a large model."""
    names = list(state)
    places = {name: f"model-{i % 2 + 1}-of-2.safetensors" for i, name in enumerate(names)}
    for file in set(places.values()):
        save_file({name: state[name] for name in names if places[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


FORMS: list[Callable[[Path, dict[str, Tensor]], object]] = [
    one_file,
    hub_folder,
    lambda folder, state: hub_folder(folder, state) / "model.safetensors.index.json",
    lambda folder, state: sorted(hub_folder(folder, state).glob("*.safetensors")),
]


@pytest.mark.parametrize("write", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pruned_from_files_as_from_memory(
    tmp_path: Path, write: Callable[[Path, dict[str, Tensor]], object], dtype: torch.dtype
) -> None:
    model = net(dtype)
    files = write(tmp_path, untied(model))
    before = contents(tmp_path)
    mapped = torchthin.load_mapped(Net, files)  # type: ignore[arg-type]
    assert isinstance(mapped, Net)
    assert mapped.head.weight is mapped.embed.weight
    assert torch.equal(mapped(TOKENS), model(TOKENS))
    ours, theirs = torchthin.prune(mapped, TOKENS, 0.5), torchthin.prune(model, TOKENS, 0.5)
    assert ours.recipe == theirs.recipe
    assert ours.masks.keys() == theirs.masks.keys()
    assert all(torch.equal(mask, theirs.masks[name]) for name, mask in ours.masks.items())
    wanted = theirs.model.state_dict()
    assert all(torch.equal(t, wanted[name]) for name, t in ours.model.state_dict().items())
    assert ours.proof is not None and ours.proof.holds
    with torch.no_grad():
        for parameter in (*mapped.parameters(), *ours.model.parameters()):
            parameter.zero_()
    assert contents(tmp_path) == before


def test_a_result_does_not_share_the_memory_of_its_source(tmp_path: Path) -> None:
    mapped = torchthin.load_mapped(Net, one_file(tmp_path, untied(net())))
    result = torchthin.prune(mapped, TOKENS, 0.5, include=["up.weight"])
    with torch.no_grad():
        for parameter in result.model.parameters():
            parameter.zero_()
    assert all(torch.equal(t, untied(net())[name]) for name, t in untied(mapped).items())


def test_a_model_built_on_meta_takes_the_tensors(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    with torch.device("meta"):
        empty = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    mapped = torchthin.load_mapped(empty, one_file(tmp_path, plain.state_dict()))
    x = torch.randn(3, 4)
    assert torch.equal(mapped(x), plain(x))
    assert all(parameter.requires_grad for parameter in mapped.parameters())


class Ops(CountingMode):
    """Lists the ops that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def execute(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.names.append(str(func))
        return func(*args, **kwargs)


def test_nothing_is_drawn_for_parameters_that_take_their_numbers_from_a_file() -> None:
    """On the meta device a draw takes milliseconds, and models of transformers draw for every layer."""

    class Drawn(nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 8)
            nn.init.normal_(self.weight, std=0.02)
            nn.init.uniform_(tensor=self.bias)
            self.register_buffer("noise", torch.zeros(3).normal_())

    with Ops() as seen:
        model = build_empty(Drawn, [])
    assert model.weight.is_meta and model.get_buffer("noise").any()
    assert [name for name in seen.names if "normal" in name or "uniform" in name] == ["aten.normal_.default"]


def test_buffers_of_a_model_on_meta_are_asked_for(tmp_path: Path) -> None:
    with torch.device("meta"):
        empty = Net()
    with pytest.raises(
        InputError, match=r"^positions of the model \(Net\) has no values, and is in no file\. Give "
    ):
        torchthin.load_mapped(empty, one_file(tmp_path, untied(net())))


def test_a_thinned_file_is_read_by_its_recipe(tmp_path: Path) -> None:
    result = torchthin.prune(net(), TOKENS, 0.5)
    result.save(tmp_path / "thin.safetensors")
    thin = torchthin.load_mapped(Net, tmp_path / "thin.safetensors")
    assert torch.equal(thin(TOKENS), result.model(TOKENS))


def _cut_short(folder: Path) -> None:
    path = folder / "model-1-of-2.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _lacking(folder: Path) -> None:
    save_file({"down.bias": torch.zeros(64)}, folder / "model-1-of-2.safetensors")


def _twice(folder: Path) -> None:
    save_file(untied(net()), folder / "model-1-of-2.safetensors")


def _index(content: object) -> Callable[[Path], object]:
    return lambda folder: (folder / "model.safetensors.index.json").write_text(json.dumps(content))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut short": (_cut_short, r"checkpoint .*model-1-of-2\.safetensors is damaged"),
    "lacking tensors": (_lacking, r"must have the names of the model\. Missing: "),
    "a tensor twice": (_twice, r"Each tensor must be in one file\. .* is in model-1-of-2"),
    "a file gone": (
        lambda f: (f / "model-2-of-2.safetensors").unlink(),
        r"Not there: model-2-of-2\.safetensors",
    ),
    "an index that leads elsewhere": (
        _index({"weight_map": {"a": "../x.safetensors"}}),
        r"Not there: \.\./x",
    ),
    "no index": (_index(["weight_map"]), "is damaged or no index"),
    "an empty index": (_index({"weight_map": {}}), "Not there: any"),
    "no folder of weights": (
        lambda f: (f / "model.safetensors.index.json").unlink(),
        r"must be a file\. It is a directory, and has no model\.safetensors",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_files_are_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    damage, words = DAMAGE[kind]
    damage(hub_folder(tmp_path, untied(net())))
    with pytest.raises(CheckpointError, match=words) as caught:
        torchthin.load_mapped(Net, tmp_path)
    assert "\n" not in str(caught.value)


def test_what_is_tied_must_be_equal_in_a_file(tmp_path: Path) -> None:
    state = untied(net())
    other = {**state, "head.weight": state["embed.weight"] + 1}
    with pytest.raises(CheckpointError, match=r"same values for embed\.weight and head\.weight"):
        torchthin.load_mapped(Net, one_file(tmp_path, other))
    equal = {**state, "head.weight": state["embed.weight"].clone()}
    assert torch.equal(torchthin.load_mapped(Net, one_file(tmp_path, equal))(TOKENS), net()(TOKENS))


def test_the_command_maps_large_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from torchthin.cli.main import main

    (tmp_path / "nets.py").write_text(Path(__file__).read_text())
    folder = tmp_path / "weights"
    folder.mkdir()
    hub_folder(folder, untied(net()))
    command = [
        "prune",
        "--model-factory",
        f"{tmp_path}/nets.py:Net",
        "--checkpoint",
        str(folder),
        "--input-shape",
    ]
    command += ["2,5:int64", "--target-sparsity", "0.5", "--thin", "--save-to"]
    said, saved = [], []
    for name, least in (("copied", 2**40), ("mapped", 1)):
        monkeypatch.setattr(shards, "LARGE", least)
        assert main([*command, str(tmp_path / f"{name}.pth")]) == 0
        said.append("The weights stay in their files" in capsys.readouterr().out)
        saved.append(torch.load(tmp_path / f"{name}.pth", weights_only=True)["state_dict"])
    assert said == [False, True]
    assert all(torch.equal(t, saved[1][name]) for name, t in saved[0].items())


def wide() -> nn.Module:
    pairs = ((nn.Linear(512, 4096, False), nn.ReLU(), nn.Linear(4096, 512, False)) for _ in range(24))
    return nn.Sequential(*(layer for pair in pairs for layer in pair))


def anonymous() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def pruned_from(path: Path) -> None:
    """Prune the model of a file, and print its size and the most memory that was taken above what was before."""
    deferred.ROOM = 0
    torch.set_num_threads(1)
    x = torch.randn(2, 512)
    torchthin.prune(
        nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), torch.randn(1, 8), 0.5
    )  # what torch loads once
    before, done = anonymous(), threading.Event()
    most = [before]

    def sample() -> None:
        while not done.wait(0.002):
            most.append(anonymous())

    sampler = threading.Thread(target=sample)
    sampler.start()
    model = torchthin.load_mapped(wide, path)
    result = torchthin.plan(model, x).apply()
    done.set()
    sampler.join()
    size = sum(p.nbytes for p in model.parameters())
    left = sum(p.nbytes for p in result.model.parameters())
    assert result.proof is not None and result.proof.holds and left < 0.3 * size
    sys.stdout.write(f"{size} {max(most) - before}")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux to tell anonymous memory")
def test_the_model_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    """200 MB of weights. Of converted ones half a GB may be kept whatever the model: here nothing."""
    path, made = tmp_path / "model.safetensors", wide()
    save_file({name: t.to(torch.bfloat16) for name, t in made.state_dict().items()}, path)
    done = Running(pruned_from, path, folder=tmp_path).outcome()
    assert done.code == 0, done.err
    size, most = map(int, done.out.split())
    assert size > 200_000_000
    # The thinned model is 0.27, and ops read something; a masked copy beside it, and masks, would be 1.77, one in float32 2.
    assert most < 1.25 * size
