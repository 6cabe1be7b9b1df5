"""Run by `test_pretrained` in a process that cannot import torchthin: folders are loaded by transformers, and behave."""

import sys
import warnings
from pathlib import Path

import torch
from processes import without_torchthin


def load_alone(folders: list[Path]) -> None:
    """Load each folder and compare it with FOLDER.pt, which has what the pruned model did."""
    without_torchthin()
    warnings.simplefilter("ignore")
    import transformers
    from tiny_pretrained import FAMILIES, behaviour

    for folder in folders:
        family = FAMILIES[folder.name]
        model = getattr(transformers, family.auto).from_pretrained(str(folder))
        expected = torch.load(folder.with_suffix(".pt"), weights_only=True)
        seen = behaviour(family, model)
        assert seen.keys() == expected.keys(), folder.name
        for name, value in expected.items():
            if value.is_floating_point():
                assert value.dtype == seen[name].dtype == torch.float32, (folder.name, name)
                torch.testing.assert_close(
                    seen[name], value, rtol=1e-6, atol=1e-6, msg=f"{folder.name}: {name}"
                )
            else:
                assert torch.equal(seen[name], value), (folder.name, name)
    sys.stdout.write(f"loaded without torchthin: {len(folders)}\n")
