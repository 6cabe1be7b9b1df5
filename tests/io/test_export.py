"""A file is kept only if it runs and computes what the model computes."""

import importlib.util
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import Running, without_torchthin
from torch import Tensor, nn

import torchthin
from torchthin.errors import ConfigError, InputError, ProofError
from torchthin.io.export import export, fold_batchnorm
from torchthin.io.export.export_model import TOLERANCE


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.branch = nn.Conv2d(8, 8, 3, padding=1)
        self.after = nn.BatchNorm2d(8)  # of a sum: no layer can take it
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.norm(self.stem(x)).relu()
        y = self.after(y + self.branch(y))
        return {"scores": self.head(y.mean((2, 3))), "maps": y}


def net() -> Net:
    torch.manual_seed(0)
    model = Net()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
            module.running_mean = torch.randn(8)
            module.running_var = torch.rand(8) + 0.5
    return model


IMAGES = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
onnx_needed = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="ONNX needs onnx, onnxscript and onnxruntime (extra export)",
)
newer_torch = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split("+")[0].split(".")[:2])) < (2, 6),
    reason="torch writes ONNX from torch.export since 2.6",
)
FILES = ("net.pt2", pytest.param("net.onnx", marks=(onnx_needed, newer_torch)))


@pytest.fixture(scope="module")
def thinned() -> nn.Module:
    return torchthin.prune(net(), IMAGES, 0.5).model.eval()


@pytest.mark.parametrize("name", FILES)
def test_the_file_computes_what_the_thinned_model_computes(
    thinned: nn.Module, tmp_path: Path, name: str
) -> None:
    before = {key: value.clone() for key, value in thinned.state_dict().items()}
    opset = 18 if name == "net.onnx" else None
    made = export(thinned, tmp_path / name, IMAGES, dynamic_batch=True, opset=opset, fold_batchnorm=True)
    assert made.proof.holds
    assert made.proof.relative <= TOLERANCE
    assert len(made.proof.outputs) == 2 * 6  # both outputs, on the example, two fresh ones, and three batches
    assert made.batches == (1, 2, 3)
    assert made.folded == ("norm",)
    assert made.file_bytes == (tmp_path / name).stat().st_size
    assert made.opset == opset
    if name == "net.onnx":
        imports = pytest.importorskip("onnx").load(tmp_path / name).opset_import
        assert [entry.version for entry in imports if entry.domain == ""] == [18]
    assert all(torch.equal(before[key], value) for key, value in thinned.state_dict().items())
    assert [path.name for path in tmp_path.iterdir()] == [name]


def load_alone(program: Path, images: Path, out: Path) -> None:
    without_torchthin()
    warnings.simplefilter("ignore")
    made = torch.export.load(program).module()(torch.load(images, weights_only=True))
    torch.save(dict(made), out)


def test_a_pt2_file_needs_nothing_of_this_package(thinned: nn.Module, tmp_path: Path) -> None:
    export(thinned, tmp_path / "net.pt2", IMAGES, dynamic_batch=True)
    images = torch.randn(5, 3, 8, 8)
    torch.save(images, tmp_path / "images.pt")
    places = [tmp_path / name for name in ("net.pt2", "images.pt", "out.pt")]
    done = Running(load_alone, *places, folder=tmp_path).outcome()
    assert done.code == 0, done.err
    out = torch.load(places[2], weights_only=True)
    with torch.no_grad():
        expected = thinned(images)
    for name, value in expected.items():
        torch.testing.assert_close(out[name], value)


def test_a_file_that_does_not_agree_is_not_left(
    thinned: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = thinned  # torch 2.3 exports only modules that it can name

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {key: value * (1 + 3e-5) for key, value in self.inner(x).items()}

    def wrong(model: nn.Module, *args: Any, **settings: Any) -> object:
        return right(Other().eval(), *args, **settings)

    right = torch.export.export
    monkeypatch.setattr(torch.export, "export", wrong)
    name = "net.pt2"
    (tmp_path / name).write_text("what was there")
    with pytest.raises(ProofError, match=r"off by 3\.\de-05 of its largest value, allowed is 1e-05"):
        export(thinned, tmp_path / name, IMAGES)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: "what was there"}


def test_folding_leaves_what_cannot_take_it(thinned: nn.Module) -> None:
    model = net().eval()
    folded, paths = fold_batchnorm(model, IMAGES)
    assert paths == ("norm",)
    assert isinstance(folded.get_submodule("norm"), nn.Identity)
    assert isinstance(model.norm, nn.BatchNorm2d)
    assert torchthin.verify(model, folded, IMAGES).relative < 1e-6

    class Shared(Net):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            out = super().forward(x)
            return {**out, "raw": self.stem(x)}  # the stem's own output is wanted too

    assert fold_batchnorm(Shared().eval(), IMAGES)[1] == ()


