"""How anything here says that the user's input must change."""

from typing import Any

MAX_SHOWN = 80


class InputError(ValueError):
    """Bad usage or input: what was found, what was expected, what to do. Exit code 2."""


def require(condition: bool, message: str) -> None:
    """Raise ``InputError(message)`` unless the condition holds."""
    if not condition:
        raise InputError(message)


def shown(value: Any) -> str:
    """A value in a message: its ``repr`` on one line, cut where it is long.

    Arrays and frames print over many lines, and an error is one line.
    """
    text = " ".join(repr(value).split())
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…"
