"""An event column filters rows and weighs them."""

import numpy as np
import polars as pl
import pytest

from benchmarks.fuzz.compare import labels_of
from greatmeta_dist.cli import main
from greatmeta_dist.config import ColumnsConfig, DataConfig
from greatmeta_dist.data.inspect import inspect_log
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.store import Store
from greatmeta_dist.errors import InputError
from greatmeta_dist.options.compose import compose_config

WEIGHTS = {"view": 1.0, "cart": 2.0, "purchase": 4.0}


@pytest.fixture
def log(tmp_path) -> pl.DataFrame:
    """40 users with 5 rows of each of 20 items; a search has no item."""
    rng = np.random.default_rng(0)
    event = rng.choice([*WEIGHTS, "search", ""], size=4000, p=[0.6, 0.2, 0.1, 0.095, 0.005])
    frame = pl.DataFrame(
        {
            "visitorid": np.arange(4000) % 40,
            "itemid": np.arange(4000) // 40 % 20,
            "event": event,
            "timestamp": 10**9 + rng.permutation(4000),
        }
    ).with_columns(itemid=pl.when(pl.col("event") != "search").then("itemid"))
    frame.write_csv(tmp_path / "log.csv")
    return frame


def config(tmp_path, **options) -> DataConfig:
    options = {"events": WEIGHTS, **options}
    return DataConfig(source="csv", path=str(tmp_path / "log.csv"), query_items=3, **options)


def labels(store) -> dict[tuple[str, str], float]:
    return {
        (user, item): label
        for tasks in labels_of(Store(store)).values()
        for user, task in tasks.items()
        for role in task.values()
        for item, label in role.items()
    }


def heaviest(log: pl.DataFrame) -> dict[tuple[str, str], float]:
    weights: dict[tuple[str, str], float] = {}
    for user, item, event, _ in log.rows():
        if event in WEIGHTS:
            pair = (str(user), str(item))
            weights[pair] = max(weights.get(pair, 0.0), WEIGHTS[event])
    return weights


def test_the_weightiest_event_is_the_rating_and_other_events_are_left_out(tmp_path, log):
    report = prepare(config(tmp_path), tmp_path / "store")
    counts = dict(log["event"].value_counts().iter_rows())
    assert report.events == {k: v for k, v in counts.items() if k}
    assert report.other_events == counts["search"]
    assert (report.rejected, report.reasons) == (counts[""], {"no event": counts[""]})
    left_out = report.other_events + report.out_of_bounds + report.unused
    assert report.read == report.kept + report.repeats + left_out + report.rejected
    expected = heaviest(log)
    found = labels(tmp_path / "store")
    assert found == {pair: expected[pair] for pair in found}
    assert len(found) == report.kept > 700
    assert report.columns["event"] == "event"
    assert report.columns["rating"] is None


def test_a_click_is_a_weight_of_click_at_or_more(tmp_path, log):
    report = prepare(config(tmp_path, label="click", click_at=2), tmp_path / "store")
    expected = heaviest(log)
    found = labels(tmp_path / "store")
    assert found == {pair: float(expected[pair] >= 2) for pair in found}
    assert len(found) == report.kept


def test_with_click_at_null_every_named_event_is_a_click_and_others_are_drawn(tmp_path, log):
    options = {"label": "click", "click_at": None, "events": {"purchase": 1.0}}
    options |= {"min_interactions": 4}
    prepare(config(tmp_path, **options), tmp_path / "store")
    bought = {pair for pair, weight in heaviest(log).items() if weight == 4}
    found = labels(tmp_path / "store")
    assert {pair for pair, label in found.items() if label} <= bought
    assert any(label == 0 for label in found.values())


def test_weights_multiply_a_rating_that_is_named(tmp_path):
    rows = [
        f"{u},{i},{'view' if i % 2 else 'buy'},{1 + i % 5}" for u in range(30) for i in range(14)
    ]
    (tmp_path / "log.csv").write_text("\n".join(["user,item,type,score", *rows]))
    columns = ColumnsConfig(rating="score")
    options = {"columns": columns, "events": {"buy": 10.0, "view": 1.0}}
    prepare(config(tmp_path, **options), tmp_path / "store")
    found = labels(tmp_path / "store")
    assert (found["7", "3"], found["7", "4"]) == (4, 50)


def test_an_event_that_no_row_is_stops_with_those_there_are(tmp_path, log):
    with pytest.raises(InputError, match=r"names buy, and no row of the log is one; .*: view, "):
        prepare(config(tmp_path, events={"view": 1.0, "buy": 2.0}), tmp_path / "store")


def test_events_that_are_not_asked_for_are_said_with_what_to_type(tmp_path, log, capsys):
    options = {"events": {}, "repeats": "count", "max_rejected_fraction": 1}
    report = prepare(config(tmp_path, **options), tmp_path / "store")
    typed = "data.events='{cart: 1, purchase: 1, search: 1, view: 1}'"
    assert len(report.hints) == 1
    assert typed in report.hints[0]
    assert inspect_log(config(tmp_path, **options)).hints == report.hints
    path = f"data.path={tmp_path / 'log.csv'}"
    assert main(["inspect", "data=csv", path, "data.label=click"]) == 0
    assert typed in capsys.readouterr().out
    assert main(["inspect", "data=csv", path, "data.events={purchase: 1, view: 0.5}"]) == 0
    assert "event      text            → event; such as" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, message",
    [
        (["data.events={view: many}"], "gives view no weight; expected a number for each event"),
        (["data.events={view: inf, buy: 1}"], "gives view no weight"),
        (["data.events={view: }"], "gives view no weight"),
        (["data.events.view=nan"], "gives view no weight"),
        (["data.events=view"], "is no mapping; expected 'data.events={name: value"),
        (["data.columns.event=kind"], "data.events names no event"),
    ],
)
def test_wrong_weights_are_one_line(words, message):
    with pytest.raises(InputError, match=message):
        compose_config(["data=csv", "data.path=x", *words])


def test_weights_are_typed_as_a_mapping_or_one_by_one():
    words = ["data=csv", "data.path=x", "data.events={view: 1, add to cart: 2.5}"]
    composed = compose_config([*words, "data.events.purchase=4"])
    assert composed.data.events == {"view": 1.0, "add to cart": 2.5, "purchase": 4.0}
