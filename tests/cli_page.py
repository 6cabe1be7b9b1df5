"""The tables of flags in docs/cli.md, made from the parser.

python tests/cli_page.py        writes them anew; look at the difference before you commit it
"""

import re
from pathlib import Path

from torchthin.cli.console import Parser
from torchthin.cli.main import program

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"
_TABLE = re.compile(r"(<!-- flags of: (?P<name>\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def table(parser: Parser) -> str:
    """Return the flags of one command as Markdown tables, one for each group of flags."""
    parts = []
    for group in parser._action_groups:
        rows = []
        for action in group._group_actions:
            if action.dest in ("help", "help_all", "debug"):
                continue
            name = ", ".join(action.option_strings) or str(action.metavar)
            value = (
                ""
                if action.nargs == 0 or not action.option_strings
                else f" {action.metavar or action.dest.upper()}"
            )
            several = " ..." if action.nargs == "+" else ""
            told = (action.help or "").replace("%%", "%").replace("|", "\\|")
            rows.append(f"| `{name}{value}{several}` | {told} |\n")
        if rows:
            title = group.title if group.title not in ("options", "positional arguments") else "general"
            parts.append(f"| {title} | |\n|---|---|\n" + "".join(rows))
    return "\n".join(parts)


def renewed(page: str) -> str:
    """Return the page with its tables made anew."""
    commands = program().commands()
    return _TABLE.sub(lambda match: match[1] + table(commands[match["name"]]) + match[4], page)


def described(page: str) -> list[str]:
    """Return the commands that have a table."""
    return [match["name"] for match in _TABLE.finditer(page)]


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
