"""Memory that pruning takes on top of the model.

    python benchmarks/memory.py resnet50
    python benchmarks/memory.py resnet50 --proof off
    python benchmarks/memory.py llama --layers 32 --folder /tmp/llama

Of a torchvision case of the zoo: by how much the process's peak grows over that of a forward pass, in units of the model (all
parameters and buffers). Of ``llama``, a Llama-7B-shaped model of random bfloat16 weights in safetensors files, written to the
folder unless they are there: the peak of anonymous memory (``RssAnon``) in each stage, and what it holds afterwards. Mapped pages
of files do not count: the system drops them when it needs the room.
"""

from __future__ import annotations

import argparse
import json
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from coverage_case import SHARE, timed
from plan_large import Model
from safetensors.torch import save_file
from zoo import cases
from zoo.case import run

import torchthin


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="name of a torchvision case of the zoo, or llama")
    parser.add_argument("--proof", default="quick", help="off, quick or full")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--folder", type=Path, help="where the files of llama are, or are written to")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.model == "llama":
        large(options.layers, options.folder)
    else:
        small(options.model, options.proof)


def small(name: str, proof: str) -> None:
    case = cases(source="torchvision")[name]
    model, inputs = case.build(0), case.inputs()
    size = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    with torch.no_grad():
        run(model, inputs)
        _, forward = timed(lambda: run(model, inputs))
    before = peak()
    result, seconds = timed(lambda: torchthin.prune(model, inputs, SHARE, include=["*"], proof=proof))
    assert proof == "off" or (result.proof is not None and result.proof.holds)
    grown = peak() - before
    print(
        f'{name}, proof="{proof}": model {size / 2**20:.0f} MiB, peak grows by {grown / 2**20:.0f} MiB = '
        f"{grown / size:.2f} models, {seconds:.1f} CPU s = {seconds / forward:.1f} forward passes"
    )


CPU = torch.device("cpu")


def peak(device: torch.device = CPU) -> int:
    """Return the most memory that this process had of a device."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def forget_peak(device: torch.device) -> None:
    """Let `peak` begin again; of the CPU where the system is Linux."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif (process := Path("/proc/self/clear_refs")).exists():
        process.write_text("5")


def large(layers: int, folder: Path) -> None:
    if not (folder / "model.safetensors.index.json").exists():
        write(layers, folder)
    tokens = torch.arange(8)[None]
    with stage("load_mapped"):
        model = torchthin.load_mapped(lambda: Model(layers), folder)
    size = sum(parameter.nbytes for parameter in model.parameters())
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {size / 2**30:.2f} GiB", flush=True)
    with stage("plan"):
        plan = torchthin.plan(model, tokens)
    assert plan.proof is not None and plan.proof.holds
    print(plan.explain()[-3000:])
    with stage("apply"):
        result = plan.apply()
    after = sum(parameter.nbytes for parameter in result.model.parameters())
    print(f"thinned: {after / 2**30:.2f} GiB", flush=True)
    with stage("save"):
        result.save(folder / "thin" / "model.safetensors")


def write(layers: int, folder: Path) -> None:
    """Write random weights to one file for each layer, and the index."""
    folder.mkdir(parents=True, exist_ok=True)
    with torch.device("meta"):
        model = Model(layers)
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, parameter in model.named_parameters():
        parts.setdefault(".".join(name.split(".")[:2]), {})[name] = parameter
    for part, tensors in parts.items():
        drawn = {name: torch.empty(t.shape, dtype=torch.bfloat16) for name, t in tensors.items()}
        for tensor in drawn.values():
            tensor.normal_(0, 0.02) if tensor.dim() > 1 else tensor.fill_(1)
        save_file(drawn, folder / f"{part}.safetensors")
    places = {name: f"{part}.safetensors" for part, tensors in parts.items() for name in tensors}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Print seconds and anonymous memory of a block: its peak, and what is left of it."""
    samples, done, start = [anonymous()], threading.Event(), time.perf_counter()

    def sample() -> None:
        while not done.wait(0.005):
            samples.append(anonymous())

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield
    finally:
        done.set()
        sampler.join()
        seconds = time.perf_counter() - start
        print(
            f"{name}: peak {max(samples) / 2**30:.2f} GiB, then {anonymous() / 2**30:.2f} GiB, {seconds:.0f} s",
            flush=True,
        )


def anonymous() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024


if __name__ == "__main__":
    main()
