"""Run by `test_pretrained` in a process that cannot import torchthin: folders are loaded by transformers, and behave.

pretrained_program.py TESTS FOLDER...: beside each folder is FOLDER.pt with what the pruned model did.
"""

import sys
import warnings
from pathlib import Path

sys.modules["torchthin"] = None
sys.path.insert(0, sys.argv[1])
warnings.simplefilter("ignore")

import torch  # noqa: E402
import transformers  # noqa: E402
from tiny_pretrained import FAMILIES, behaviour  # noqa: E402

for folder in map(Path, sys.argv[2:]):
    family = FAMILIES[folder.name]
    model = getattr(transformers, family.auto).from_pretrained(str(folder))
    expected = torch.load(folder.with_suffix(".pt"), weights_only=True)
    seen = behaviour(family, model)
    assert seen.keys() == expected.keys(), folder.name
    for name, value in expected.items():
        if value.is_floating_point():
            assert value.dtype == seen[name].dtype == torch.float32, (folder.name, name)
            torch.testing.assert_close(seen[name], value, rtol=1e-6, atol=1e-6, msg=f"{folder.name}: {name}")
        else:
            assert torch.equal(seen[name], value), (folder.name, name)
sys.stdout.write(f"loaded without torchthin: {len(sys.argv) - 2}\n")
