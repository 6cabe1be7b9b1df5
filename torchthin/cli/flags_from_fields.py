"""Flags of the command line, made from fields: one made by `option`, in config/ or in the command's own module, is a flag, a key
of configuration files, and its JSON Schema."""

from __future__ import annotations

import argparse
import json
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from functools import cache, partial
from typing import Any, TypeVar

from torchthin.cli.console import Parser
from torchthin.config import key_of, option
from torchthin.config.files import parse_json
from torchthin.errors import ConfigError

Options = TypeVar("Options")
_EXTENDED = ("input_shape",)
"""Keys of flags that may be given several times, each time with more values."""


@dataclass(frozen=True)
class ValueType:
    """What one value of an option may be."""

    words: str
    accepts: type | types.UnionType
    schema: str
    """Its type in JSON Schema."""
    convert: Any = None
    """What argparse makes of the text; None: the text itself."""


def json_object(text: str) -> dict[str, Any]:
    """Return a JSON object; argparse reports any other text."""
    try:
        value = parse_json(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"""not JSON ({error}); write it as '{{"num_classes": 10}}'"""
        ) from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(
            f"""must be a JSON object such as '{{"num_classes": 10}}', got {text}"""
        )
    return value


TYPES: dict[object, ValueType] = {
    str: ValueType("text", str, "string"),
    int: ValueType("a whole number", int, "integer", int),
    float: ValueType("a number", int | float, "number", float),
    bool: ValueType("true or false", bool, "boolean"),
    Mapping: ValueType("a mapping of names to values", dict, "object", json_object),
}


