"""The pages of docs/tutorials do what they say, from top to bottom, on small models."""

import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from tiny_pretrained import FAMILIES, T
from tiny_tokenizers import CORPUS, bytes_bpe, fast, word_piece
from torch import nn

from torchthin.cli.main import main

PAGES = Path(__file__).parents[1] / "docs" / "tutorials"

pytestmark = pytest.mark.usefixtures("foreign_warnings")


def run(page: str, before: Mapping[str, Callable[[], None]] = MappingProxyType({})) -> dict[str, Any]:
    """Run the blocks of Python and the commands of a page in their order; return the names that it defines.

    before: what other programs do before a command, by the command's name.
    """
    names: dict[str, Any] = {}
    text = (PAGES / page).read_text(encoding="utf-8")
    for code, command in re.findall(
        r"```python\n(.*?)```|^    torchthin (.*?)$", text, re.DOTALL | re.MULTILINE
    ):
        if code:
            exec(compile(code, page, "exec"), names)
        else:
            before.get(command.split()[0], lambda: None)()
            assert main(shlex.split(command)) == 0
    return names


def test_a_language_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tokenizer, model = fast(bytes_bpe()), FAMILIES["llama"].model()
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained("my-llm")
    tokenizer.save_pretrained("my-llm")
    Path("texts.txt").write_text("\n".join(CORPUS[:2] * 30), encoding="utf-8")
    names = run("language-model.md")
    shown = capsys.readouterr().out
    assert names["smaller"].config.intermediate_size == 36
    assert "exact: " in shown and re.search(r"perplexity [\d.]+ -> [\d.]+", shown)
    assert T.AutoModelForCausalLM.from_pretrained("my-llm-smaller").config.vocab_size < len(tokenizer)


def test_a_vision_transformer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    timm = pytest.importorskip("timm")
    Image = pytest.importorskip("PIL.Image")
    monkeypatch.chdir(tmp_path)
    Path("pictures").mkdir()
    drawn = np.random.default_rng(0)
    for number in range(4):
        Image.fromarray(drawn.integers(0, 255, (240, 250, 3), dtype=np.uint8)).save(f"pictures/{number}.png")
    small = {"depth": 2, "embed_dim": 48, "num_heads": 3, "img_size": 64}
    overlay = {"input_size": (3, 64, 64)}
    make = timm.create_model

    def small_model(name: str, pretrained: bool = False) -> Any:
        return make(name, pretrained_cfg_overlay=overlay, **small)

    monkeypatch.setattr(timm, "create_model", small_model)
    torch.manual_seed(0)
    names = run("vision-transformer.md")
    assert names["result"].proof.holds
    assert capsys.readouterr().out.count("True") >= 1


def test_a_text_classifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tokenizer = fast(word_piece())
    torch.manual_seed(0)
    config = T.BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_labels=3,
    )  # fmt: skip
    T.BertForSequenceClassification(config).save_pretrained("my-classifier")
    tokenizer.save_pretrained("my-classifier")
    Path("texts.txt").write_text("\n".join(CORPUS), encoding="utf-8")
    names = run("text-classifier.md")
    assert names["smaller"].config.intermediate_size == 24
    assert set(names["smaller"].state_dict()) == set(names["model"].state_dict())


def test_an_image_classifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    models = pytest.importorskip("torchvision").models
    Image = pytest.importorskip("PIL.Image")
    monkeypatch.chdir(tmp_path)
    drawn = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 2)):
        for number in range(2 * count):
            folder = Path("data") / part / ("dark", "light")[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            low = 128 * (number % 2)
            picture = drawn.integers(low, low + 128, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(picture).save(folder / f"{number}.png")

    def small_model(weights: str | None = None) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, 8), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 4), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2),
        )  # fmt: skip

    monkeypatch.setattr(models, "resnet18", small_model)
    names = run("image-classifier.md")
    shown = capsys.readouterr().out
    assert re.findall(r"^(before|recovered|trained): [\d.]+%$", shown, re.MULTILINE) == [
        "before", "recovered", "trained",
    ]  # fmt: skip
    assert names["again"][0].out_channels < 8 and names["model"][0].out_channels == 4
    assert "True" in shown


NET = """
from torch import nn
from torchthin.max7800x.ai8x import layers as ai8x

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = ai8x.FusedConv2dReLU(3, 16, 3, padding=1, bias=True)
        self.conv2 = ai8x.FusedMaxPoolConv2dReLU(16, 32, 3, padding=1, bias=True)
        self.conv3 = ai8x.FusedMaxPoolConv2dReLU(32, 16, 3, padding=1, bias=True)
        self.fc = ai8x.Linear(16 * 64, 4, bias=True, wide=True)

    def forward(self, x):
        return self.fc(self.conv3(self.conv2(self.conv1(x))).flatten(1))

def net():
    return Net()
"""


