"""What ADI's quantize.py and ai8xize.py printed for these very files: descriptions are compared by their digest."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from synthesis_networks import network

from torchthin.max7800x.synthesis.files import ready_for_synthesis

PRINTED: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "data" / "adi_synthesis.json").read_text()
)


def digest(entries: Any) -> str:
    """Return a number for the layers of a description."""
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()[:16]


@pytest.mark.parametrize("printed", PRINTED, ids=lambda one: f"{one['network']}-{one['chip']}")
def test_the_files_that_the_tool_took(printed: dict[str, Any], tmp_path: Path) -> None:
    model, images = network(printed["network"])
    ready = ready_for_synthesis(model, images, tmp_path, chip=printed["chip"], arch=printed["network"])
    assert digest(ready.network.entries) == printed["description"]
    cost = ready.network.report.cost
    assert [row.kernel_words for row in cost.layers] == printed["words"]
    assert [row.kernel_offset for row in cost.layers if row.kernel_words] == printed["offsets"]
    assert (cost.weight_bytes, cost.bias_bytes) == (printed["weight_bytes"], printed["bias_bytes"])
    if printed["cycles"] is not None:
        assert [row.cycles for row in cost.layers] == printed["cycles"]
    assert (
        ready.network.max_error == 0 if "quantised" in printed["network"] else ready.network.max_error < 1e-6
    )
