"""``torchthin completion``: words for the shell's tab key, made from the parser itself."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from torchthin.cli.console import Parser
from torchthin.cli.flags_from_fields import Command
from torchthin.config import option
from torchthin.errors import ConfigError

SHELLS = ("bash", "zsh", "fish")


@dataclass(frozen=True)
class CompletionOptions:
    """Which shell."""

    shell: str | None = option(None, "shell", f"one of {', '.join(SHELLS)}", "SHELL")

    def __post_init__(self) -> None:
        if self.shell not in SHELLS:
            raise ConfigError(f"The shell must be one of {', '.join(SHELLS)}. Got {self.shell!r}.")


def run(options: CompletionOptions) -> int:
    """Print the script and return the exit code."""
    from torchthin.cli.main import program  # main knows this command

    script = {"bash": bash, "zsh": zsh, "fish": fish}[str(options.shell)]
    print(script(program().commands()), end="")
    return 0


def bash(commands: Mapping[str, Parser]) -> str:
    """Return the script for bash: commands, flags, else files."""
    cases = "\n".join(
        f'    {name}) COMPREPLY=( $(compgen -W "{_flags(parser)}" -- "$word") ) ;;'
        for name, parser in commands.items()
    )
    return f"""\
_torchthin() {{
  local word=${{COMP_WORDS[COMP_CWORD]}}
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=( $(compgen -W "{" ".join(commands)}" -- "$word") )
    return
  fi
  case $word in -*) ;; *) return ;; esac
  case ${{COMP_WORDS[1]}} in
{cases}
  esac
}}
complete -o default -F _torchthin torchthin
"""


def zsh(commands: Mapping[str, Parser]) -> str:
    """Return the script for zsh."""
    cases = "\n".join(f"      {name}) compadd -- {_flags(parser)} ;;" for name, parser in commands.items())
    return f"""\
#compdef torchthin
_torchthin() {{
  if (( CURRENT == 2 )); then
    compadd -- {" ".join(commands)}
  elif [[ ${{words[CURRENT]}} == -* ]]; then
    case ${{words[2]}} in
{cases}
    esac
  else
    _files
  fi
}}
compdef _torchthin torchthin
"""


def fish(commands: Mapping[str, Parser]) -> str:
    """Return the script for fish, with the help texts."""
    lines = []
    for name, parser in commands.items():
        about = shlex.quote(parser.description or "")
        lines.append(f"complete -c torchthin -n __fish_use_subcommand -a {name} -d {about}")
        for action in parser._actions:
            for flag in action.option_strings:
                if flag.startswith("--"):
                    about = shlex.quote((action.help or "").replace("%%", "%"))
                    lines.append(
                        f"complete -c torchthin -n '__fish_seen_subcommand_from {name}' -l {flag[2:]} -d {about}"
                    )
    return "\n".join(lines) + "\n"


def _flags(parser: Parser) -> str:
    return " ".join(flag for flag in parser._option_string_actions if flag.startswith("--"))


COMMAND = Command.of(
    "Print what makes a shell complete torchthin's commands and flags.",
    """\
example:
  %(prog)s bash > ~/.local/share/bash-completion/completions/torchthin
  %(prog)s zsh > ~/.zfunc/_torchthin
  %(prog)s fish > ~/.config/fish/completions/torchthin.fish
""",
    CompletionOptions,
    run,
)
