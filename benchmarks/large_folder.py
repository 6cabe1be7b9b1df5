"""A Llama-7B-shaped folder of transformers becomes a smaller one: anonymous memory and seconds of each stage.

    python benchmarks/large_folder.py --folder /tmp/llama --layers 32

The folder is made of random bfloat16 weights unless it is there, and copied once with plain reads and writes, to compare with.
Memory is ``RssAnon``: pages of mapped files do not count, since the system drops them when it needs the room.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from memory import stage
from torch import Tensor
from zoo import vision_ops

import torchthin
from torchthin.integrations.transformers import from_pretrained
from torchthin.io.checkpoints.stream import shards_of, write_shards

SHARD = 2 * 10**9


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=32)
    options = parser.parse_args()
    torch.set_num_threads(1)
    vision_ops.define()
    folder, thin = options.folder, Path(f"{options.folder}-thin")
    if not (folder / "config.json").exists():
        make(folder, options.layers)
    with stage("plain copy of the files"):
        copy(folder, Path(f"{folder}-copy"))
    with stage("open"):
        model = from_pretrained(folder)
    target = torchthin.Ratio({"mlp": 0.25, "heads": 0.5}, even=True)
    with stage("plan (scores and proof)"):
        plan = torchthin.plan(model, None, target)
    assert plan.proof is not None and plan.proof.holds, plan.proof
    with stage("save_pretrained (cut, write, load, compare)"):
        result = plan.save_pretrained(thin)
    print(result.proof)
    print(sum(p.nbytes for p in result.model.parameters()) / 2**30, "GiB in the new folder")


def make(folder: Path, layers: int) -> None:
    """Write the folder: the configuration of Llama-2-7B, and random weights, one at a time."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config: Any = LlamaConfig(num_hidden_layers=layers, dtype="bfloat16", architectures=["LlamaForCausalLM"])
    with torch.device("meta"):
        forms = LlamaForCausalLM(config).to(torch.bfloat16).state_dict()
    config.save_pretrained(folder)

    def drawn(name: str) -> Tensor:
        tensor = torch.empty(forms[name].shape, dtype=torch.bfloat16)
        return tensor.normal_(0, 0.02) if tensor.dim() > 1 else tensor.fill_(1)

    torch.manual_seed(0)
    write_shards(folder, forms, shards_of(forms, SHARD), drawn)


def copy(folder: Path, target: Path) -> None:
    """Copy all files by reads and writes, flush them to the disk, and remove the copy."""
    target.mkdir()
    for path in folder.iterdir():
        with path.open("rb") as source, (target / path.name).open("wb") as file:
            shutil.copyfileobj(source, file, 2**24)
            file.flush()
            os.fsync(file.fileno())
    shutil.rmtree(target)


if __name__ == "__main__":
    main()