def test_a_network_for_the_max78000(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    Path("models").mkdir()
    Path("models/net.py").write_text(NET)
    torch.manual_seed(0)
    exec(compile(NET, "net.py", "exec"), names := {})
    torch.save({"state_dict": names["net"]().state_dict(), "epoch": 9, "arch": "net"}, "best.pth.tar")
    generator = np.random.default_rng(0)
    np.save("pictures.npy", generator.uniform(-1, 1, (24, 3, 32, 32)).astype(np.float32))

    def training() -> None:
        """Stands for train.py: the class of the file, its weights loaded and changed."""
        exec(compile(Path("models/net_thin.py").read_text(), "net_thin.py", "exec"), made := {})
        assert made["models"][0]["name"] == "thinnet"
        small = made["ThinNet"]()
        state = torch.load("thin.pth.tar", weights_only=True)["state_dict"]
        small.load_state_dict(
            {name: 0.9 * value if value.dim() > 1 else value for name, value in state.items()}
        )
        torch.save({"state_dict": small.state_dict(), "epoch": 60, "arch": "thinnet"}, "trained.pth.tar")

    run("max78000.md", before={"synthesis": training})
    shown = capsys.readouterr().out
    cycles = [int(each.replace(",", "")) for each in re.findall(r"^Cycles: ([\d,]+)", shown, re.MULTILINE)]
    assert cycles[-1] <= 0.7 * cycles[0]
    assert sorted(path.name for path in Path("chip").iterdir()) == [
        "net.yaml",
        "net_sample.npy",
        "net_synthesis.pth.tar",
    ]


def squares(folder: Path, classes: int) -> None:
    """Four pictures of 64 pixels with a white square, as ultralytics reads them, and what describes them."""
    cv2 = pytest.importorskip("cv2")
    for part in ("train", "val"):
        for kind in ("images", "labels"):
            (folder / kind / part).mkdir(parents=True)
        for number in range(2):
            picture = np.zeros((64, 64, 3), np.uint8)
            picture[16:48, 16:48] = 255
            cv2.imwrite(str(folder / "images" / part / f"{number}.png"), picture)
            (folder / "labels" / part / f"{number}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    names = "".join(f"  {n}: class{n}\n" for n in range(classes))
    Path("my-data.yaml").write_text(f"path: {folder}\ntrain: images/train\nval: images/val\nnames:\n{names}")


@pytest.mark.filterwarnings("ignore")  # of the package: its training and its export to TorchScript
def test_a_detector_of_ultralytics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOLO_OFFLINE", "true")
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    ultralytics = pytest.importorskip("ultralytics")
    monkeypatch.chdir(tmp_path)
    squares(tmp_path / "squares", 80)
    small = {"imgsz": 64, "epochs": 1, "batch": 2, "workers": 0, "device": "cpu", "plots": False}

    class Small(ultralytics.YOLO):  # type: ignore[misc, name-defined]
        def __init__(self, file: Any, **options: Any) -> None:
            super().__init__("yolov8n.yaml" if file == "my-yolo.pt" else file, **options)
            self.overrides["imgsz"] = 64

        def train(self, trainer: Any = None, **given: Any) -> Any:
            return super().train(trainer, **given | small | {"project": str(tmp_path)})

    monkeypatch.setattr(ultralytics, "YOLO", Small)
    names = run("yolo.md")
    assert names["result"].proof.exact
    size = [sum(p.numel() for p in net.parameters()) for net in (names["result"].model, names["thin"].model)]
    assert size[0] == size[1] < 0.26 * 3_157_200
    assert "torchthin" not in {type(m).__module__.split(".")[0] for m in names["thin"].model.modules()}


NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e-\d+)?%?")


def near(shown: str, printed: str) -> bool:
    """Counts are equal, scores (decimals, percent) within a tenth, and rounding errors are small."""
    if "e-" in shown:
        return max(float(shown), float(printed)) < 1e-12
    scores = [
        float(each.rstrip("%")) / (100 if "%" in each else 1)
        for each in (shown, printed)
        if set(each) & {"%", "."}
    ]
    return abs(scores[0] - scores[1]) <= 0.1 if len(scores) == 2 else shown == printed


@pytest.mark.parametrize("page", ["segmentation", "speech", "while-training"])
def test_a_page_prints_what_it_shows(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """`run("segmentation.md")`, `run("speech.md")`, `run("while-training.md")`: these need nothing but torch."""
    monkeypatch.chdir(tmp_path)
    run(f"{page}.md")
    printed = capsys.readouterr().out
    shown = "".join(
        re.findall(r"```text\n(.*?)```", (PAGES / f"{page}.md").read_text(encoding="utf-8"), re.DOTALL)
    )
    assert NUMBER.sub("#", printed) == NUMBER.sub("#", shown)
    pairs = zip(NUMBER.findall(shown), NUMBER.findall(printed), strict=True)
    assert [pair for pair in pairs if not near(*pair)] == []


def test_every_tutorial_is_run() -> None:
    tested = Path(__file__).read_text(encoding="utf-8")
    assert [page.name for page in PAGES.glob("*.md") if f'run("{page.name}"' not in tested] == []
