"""Checks of single options, with the option's name in the message."""

from typing import Any

from greatmeta_dist.errors import require


def one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
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
) -> None:
    """``is_open`` leaves both ends out, ``is_open_above`` the upper one."""
    above = value > lowest if is_open else value >= lowest
    below = value < highest if is_open or is_open_above else value <= highest
    ends = (" above" if is_open else "", " below" if is_open or is_open_above else "")
    require(
        above and below,
        f"{name} is {value:g}; it must be from{ends[0]} {lowest:g} to{ends[1]} {highest:g}",
    )
