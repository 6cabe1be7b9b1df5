"""One small sound file of every format that the package reads: what `tests/io/test_fuzzed_files.py` damages.

python tests/fuzz_corpus.py        writes tests/data/fuzz again
"""

import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn

import torchthin
from torchthin.evaluation.latency import LatencyCache
from torchthin.evaluation.results import Results
from torchthin.integrations.transformers import save_pretrained
from torchthin.pruning.comparison.comparison import Row
from torchthin.recovery.training_state import TrainingState

CORPUS = Path(__file__).parent / "data" / "fuzz"
IMAGES = torch.linspace(-1, 1, 2 * 3 * 6 * 6).reshape(2, 3, 6, 6)
MACHINE = "cpu: any, torch 2, float32"
MARK = "0123456789abcdef"

SCHEDULE = {
    "version": 1,
    "pruners": {
        "trunk": {
            "class": "L1RankedStructureParameterPruner_AGP",
            "initial_sparsity": 0.1,
            "final_sparsity": 0.5,
            "group_type": "Filters",
            "weights": ["0.weight"],
        }
    },
    "lr_schedulers": {"training_lr": {"class": "StepLR", "step_size": 45}},
    "policies": [
        {
            "pruner": {"instance_name": "trunk"},
            "starting_epoch": 0,
            "ending_epoch": 10,
            "frequency": 2,
        },
        {
            "lr_scheduler": {"instance_name": "training_lr"},
            "starting_epoch": 45,
            "ending_epoch": 300,
            "frequency": 1,
        },
    ],
}
CONFIGURATION = {
    "model_factory": "net.py:net",
    "input_shape": "1,3,6,6",
    "target_sparsity": 0.5,
    "method": "l1-structured",
    "weights": ["0.*"],
    "keep": ["5.*"],
    "round_to": 2,
    "keep_at_least": 0.1,
    "thin": True,
    "seed": 3,
    "save_to": "small.pth",
}
DESCRIPTION = """\
---
# two layers, with a remark
arch: net
dataset: sample
layers:
  - out_offset: 0x2000
    processors: 0x0000000000000007  # colours
    operation: conv2d
    kernel_size: 3x3
    pad: 1
    activate: ReLU
    data_format: HWC
    name: stem
  - in_sequences: [stem]
    processors: 0xff
    out_offset: 0
    op: conv2d
    kernel_size: 1x1
    pad: 0
    output_width: 8
"""


def net() -> nn.Sequential:
    """The class at full size."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(64, 2)
    )


def chip_net() -> nn.Sequential:
    """What `DESCRIPTION` describes."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))


def pruner() -> tuple[nn.Sequential, torch.optim.Optimizer, torchthin.Pruner]:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    made = torchthin.Pruner(model, IMAGES, 0.5, schedule=torchthin.Schedule(steps=2), optimizer=optimizer)
    return model, optimizer, made


def training_state() -> TrainingState:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    generator = torch.Generator().manual_seed(0)
    return TrainingState(model, optimizer, schedule, generator, {"epochs": 2}, [0.5])


def encoder() -> Any:
    """A model of transformers whose configuration cannot say how many heads are left, so that its folder has a recipe."""
    from tiny_pretrained import T

    torch.manual_seed(0)
    sizes = {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 8, "max_position_embeddings": 16}
    return T.BertModel(T.BertConfig(**sizes, num_hidden_layers=1, num_attention_heads=2)).eval()


