"""``greatmeta recommend``: a run and a log of users → the best items of each, in files."""

import time
from collections.abc import Collection, Iterator
from pathlib import Path

from greatmeta_dist.commands.prepare_report import columns_text
from greatmeta_dist.config import Config
from greatmeta_dist.display import Display
from greatmeta_dist.launch.units import model_unit_runner, unit_runner
from greatmeta_dist.predict import Predictor, RunModel
from greatmeta_dist.recommend.batch import recommend_to_files, rejects_path
from greatmeta_dist.recommend.batch_request import Request, Summary, TrainedModel
from greatmeta_dist.storage.output import made_at

LABEL_WIDTH = 10


def recommend_users(
    config: Config, *, typed: Collection[str] = (), display: Display | None = None
) -> Summary:
    """Write the best items of every user of ``config.users`` to ``config.out``.

    ``typed`` are the options of ``data`` that were typed, and ``data`` itself where a preset was.
    Raises ``InputError`` where the run or the users' files cannot be read.
    """
    display, start = display or Display(), time.monotonic()
    assert config.users is not None
    assert config.out is not None
    taken = f"another recommend is writing {config.out}"
    with made_at(config.out, taken=taken) as out:
        summary = _recommend(config, out, typed, display)
    if not summary.is_new:
        display.say(f"{config.out} already holds the recommendations of the same files and run")
        return summary
    display.say(
        f"{summary.rows:,} recommendations to {summary.counts.users:,} users are in {config.out} "
        f"after {time.monotonic() - start:.1f} s; {summary.users_per_second:,.0f} users/s"
    )
    return summary


def _recommend(config: Config, out: Path, typed: Collection[str], display: Display) -> Summary:
    """Write them to ``out``, and say what the users' files were like."""
    assert config.users is not None
    request = Request(
        config.users,
        out,
        config.k,
        config.exclude_seen,
        config.candidates,
        config.new_items,
        config.items,
        config.ratings,
        config.explain,
    )
    predictor = Predictor.load(config.run or "", warn=display.say)
    model = _model(predictor)
    with (
        unit_runner(config.cluster, display) as run_units,
        display.bar("recommend", 100, "%") as bar,
    ):

        def progress(phase: str, share: float) -> None:
            bar.update(100 * share, phase)

        summary = recommend_to_files(
            request,
            model,
            config.data,
            typed=typed,
            progress=progress,
            run_units=run_units,
            run_model_units=model_unit_runner(config.cluster, display),
        )
    if summary.is_new:
        for line in _lines(summary, request):
            display.say(line)
    return summary


def _model(predictor: Predictor) -> TrainedModel:
    identity = [predictor.store_identity, predictor.step, predictor.blend_weight]
    settings = [predictor.config.model, predictor.config.inner, predictor.config.train]
    return TrainedModel(
        RunModel.of(predictor),
        predictor.catalogue,
        predictor.feature_spec,
        [*identity, *map(repr, settings)],
    )


def _lines(summary: Summary, request: Request) -> Iterator[str]:
    """What the users' files were like, and what was not known of them."""
    counts = summary.counts
    if summary.columns:
        columns = {role: name for role, name in summary.columns.items() if name != "auto"}
        yield _line("columns", columns_text(columns))
    yield from _row_lines(summary, request)
    if summary.is_list:
        yield _line("users", "no column of items, so nothing is known of any user")
    elif counts.unknown_users:
        yield _line("users", f"{counts.unknown_users:,} of {counts.users:,} without a known row")
    if counts.long_users:
        yield _line(
            "", f"{counts.long_users:,} know more than a support of the training may have; as many "
            "rows of them are read"
        )  # fmt: skip
    if counts.unknown_rows:
        yield _line(
            "unknown",
            f"{counts.unknown_rows:,} rows of {counts.unknown_items:,} items that the catalogue "
            f"does not have; the first is {counts.first_unknown_item}",
        )
    for name, number in counts.unknown_values.items():
        yield _line("unknown", f"{number:,} users' {name}: training did not have it, or hardly")
    if summary.unknown_candidates:
        yield _line(
            "unknown",
            f"{summary.unknown_candidates:,} of {summary.candidates:,} candidates",
        )
    if summary.beside is not None:
        yield _line("ratings", f"{summary.beside.rows:,} of {summary.beside.users:,} users beside")
    if summary.added_items or summary.new_item_ratings:
        yield _line(
            "new items",
            f"{summary.added_items:,} behind the catalogue; {summary.new_item_ratings:,} ratings "
            "of items that training did not have are learnt from",
        )
    if summary.unused_item_columns:
        names = ", ".join(summary.unused_item_columns)
        yield _line("not used", f"{names} of {request.items}: no feature of the run's items")
    if request.k > summary.items:
        yield _line(
            "k", f"k={request.k}, and there are {summary.items:,} items: users get what there is"
        )
    if summary.no_items:
        yield _line("no items", f"{summary.no_items:,} users know all items that they could get")


def _row_lines(summary: Summary, request: Request) -> Iterator[str]:
    counts = summary.counts
    yield _line("rows", f"{counts.read:,} read, {counts.rows:,} known of users")
    for number, text in (
        (counts.repeats, "repeats of a user and an item, merged (data.repeats)"),
        (counts.unrated, "left out, unrated (data.unrated_value)"),
        (counts.other_events, "left out, of other events (data.events)"),
    ):
        if number:
            yield _line("", f"{number:,} {text}")
    if counts.rejected or counts.rejected_features:
        faults = f", and {counts.rejected_features:,} faults in users' features"
        yield _line(
            "rejected",
            f"{counts.rejected:,} rows{faults if counts.rejected_features else ''}; the first: "
            f"{counts.first_rejected}; see {rejects_path(request.out)}",
        )


def _line(label: str, text: str) -> str:
    return f"{label:<{LABEL_WIDTH}}{text}"
