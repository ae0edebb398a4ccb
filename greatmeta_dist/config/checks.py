"""Checks of single options, with the option's name in the message."""

import re
from collections.abc import Callable, Sequence
from dataclasses import Field, field, fields
from typing import Any, get_args

from greatmeta_dist.errors import require


def choice(default: str, allowed: Sequence[str] | Callable[[], Sequence[str]]) -> Any:
    """A dataclass field that holds one of the ``allowed`` words.

    A function as ``allowed`` is called when the words are needed: those of a registry may come
    from installed packages, which are looked up late.
    """
    return field(default=default, metadata={"choices": allowed})


def choices_of(option: Field[Any]) -> tuple[str, ...]:
    """The words that an option allows; empty where it is no choice."""
    allowed = option.metadata.get("choices", ())
    return tuple(allowed() if callable(allowed) else allowed)


def typed_name(config: Any, name: str) -> str:
    """A field's name as it is typed; it differs where that is a word of Python's own."""
    (option,) = (f for f in fields(config) if f.name == name)
    return option.metadata.get("typed_as", name)


def check_choices(section: str, config: Any) -> None:
    """Check every choice of a section's dataclass; raises ``InputError``."""
    for option in fields(config):
        allowed = choices_of(option)
        if allowed:
            value = getattr(config, option.name)
            for word in value if isinstance(value, list) else [value]:
                if word is None and type(None) in get_args(option.type):
                    continue
                one_of(f"{section}.{option.name}", word, allowed)


def one_of(name: str, value: Any, allowed: Sequence[str]) -> None:
    require(value in allowed, f"{name} is '{value}'; expected one of {', '.join(allowed)}")


def at_least(name: str, value: float, lowest: float) -> None:
    require(value >= lowest, f"{name} is {value:g}; it must be {lowest:g} or more")


def in_range(
    name: str,
    value: float,
    lowest: float,
    highest: float,
    *,
    is_open: bool = False,
    is_open_above: bool = False,
    is_open_below: bool = False,
) -> None:
    """``is_open`` leaves both ends out, the others one end."""
    is_open_above, is_open_below = is_open or is_open_above, is_open or is_open_below
    is_above = value > lowest if is_open_below else value >= lowest
    is_below = value < highest if is_open_above else value <= highest
    ends = (" above" if is_open_below else "", " below" if is_open_above else "")
    require(
        is_above and is_below,
        f"{name} is {value:g}; it must be from{ends[0]} {lowest:g} to{ends[1]} {highest:g}",
    )


def require_utf8(name: str, path: str) -> None:
    """Raise ``InputError`` where a path is not of UTF-8, which no library here can open."""
    shown = path.encode("utf-8", "backslashreplace").decode()
    require(shown == path, f"{name} is {shown}, whose name is not valid UTF-8; rename it")


def require_no_half_url(name: str, path: str | None) -> None:
    """Raise ``InputError`` for a URL without its slashes, which would be a folder of that name."""
    found = re.match(r"(s3|gs|gcs|az|abfs|abfss):(?!//)/?(.*)", path or "")
    require(
        found is None,
        f"{name}={path} is neither a path nor a URL; write {found[1]}://{found[2]}"
        if found
        else "",
    )