@pytest.mark.parametrize("layer", ["conv1d", "transposed", "linear"])
def test_every_kind_of_layer_takes_its_norm(layer: str) -> None:
    torch.manual_seed(0)
    made: dict[str, tuple[nn.Module, nn.Module, Tensor]] = {
        "conv1d": (nn.Conv1d(4, 6, 3, groups=2), nn.BatchNorm1d(6), torch.randn(2, 4, 9)),
        "transposed": (nn.ConvTranspose2d(4, 6, 3), nn.BatchNorm2d(6, affine=False), torch.randn(2, 4, 5, 5)),
        "linear": (nn.Linear(4, 6), nn.BatchNorm1d(6), torch.randn(3, 4)),
    }
    first, norm, inputs = made[layer]
    norm.running_mean, norm.running_var = torch.randn(6), torch.rand(6) + 0.5
    model = nn.Sequential(first, norm).eval()
    folded, paths = fold_batchnorm(model, inputs)
    assert paths == ("1",)
    assert torchthin.verify(model, folded, inputs).relative < 1e-6


@onnx_needed
def test_a_torch_too_old_for_onnx_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    with pytest.raises(InputError, match=r"ONNX needs torch 2\.6 or newer.* This is 2\.5\.1\+cpu"):
        export(net(), tmp_path / "net.onnx", IMAGES)
    assert list(tmp_path.iterdir()) == []


@onnx_needed
@newer_torch
def test_an_opset_that_torch_does_not_write_is_refused(thinned: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Got 9; this model came out in \d+"):
        export(thinned, tmp_path / "net.onnx", IMAGES, opset=9)
    assert list(tmp_path.iterdir()) == []


class Untouched(nn.Module):
    """Fails the test when it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("the model ran before everything was checked")


@onnx_needed
@newer_torch
@pytest.mark.parametrize("opset", [0, -1, 99, True, "18", 18.0])
def test_an_opset_that_does_not_exist_is_refused_before_the_model_runs(tmp_path: Path, opset: Any) -> None:
    with pytest.raises(
        InputError, match=r"must be a whole number from 1 to \d+, the newest of the installed onnx"
    ):
        export(Untouched(), tmp_path / "net.onnx", torch.randn(2, 3), opset=opset)
    assert list(tmp_path.iterdir()) == []


@onnx_needed
@newer_torch
def test_weights_that_no_onnx_file_holds_are_refused_before_the_model_runs(tmp_path: Path) -> None:
    model = Untouched()
    model.register_buffer("table", torch.empty(1).expand(2**29))  # 2 GiB that take no memory
    with pytest.raises(InputError, match=r"They take 2,147,483,696 bytes; write a \.pt2 file"):
        export(model, tmp_path / "net.onnx", torch.randn(2, 3))
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_refused_before_the_model_runs(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "net.pt2").mkdir()
    for path in (tmp_path / "net.pt2", tmp_path / "file" / "net.pt2", tmp_path / f"{300 * 'a'}.pt2"):
        with pytest.raises(InputError, match="The file to save must"):
            export(Untouched(), path, torch.randn(2, 3))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "net.pt2"]


def test_outputs_that_show_nothing_are_refused(tmp_path: Path) -> None:
    class Words(nn.Module):
        def forward(self, x: Tensor) -> str:
            return "text"

    broken = net()
    nn.init.constant_(broken.head.weight, float("nan"))
    for model, message in ((Words(), "must return tensors.* Got str"), (broken, "NaN throughout")):
        with pytest.raises(InputError, match=message):
            export(model, tmp_path / "net.pt2", IMAGES)
    assert list(tmp_path.iterdir()) == []


def test_bad_input_writes_nothing(tmp_path: Path) -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).reshape(1, 4, 36)

    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(3, 3)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.a(x).sum() + self.a(y)

    with pytest.raises(ConfigError, match=r"must end in \.pt2 or \.onnx"):
        export(net(), tmp_path / "net.tflite", IMAGES)
    with pytest.raises(ConfigError, match="opset of export is one of ONNX"):
        export(net(), tmp_path / "net.pt2", IMAGES, opset=18)
    with pytest.raises(InputError, match="does not run on inputs of these shapes"):
        export(Fixed(), tmp_path / "net.pt2", IMAGES, dynamic_batch=True)
    with pytest.raises(ConfigError, match=r"Got the sizes \[2, 3\]"):
        export(Pair(), tmp_path / "net.pt2", (torch.randn(2, 3), torch.randn(3, 3)), dynamic_batch=True)
    with pytest.raises(InputError, match="meta device"):
        export(net().to("meta"), tmp_path / "net.pt2", IMAGES)
    hollow = net()
    hollow.norm.running_mean = torch.zeros(8, device="meta")
    with pytest.raises(InputError, match="meta device"):
        export(hollow, tmp_path / "net.pt2", IMAGES)
    assert list(tmp_path.iterdir()) == []


class Named(nn.Module):
    """Returns tensors under names, in a list, and one that it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, image: Tensor) -> dict[str, Any]:
        x = self.conv(image).relu()
        return {"image": self.head(x), "maps": [x.mean((2, 3)), None, x.amax((2, 3))]}


@pytest.mark.parametrize(
    ("net", "names"),
    [
        (Named(), ["image_", "maps_0", "maps_2"]),  # an input has the first name already
        (nn.Conv2d(3, 2, 1), ["output"]),
    ],
)
def test_outputs_of_onnx_keep_their_names(net: nn.Module, names: list[str], tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    export(net.eval(), tmp_path / "net.onnx", torch.randn(2, 3, 4, 4))
    made = onnx.load(tmp_path / "net.onnx")
    onnx.checker.check_model(made)
    assert [output.name for output in made.graph.output] == names
