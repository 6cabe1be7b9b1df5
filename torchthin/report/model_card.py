"""The README.md that goes with a pruned model: what was done to it, and how it loads."""

from __future__ import annotations

from torchthin.report.prune_report import PruneReport

_STOCK = """\
from transformers import {name}

model = {name}.from_pretrained("this/folder")
"""
_OURS = """\
from torchthin.integrations.transformers import from_pretrained

model = from_pretrained("this/folder")                 # config.json is that of the full-size class
"""


def model_card(name: str, report: PruneReport | None, *, described: bool, base: str) -> str:
    """Return the text.

    Args:
        name: of the class.
        report: of the pruning, where it is known.
        described: whether the configuration describes the pruned model.
        base: what the model was called before, or an empty string.
    """
    title = f"{base}, pruned" if base else f"A pruned {name}"
    code = (_STOCK if described else _OURS).format(name=name)
    verdict = report.thinned.verdict if report is not None and report.thinned is not None else None
    lines = [
        "---",
        "library_name: transformers",
        "tags: [pruned, torchthin]",
        "---",
        "",
        f"# {title}",
        "",
        "Channels of this model were removed with torchthin.",
        *([f"The thinned model was compared with the masked one: **{verdict}**."] if verdict else []),
        "It was not evaluated on any task here, unless the report says so.",
        "",
        "```python",
        code.rstrip(),
        "```",
    ]
    if report is not None:
        lines += ["", "## Report", "", "```text", str(report), "```"]
    return "\n".join([*lines, ""])