def write_checkpoints(folder: Path) -> None:
    result = torchthin.prune(net(), IMAGES, 0.5)
    result.save(folder / "thin.pth")
    result.save(folder / "thin.safetensors")
    content = torch.load(folder / "thin.pth", weights_only=True)
    torch.save(content, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    (folder / "shards").mkdir(exist_ok=True)
    from safetensors.torch import save_file

    state = net().state_dict()
    halves = {"a.safetensors": dict(list(state.items())[:4]), "b.safetensors": dict(list(state.items())[4:])}
    for name, half in halves.items():
        save_file(half, folder / "shards" / name)
    index = {"metadata": {}, "weight_map": {n: file for file, half in halves.items() for n in half}}
    (folder / "shards" / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
    write_distiller(folder / "distiller.pth.tar")
    model, optimizer, made = pruner()
    made.step()
    model(IMAGES).sum().backward()
    optimizer.step()
    states = {"pruner": made.state_dict(), "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(states, folder / "pruner.pth")
    training_state().save(folder / "training.pth")


def write_distiller(path: Path) -> None:
    """A thinned checkpoint as Distiller's `save_checkpoint` writes it, by its documented keys."""

    class ThinningRecipe:
        def __init__(self, modules: object, parameters: object) -> None:
            self.modules, self.parameters = modules, parameters

        def __reduce__(self) -> tuple[object, ...]:
            return type(self), (self.modules, self.parameters)

    ThinningRecipe.__module__, ThinningRecipe.__qualname__ = "distiller.thinning", "ThinningRecipe"
    module = types.ModuleType("distiller.thinning")
    vars(module)["ThinningRecipe"] = ThinningRecipe
    sys.modules["distiller"], sys.modules["distiller.thinning"] = types.ModuleType("distiller"), module
    kept = torch.tensor([0, 2])
    recipe = ThinningRecipe(
        {"0": {"out_channels": 2}, "1": {"num_features": 2, "running_mean": (0, kept), "running_var": (0, kept)},
         "3": {"in_channels": 2}},
        {"0.weight": [(0, kept)], "0.bias": [(0, kept)], "1.weight": [(0, kept)], "1.bias": [(0, kept)],
         "3.weight": [(1, kept)]},
    )  # fmt: skip
    state = net().state_dict()
    for name, cuts in recipe.parameters.items():  # type: ignore[attr-defined]
        for axis, index in cuts:
            state[name] = state[name].index_select(axis, index)
    for name in ("1.running_mean", "1.running_var"):
        state[name] = state[name][kept]
    content = {"state_dict": state, "epoch": 3, "arch": "net", "thinning_recipes": [recipe]}
    torch.save(content, path)


def write_texts(folder: Path) -> None:
    (folder / "schedule.yaml").write_text(yaml.safe_dump(SCHEDULE, sort_keys=False))
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIGURATION, sort_keys=False))
    (folder / "network.yaml").write_text(DESCRIPTION)
    for name in ("cache.jsonl", "rows.jsonl", "times.json"):
        (folder / name).unlink(missing_ok=True)
    cache = Results[Any, float](
        folder / "cache.jsonl", MARK, encode=float, decode=float, role="cache", command="sensitivity"
    )
    cache.begin(0.0)
    cache.add(("0.weight", 2), 0.25)
    rows = Results[str, Row](
        folder / "rows.jsonl", MARK, encode=Row.to_dict, decode=Row.from_dict, role="rows", command="compare"
    )
    rows.begin(Row("dense", macs=100, parameters=10))
    rows.add("a", Row("l1-structured", "l1", "0.5", 50, True, 5, 20, 0.5, 0.1, 1.0, 2.0, 7))
    times = LatencyCache(folder / "times.json", MACHINE)
    times.known.update({"conv 3 4": 1500.0, "linear 64 2": 900.5})
    times.save()
    table = torchthin.sensitivity(net(), IMAGES, data=IMAGES, ratios=(0.25, 0.5))
    (folder / "table.json").write_text(json.dumps(table.to_dict(), indent=1))
    report = torchthin.prune(net(), IMAGES, 0.5).report
    (folder / "report.json").write_text(json.dumps(report.to_dict(), indent=1))


def write_data(folder: Path) -> None:
    from PIL import Image

    np.save(folder / "images.npy", IMAGES.numpy())
    torch.save(IMAGES.clone(), folder / "images.pt")
    (folder / "pictures").mkdir(exist_ok=True)
    picture = Image.fromarray((IMAGES[0].permute(1, 2, 0).numpy() * 127 + 128).astype(np.uint8))
    picture.save(folder / "pictures" / "one.png")
    picture.save(folder / "pictures" / "two.jpg")


def write_folder(folder: Path) -> None:
    result = torchthin.prune(encoder(), torch.arange(8)[None], torchthin.Ratio({"heads": 0.5}))
    save_pretrained(result.model, folder / "bert", described=False)
    (folder / "bert" / "README.md").unlink()  # written, never read


def main() -> None:
    CORPUS.mkdir(exist_ok=True)
    for write in (write_checkpoints, write_texts, write_data, write_folder):
        write(CORPUS)


if __name__ == "__main__":
    main()
