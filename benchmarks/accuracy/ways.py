"""The table of all ways to prune that are compared: what each tool offers, at its best."""

from __future__ import annotations

from tools import FLOOR, Way, distiller, torch_pruning, torchthin

WAYS: tuple[Way, ...] = (
    *(
        Way("torch-pruning", f"{name}{', global' if everywhere else ''}", data, torch_pruning(
            name, everywhere=everywhere, recalibrate=data == "inputs"
        ))
        for data in ("none", "inputs")
        for name in ("l1", "l2", "fpgm")
        for everywhere in (False, True)
    ),
    *(
        Way("torch-pruning", f"taylor{', global' if everywhere else ''}", "labels", torch_pruning(
            "taylor", everywhere=everywhere, recalibrate=True
        ))
        for everywhere in (False, True)
    ),
    Way("distiller masks", "l1", "none", distiller(recalibrate=False)),
    Way("distiller masks", "l1", "inputs", distiller(recalibrate=True)),
    *(
        Way("torchthin", f"{name}{', global' if everywhere else ''}", "none", torchthin(name, everywhere=everywhere))
        for name in ("l1", "l2", "fpgm")
        for everywhere in (False, True)
    ),
    *(
        Way("torchthin", f"{name}{', global' if everywhere else ''}", "none", torchthin(
            name, everywhere=everywhere, floor=None
        ))
        for name in ("lamp", "group-l2", "flow")
        for everywhere in (False, True)
    ),
    *(
        Way("torchthin", f"{name}{', global' if everywhere else ''}, refitted on noise", "none", torchthin(
            name, everywhere=everywhere, refit=True, noise=True, floor=floor
        ))
        for name, everywhere, floor in (
            ("l1", False, FLOOR), ("l2", True, FLOOR), ("group-l2", False, None), ("group-l2", True, None),
            ("reconstruction", False, FLOOR), ("reconstruction", True, FLOOR),
        )
    ),
    Way("torchthin", "l1, refitted", "inputs", torchthin("l1", everywhere=False, refit=True)),
    Way("torchthin", "reconstruction, refitted", "inputs", torchthin("reconstruction", everywhere=False, refit=True)),
    Way("torchthin", "reconstruction, global, refitted", "inputs", torchthin(
        "reconstruction", everywhere=True, refit=True
    )),
    Way("torchthin", "reconstruction, global, refitted, distilled", "inputs", torchthin(
        "reconstruction", everywhere=True, distil=True
    )),
)  # fmt: skip
