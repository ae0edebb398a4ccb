"""A sweep's words: the values of each option, in Hydra's syntax.

``a,b``, ``choice(a,b)`` and ``range(1,4)`` list values; ``interval(1e-4,1e-1)`` and
``tag(log,interval(…))`` are ranges, from which a search draws.
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException

from greatmeta_dist.errors import InputError, require
from greatmeta_dist.options.compose import first_line, is_outside_grammar, remedy
from greatmeta_dist.options.names import Option, all_options

MAX_NAME = 160
"""Characters of a job's name; a file system holds 255 bytes, and a run's files have names, too."""
UNSAFE = re.compile(r"[^\w.=,+\[\]-]")
"""What stands as ``_`` in a job's name, with a hash behind it that tells such names apart."""


@dataclass(frozen=True)
class Range:
    """The values between two ends, both of which belong to it."""

    low: float
    high: float
    step: float | None
    """None: all numbers, or all whole ones."""
    is_log: bool
    """Whether equal ratios count the same, and not equal differences."""
    is_whole: bool


@dataclass(frozen=True)
class SweepWords:
    """The words of ``train -m`` by option, without its folder and the sweep's own options."""

    single: dict[str, str] = field(default_factory=dict)
    """Options of one value."""
    values: dict[str, list[str]] = field(default_factory=dict)
    """Options of several values."""
    ranges: dict[str, Range] = field(default_factory=dict)
    """Options of which a search draws the value."""

    @classmethod
    def parse(cls, words: list[str], *, is_search: bool) -> "SweepWords":
        """Read ``option=values`` words; of a search ``range(…)`` is a range, too.

        Raises ``InputError`` in one line.
        """
        parsed = cls()
        for word in words:
            key, value = word.split("=", 1)
            override = None if is_outside_grammar(word) else _override(word)
            if override is None or not override.is_sweep_override():
                parsed.single[key] = value
            elif override.is_interval_sweep() or (is_search and override.is_range_sweep()):
                parsed.ranges[key] = _range(key, override)
            else:
                parsed.values[key] = list(dict.fromkeys(_strings(word, override)))
        return parsed

    @property
    def swept(self) -> list[str]:
        """Options that do not have one value alone."""
        return [*self.values, *self.ranges]

    def combinations(self) -> Iterator[dict[str, str]]:
        """Every combination of the values, by option; the last option varies first."""
        for texts in itertools.product(*self.values.values()):
            yield dict(zip(self.values, texts, strict=True))

    def words(self, values: Mapping[str, str]) -> list[str]:
        """The words of one training, with these values of the swept options."""
        return [f"{key}={text}" for key, text in {**self.single, **values}.items()]


def job_name(values: Mapping[str, str]) -> str:
    """The name of a job's folder, as Hydra's: its options in alphabetical order."""
    text = ",".join(f"{key}={values[key]}" for key in sorted(values)) or "defaults"
    name = UNSAFE.sub("_", text)
    if name == text and len(name.encode()) <= MAX_NAME:
        return name
    return f"{name[: MAX_NAME // 2]}-{sha256(text.encode()).hexdigest()[:8]}"


def _override(word: str) -> Override:
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException as error:
        raise InputError(first_line(error) + remedy("", [word])) from error


def _strings(word: str, override: Override) -> list[str]:
    """The values of a list, as one would type each."""
    try:
        values = [str(value) for value in override.sweep_string_iterator()]
    except HydraException as error:
        raise InputError(f"{first_line(error)} in {word}") from error
    require(bool(values), f"{word} has no value; write them with commas, as in a,b")
    return values


def _range(key: str, override: Override) -> Range:
    """The range of a numeric option; raises ``InputError`` where it is none."""
    value, option = override.value(), all_options().get(key)
    kinds = _number_kinds(option)
    require(bool(kinds), f"{key} is a range, and it takes no numbers; list its values with commas")
    is_whole = float not in kinds
    if isinstance(value, RangeSweep):
        numbers = [float(number) for number in value.range()]
        require(bool(numbers), f"{key} is an empty range")
        low, high = min(numbers), max(numbers)
        step: float | None = abs(float(value.step))
    else:
        assert isinstance(value, IntervalSweep)
        low, high, step = float(value.start or 0), float(value.end or 0), None
    is_log = "log" in value.tags
    require(low < high, f"{key} is a range from {low:g} to {high:g}; the first end must be lower")
    require(
        not is_log or (low > 0 and step is None),
        f"{key} is a logarithmic range from {low:g}; it must begin above 0, as interval(1e-4,1)",
    )
    require(
        not is_whole or (low.is_integer() and high.is_integer()),
        f"{key} is a range from {low:g} to {high:g}, and takes whole numbers",
    )
    return Range(low, high, step, is_log, is_whole)


def _number_kinds(option: Option | None) -> set[type]:
    return {int, float} & set(option.types) if option and not option.is_list else set()
