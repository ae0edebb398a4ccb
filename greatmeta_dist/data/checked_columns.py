"""The checks that each row of a log must pass, and what becomes of those that do not."""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.rejects import REJECT_SCHEMA
from greatmeta_dist.data.sources import Source
from greatmeta_dist.data.values import (
    MAX_TIME_S,
    Value,
    has_real_times,
    id_value,
    number_value,
    time_unit,
    time_value,
)

MAX_RATING = 1e15
"""Beyond this a rating is a mistake, and squares of it would lose all digits of the others."""
NUM_SAMPLED = 1000
"""First rows that tell the unit of times."""


@dataclass(frozen=True)
class PartedRows:
    """A batch's rows by what becomes of them."""

    good: pl.DataFrame
    """Typed."""
    bad: pl.DataFrame
    """As rejects."""
    num_unrated: int
    num_other_events: int
    events: Counter[str]
    """With ``data.events``: rows of each event."""


@dataclass(frozen=True)
class CheckedColumns:
    """The columns of a log, and the checks that a row must pass, in order."""

    values: dict[str, Value]
    """``user``, ``item``, and of ``rating`` and ``timestamp`` those that the log has."""
    checks: list[tuple[pl.Expr, str, pl.Expr]]
    """When a row fails, the column at fault, and the reason. Of typed columns, and of ``NAME is
    missing`` and ``NAME is bad`` of each."""
    is_unrated: pl.Expr
    id_types: dict[str, pl.DataType]
    """Of ``user`` and ``item``: Int64 or String."""
    time_unit: str | None
    events: dict[str, float]
    keeps_users: bool = False
    """Whether a row of which only the user is good, or counts, stays with its user alone."""

    @classmethod
    def of(
        cls, source: Source, config: DataConfig, *, keeps_users: bool = False
    ) -> "CheckedColumns":
        """With ``keeps_users`` a row that has a user, and neither item nor rating, is good."""
        log = source.frames[0]
        schema = log.collect_schema()
        missing = config.missing_values
        values = {name: id_value(name, schema[name], missing) for name in ("user", "item")}
        if config.events:
            values["event"] = id_value("event", schema["event"], missing)
        if config.has_ratings:
            values["rating"] = number_value("rating", schema["rating"], missing)
        unit = None
        if source.has_timestamp:
            sample = log.select("timestamp").head(NUM_SAMPLED).collect()["timestamp"]
            unit = time_unit(sample)
            values["timestamp"] = time_value(
                "timestamp",
                schema["timestamp"],
                missing,
                unit=unit,
                zero_is_missing=has_real_times(sample, unit),
            )
        is_unrated = pl.lit(False)
        if config.unrated_value is not None and "rating" in values:
            is_unrated = (pl.col("rating") == config.unrated_value).fill_null(False)
        checks = [
            *_id_checks("user"),
            *_id_checks("item"),
            *(_rating_checks(config, is_unrated) if "rating" in values else ()),
            *(_time_checks(config) if "timestamp" in values else ()),
        ]
        first = [(pl.col("reason").is_not_null(), "", pl.col("reason"))]
        if config.events:
            first += _id_checks("event")
            # A row that is left out need not be right.
            is_asked = ~pl.col("is_other_event")
            checks = [(fails & is_asked, name, why) for fails, name, why in checks]
            is_unrated &= is_asked
        if keeps_users:
            names = [f"{n} is missing" for n in ("item", "rating") if n == "item" or n in values]
            has_something = ~pl.all_horizontal(names)
            checks = [
                (fails if name == "user" else fails & has_something, name, why)
                for fails, name, why in checks
            ]
        ids = {n: schema.to_frame().select(values[n].value)[n].dtype for n in ("user", "item")}
        return cls(values, [*first, *checks], is_unrated, ids, unit, config.events, keeps_users)

    def beside(self, earlier: dict[str, pl.DataType]) -> "CheckedColumns":
        """The same with ids as text where an earlier log has them in another type."""
        types = {
            name: kind if earlier[name] == kind else pl.String()
            for name, kind in self.id_types.items()
        }
        return replace(self, id_types=types)

    def parted(self, batch: pl.DataFrame, *, has_places: bool) -> "PartedRows":
        """A batch's rows by what becomes of them.

        With ``has_places`` good rows have their ``file`` and ``line_in_file``.
        """
        everything, bad = self.check(batch), REJECT_SCHEMA.to_frame()
        checked = everything
        events: Counter[str] = Counter()
        num_other_events = 0
        if checked["is_bad"].any():
            bad = self.rejected(batch, checked)
            checked = checked.filter(~pl.col("is_bad"))
        if self.events:
            events.update(dict(checked["event"].drop_nulls().value_counts().iter_rows()))
            num_other_events = int(checked["is_other_event"].sum())
            checked = checked.filter(~pl.col("is_other_event"))
        num_unrated = int(checked["is_unrated"].sum())
        if num_unrated:
            checked = checked.filter(~pl.col("is_unrated"))
        file, line = pl.col("file"), pl.col("line").alias("line_in_file")
        places = [file, line] if has_places else []
        ids = [pl.col(name).cast(kind) for name, kind in self.id_types.items()]
        if self.keeps_users:
            checked = self._with_users_alone(everything)
        good = checked.select(*ids, "rating", "timestamp", *places)
        return PartedRows(good, bad, num_unrated, num_other_events, events)

    def _with_users_alone(self, checked: pl.DataFrame) -> pl.DataFrame:
        """The rows whose user is good; of those that do not count, nothing else."""
        is_left_out = pl.col("is_other_event") if self.events else pl.lit(False)
        counts = ~(pl.col("is_bad") | pl.col("is_unrated") | is_left_out)
        names = ("item", "rating", "timestamp")
        return checked.filter(
            pl.col("reason").is_null() & ~pl.col("user is missing") & ~pl.col("user is bad")
        ).with_columns(pl.when(counts).then(name).alias(name) for name in names)

    def check(self, batch: pl.DataFrame) -> pl.DataFrame:
        """Typed columns of a batch; what is wrong with each; ``is_bad``, ``is_unrated``.

        With ``data.events`` there are ``event`` and ``is_other_event`` besides, and ratings are
        weighed.
        """
        columns = {
            alias: column
            for name, value in self.values.items()
            for alias, column in _evaluate(batch, name, value).items()
        }
        # Where a log has no ratings, every row counts one.
        nothing = {"rating": pl.lit(1.0), "timestamp": pl.lit(None, pl.Float64)}
        absent = [value.alias(name) for name, value in nothing.items() if name not in columns]
        typed = batch.select("reason", "line", "file").with_columns(*columns.values(), *absent)
        if self.events:
            typed = self._with_events(typed)
        weighed = [pl.col("rating") * pl.col("weight")] if self.events else []
        return typed.with_columns(
            *weighed,
            is_unrated=self.is_unrated,
            is_bad=pl.any_horizontal(is_bad for is_bad, _, _ in self.checks),
        )

    def _with_events(self, typed: pl.DataFrame) -> pl.DataFrame:
        """With each row's ``event`` as text, its ``weight``, and ``is_other_event``."""
        event = pl.col("event").cast(pl.String)
        weight = event.replace_strict(
            list(self.events), list(self.events.values()), default=None, return_dtype=pl.Float64
        )
        is_well_formed = pl.col("reason").is_null() & event.is_not_null()
        return typed.with_columns(
            event=pl.when(is_well_formed).then(event),
            weight=weight,
            is_other_event=is_well_formed & weight.is_null(),
        )

    def rejected(self, batch: pl.DataFrame, checked: pl.DataFrame) -> pl.DataFrame:
        """The bad rows as ``REJECT_SCHEMA`` has them, with the first check that each fails."""
        texts = {f"text of {name}": value.text for name, value in self.values.items()}
        is_bad = checked["is_bad"]
        bad = batch.filter(is_bad).select("text", **texts)
        rows = bad.hstack(checked.filter(is_bad))
        column: Any = pl
        value, reason = column, column
        for fails, name, why in self.checks:
            column = column.when(fails).then(pl.lit(name))
            value = value.when(fails).then(pl.col(f"text of {name}" if name else "text"))
            reason = reason.when(fails).then(why)
        return rows.select("file", "line", column=column, value=value, reason=reason).cast(
            REJECT_SCHEMA
        )