@dataclass(frozen=True)
class Flag:
    """One option: its field, and what the field's annotation says of its values."""

    item: Field[Any]
    types: tuple[Any, ...]
    """Of one value; the first is what the flag takes."""
    is_list: bool
    optional: bool

    @property
    def key(self) -> str:
        """Key in configuration files."""
        return key_of(self.item)

    @property
    def name(self) -> str:
        """Name on the command line; without dashes it is given by position."""
        return str(self.item.metadata["flag"])

    @property
    def help(self) -> str:
        """One line."""
        return str(self.item.metadata["help"])

    def add_to(self, parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
        """Add the flag to a parser or to one of its groups."""
        how: dict[str, Any] = {"help": self.help.replace("%", "%%")}
        if bool in self.types:
            how["action"] = "store_false" if self.name.startswith("--no-") else "store_true"
        else:
            how |= {"metavar": self.item.metadata["metavar"], "type": TYPES[self.types[0]].convert}
        if self.is_list:
            how |= {"nargs": "+", "action": "extend" if self.key in _EXTENDED else "store"}
        if not self.name.startswith("-"):
            how["nargs"] = "?"
        else:
            how["dest"] = self.key
        parser.add_argument(self.name, **how)

    def checked(self, value: Any) -> Any:
        """Return what a configuration file gives, a list as a tuple.

        Raises:
            ConfigError: it is of another type.
        """
        values = tuple(value) if self.is_list and isinstance(value, list) else (value,)
        if not all(self._accepts(each) for each in values):
            words = " or ".join(TYPES[each].words for each in self.types)
            several = f", or a list: {words} each" if self.is_list else ""
            metavar = self.item.metadata["metavar"]
            shown = f" ({metavar})" if metavar else ""
            raise ConfigError(f"The option {self.key}{shown} must be {words}{several}. Got {value!r}.")
        if float in self.types and str not in self.types:
            values = tuple(map(float, values))
        return values if self.is_list else values[0]

    def _accepts(self, value: Any) -> bool:
        return any(
            isinstance(value, TYPES[each].accepts) and (each is bool or not isinstance(value, bool))
            for each in self.types
        )

    def schema(self, choices: Iterable[str] = (), default: Any = None) -> dict[str, Any]:
        """Return what JSON Schema says of it. choices: all texts that are allowed, where they are few."""
        kinds = ["number" if each is int and str in self.types else TYPES[each].schema for each in self.types]
        found: list[dict[str, Any]] = [{"type": kind} for kind in kinds]
        if self.is_list:
            found = [{"type": ["array", *kinds], "items": {"type": kinds[0]}}]
        elif choices:
            found = [{**each, "enum": list(choices)} if each["type"] == "string" else each for each in found]
        if self.optional:
            found.append({"type": "null"})
        default = self.item.default if default is None else default
        shown = {} if default is None else {"default": json.loads(json.dumps(default))}
        return {**(found[0] if len(found) == 1 else {"anyOf": found}), **shown, "description": self.help}


def flags_of(kind: Any) -> Mapping[str, Flag]:
    """Return the options that a dataclass declares itself, not in its parts: key -> flag."""
    return _flags_of(kind)


@cache
def _flags_of(kind: Any) -> Mapping[str, Flag]:
    hints = typing.get_type_hints(kind)
    return {key_of(item): _flag(item, hints[item.name]) for item in fields(kind) if "flag" in item.metadata}


def _flag(item: Field[Any], hint: Any) -> Flag:
    parts = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    plain = tuple(part for part in parts if part is not types.NoneType)
    is_list = typing.get_origin(plain[0]) is tuple
    if is_list:
        plain = (typing.get_args(plain[0])[0],)
    if plain == (Any,):
        return Flag(item, (str,), is_list, optional=True)
    origins = tuple(typing.get_origin(each) or each for each in plain)
    return Flag(item, origins, is_list, optional=len(parts) > len(plain))


def part(title: str) -> Any:
    """Return a dataclass field that is itself a dataclass of options, shown by ``--help`` under `title`."""
    return field(kw_only=True, metadata={"title": title})


def json_option() -> Any:
    """Return the field of ``--json``."""
    return option(False, "--json", "figures as JSON on stdout, all other text on stderr")


def like(kind: type, name: str, default: Any = ..., help: str | None = None, flag: str | None = None) -> Any:
    """Return a field like the field `name` of another dataclass of options: the same flag, help and default but those given."""
    (item,) = (each for each in fields(kind) if each.name == name)
    what = item.metadata
    return option(
        item.default if default is ... else default,
        flag or what["flag"],
        help or what["help"],
        what["metavar"],
    )


def parts_of(kind: type) -> Iterator[tuple[Field[Any], type]]:
    """Yield the fields of a dataclass that are made by `part`, with their types."""
    hints = typing.get_type_hints(kind)
    for item in fields(kind):
        if "title" in item.metadata:
            yield item, hints[item.name]


def all_flags(kind: type) -> dict[str, Flag]:
    """Return the options of a dataclass and of its parts: key -> flag."""
    found = dict(flags_of(kind))
    for _, inner in parts_of(kind):
        found |= all_flags(inner)
    return found


def values_of(options: Any) -> dict[str, Any]:
    """Return key -> value of all options in a dataclass and its parts; `read` makes the same of them."""
    found = {key: getattr(options, flag.item.name) for key, flag in flags_of(type(options)).items()}
    for item, _ in parts_of(type(options)):
        found |= values_of(getattr(options, item.name))
    return found


def add_flags(parser: argparse.ArgumentParser, kind: type, title: str | None = None) -> None:
    """Add the flags of a dataclass of options to a group of `parser`, and those of its parts to groups of their own."""
    if flags_of(kind):
        add_group(parser, title or "options", flags_of(kind).values())
    for item, inner in parts_of(kind):
        add_flags(parser, inner, item.metadata["title"])


def add_group(
    parser: argparse.ArgumentParser, title: str, flags: Iterable[Flag], description: str | None = None
) -> None:
    """Add flags to the group of that title, which is made where there is none; those given by position first."""
    groups = {group.title: group for group in parser._action_groups}
    group = groups.get(title) or parser.add_argument_group(title, description)
    for flag in sorted(flags, key=lambda each: each.name.startswith("-")):
        flag.add_to(group)


def given_flags(namespace: argparse.Namespace) -> dict[str, Any]:
    """Return what was given, lists as tuples: key -> value."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in vars(namespace).items()}


def read(kind: type[Options], values: Mapping[str, Any]) -> Options:
    """Return the options of a dataclass, and of its parts, from flat values; what is missing has its default.

    Raises:
        ConfigError: the dataclass refuses a value.
    """
    own = {flag.item.name: values[key] for key, flag in flags_of(kind).items() if key in values}
    parts: dict[str, Any] = {item.name: read(inner, values) for item, inner in parts_of(kind)}
    return kind(**own, **parts)


@dataclass(frozen=True)
class Command:
    """One command: its texts, its flags, what they are read into, and what runs."""

    description: str
    example: str
    add_flags: Callable[[argparse.ArgumentParser], None]
    read: Callable[[Mapping[str, Any]], Any]
    """Given flags -> options."""
    run: Callable[[Any], int]
    usual: tuple[str, ...] = ()
    """Flags that ``--help`` shows where the command has too many for a page; the rest by ``--help-all``."""

    @classmethod
    def of(
        cls, description: str, example: str, kind: type[Options], run: Callable[[Options], int]
    ) -> Command:
        """Return a command whose flags and options are those of a dataclass."""
        return cls(description, example, partial(add_flags, kind=kind), partial(read, kind), run)

    def add_to(self, parser: Parser) -> None:
        """Add the command's flags to a parser, and ``--debug``, which `torchthin.cli.console.run_command` reads."""
        self.add_flags(parser)
        parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
        if self.usual:
            parser.show_at_first(self.usual)

    def call(self, namespace: argparse.Namespace) -> int:
        """Run on what was given, and return the exit code."""
        return self.run(self.read(given_flags(namespace)))