def _evaluate(batch: pl.DataFrame, name: str, value: Value) -> dict[str, pl.Series]:
    """A column's values, and whether each ``is missing`` and ``is bad``.

    Where most rows are plain numbers in text, the others alone are looked at closely.
    """
    missing, bad = f"{name} is missing", f"{name} is bad"
    closely = {name: value.value, missing: value.is_missing, bad: value.is_bad}
    if value.if_plain is None:
        return batch.select(**closely).to_dict()
    plain = batch.select(value.if_plain.alias(name)).to_series()
    rows = plain.is_null().arg_true()
    no = pl.repeat(False, len(batch), eager=True)
    columns = {name: plain, missing: no.alias(missing), bad: no.alias(bad)}
    if not len(rows):
        return columns
    others = batch[rows].select(**closely)
    return {alias: column.scatter(rows, others[alias]) for alias, column in columns.items()}


def _id_checks(name: str) -> list[tuple[pl.Expr, str, pl.Expr]]:
    reason = f"{name} is no whole number, and the column holds numbers"
    return [
        (pl.col(f"{name} is missing"), name, pl.lit(f"no {name}")),
        (pl.col(f"{name} is bad"), name, pl.lit(reason)),
    ]


def _rating_checks(config: DataConfig, is_unrated: pl.Expr) -> list[tuple[pl.Expr, str, pl.Expr]]:
    rating = pl.col("rating")
    is_none = pl.col("rating is missing") | pl.col("rating is bad")
    is_huge = (rating.abs() > MAX_RATING).fill_null(False)
    checks = [
        (is_none, "rating", pl.lit("rating is not a number")),
        (is_huge, "rating", pl.lit(f"rating is beyond {MAX_RATING:g}")),
    ]
    if config.rating_range is not None:
        low, high = config.rating_range
        is_out = (~rating.is_between(low, high)).fill_null(False) & ~is_unrated
        checks.append((is_out, "rating", pl.lit(f"rating is outside {low:g} to {high:g}")))
    return checks


def _time_checks(config: DataConfig) -> list[tuple[pl.Expr, str, pl.Expr]]:
    """A time that is not understood is a fault; a missing one only where order is by time."""
    reason = pl.lit("timestamp is no time (a number, or ISO 8601) after 1900")
    is_late = (pl.col("timestamp") > MAX_TIME_S).fill_null(False)
    late = pl.lit("timestamp is after 2200, as fillers for a missing time are")
    checks = [
        (pl.col("timestamp is bad"), "timestamp", reason),
        (is_late, "timestamp", late),
    ]
    if config.needs_times is not None:
        why = pl.lit(f"no time, and {config.needs_times}")
        checks.append((pl.col("timestamp is missing"), "timestamp", why))
    return checks
