"""``greatmeta recommend`` as a user meets it: the best items of every user of a log, in files."""

import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from logs import csv_config, write_log
from small_training import prepare_store, small

from greatmeta_dist.cli import main
from greatmeta_dist.data import grouped_users, scan
from greatmeta_dist.data.manifest import read_manifest, write_manifest
from greatmeta_dist.data.prepare import prepare
from greatmeta_dist.data.store import Store
from greatmeta_dist.display import Display
from greatmeta_dist.errors import InputError
from greatmeta_dist.files import locked
from greatmeta_dist.predict import Predictor, RunModel
from greatmeta_dist.recommend import recommend_users
from greatmeta_dist.recommend.recommend_unit import RecommendUnit
from greatmeta_dist.training.loop import train

COLUMNS = {"user": pl.String, "rank": pl.Int32, "item": pl.String, "score": pl.Float32}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of ratings from 1 to 5 of the items i0 to i49, in columns ``u i r t``."""
    run = tmp_path_factory.mktemp("ratings") / "run"
    train(small(prepare_store(tmp_path_factory.mktemp("store"))), run, Display())
    return run


@pytest.fixture(scope="module")
def clicks(tmp_path_factory) -> Path:
    """A run of clicks, at ratings of 4 or more, with users' age and country."""
    folder = tmp_path_factory.mktemp("clicks")
    users = folder / "users.csv"
    rows = [f"u{k},{20 + k % 40},{('fr', 'no')[k % 2]}" for k in range(120)]
    users.write_text("\n".join(["u,age,country", *rows]) + "\n")
    config = csv_config(
        write_log(folder, num_users=120),
        label="click",
        users_path=str(users),
        user_features={"age": "float", "country": "token"},
    )
    prepare(config, folder / "store")
    train(small(folder / "store"), folder / "run", Display())
    return folder / "run"


@pytest.fixture
def log(tmp_path) -> pl.DataFrame:
    """30 new users' ratings, in ``new.csv`` and ``new.parquet``; the last one rates all items."""
    rng = np.random.default_rng(7)
    sizes = [*rng.integers(1, 20, 29).tolist(), 50]
    rows = [
        (f"n{user}", f"i{item}", float(rng.integers(1, 6)), user)
        for user, size in enumerate(sizes)
        for item in rng.choice(50, size, replace=False)
    ]
    log = pl.DataFrame(rows, ["u", "i", "r", "t"], orient="row")
    log.write_csv(tmp_path / "new.csv")
    log.write_parquet(tmp_path / "new.parquet")
    return log


@pytest.fixture
def recommend(run, tmp_path, monkeypatch, capsys):
    """Runs the command in a folder of its own; returns its code, output and error."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str, of: Path = run) -> tuple[int, str, str]:
        code = main(["recommend", f"run={of}", *words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def good(result: tuple[int, str, str]) -> str:
    code, out, err = result
    assert code == 0, err
    return out


def ratings_of(log: pl.DataFrame, user: str) -> dict[str, float]:
    return dict(log.filter(pl.col("u") == user).select("i", "r").iter_rows())


def items_by_user(lists: pl.DataFrame) -> dict[str, list[str]]:
    grouped = lists.group_by("user", maintain_order=True).agg("item")
    return dict(grouped.iter_rows())


def test_lists_are_those_of_the_predictor_in_the_order_of_the_log(recommend, run, log):
    out = good(recommend("users=new.csv", "out=lists", "k=4", "new_items=false"))
    assert "116 recommendations to 30 users are in lists" in out
    assert "1 users know all items" in out
    lists = pl.read_parquet("lists")
    assert lists.schema == COLUMNS
    users = log["u"].unique(maintain_order=True).to_list()
    assert lists["user"].unique(maintain_order=True).to_list() == users[:-1]
    predictor = Predictor.load(run)
    for user in users[:-1]:
        found = lists.filter(pl.col("user") == user)
        assert found["rank"].to_list() == [1, 2, 3, 4]
        expected = predictor.recommend(ratings_of(log, user), 4)
        assert found["score"].to_list() == pytest.approx([s for _, s in expected], abs=1e-5)
        assert found["item"].to_list() == [item for item, _ in expected]


def test_a_name_that_ends_in_parquet_is_one_file_of_the_same_rows(recommend, log):
    good(recommend("users=new.parquet", "out=lists.parquet", "k=4"))
    good(recommend("users=new.csv", "out=deep/lists", "k=4"))
    assert Path("lists.parquet").is_file()
    assert pl.read_parquet("lists.parquet").equals(pl.read_parquet("deep/lists"))
    assert sorted(p.name for p in Path().iterdir()) == [
        "deep",
        "lists.parquet",
        "new.csv",
        "new.parquet",
    ]


def test_many_units_and_buckets_give_the_same_lists(recommend, log, monkeypatch):
    good(recommend("users=new.csv", "out=one", "k=4"))
    monkeypatch.setattr(scan, "UNIT_ROWS", 60)
    monkeypatch.setattr(grouped_users, "ROWS_PER_BUCKET", 30)
    monkeypatch.setattr(recommend_users, "MAX_USERS", 2)
    for workers in (1, 4):
        good(recommend("users=new.csv", f"out=many{workers}", "k=4", f"cluster.workers={workers}"))
    names = sorted(path.name for path in Path("many1").iterdir())
    assert len(names) > 2
    for name in names:
        assert Path("many1", name).read_bytes() == Path("many4", name).read_bytes()
    one, many = (pl.read_parquet(name).sort("user", "rank") for name in ("one", "many1"))
    assert one.drop("score").equals(many.drop("score"))
    assert one["score"].to_numpy() == pytest.approx(many["score"].to_numpy(), abs=1e-5)


def test_the_same_command_twice_leaves_what_is_there_and_another_is_refused(recommend, log):
    good(recommend("users=new.csv", "out=lists"))
    part = Path("lists/part-00000.parquet")
    before = part.stat().st_mtime_ns
    assert "already holds the recommendations" in good(recommend("users=new.csv", "out=lists"))
    Path("new.csv").touch()
    assert "already holds the recommendations" in good(recommend("users=new.csv", "out=lists"))
    for words in (["users=new.csv", "k=3"], ["users=new.parquet"]):
        code, _, err = recommend("out=lists", *words)
        assert code == 2
        assert "lists holds recommendations of another run, of other users or with other" in err
    assert part.stat().st_mtime_ns == before


def test_ids_are_whole_numbers_where_a_parquet_log_has_them_so(recommend, log):
    numbered = log.with_columns(u=pl.col("u").str.strip_prefix("n").cast(pl.Int64))
    numbered.write_parquet("numbered.parquet")
    good(recommend("users=numbered.parquet", "out=lists"))
    lists = pl.read_parquet("lists")
    assert lists.schema["user"] == pl.Int64
    assert lists.schema["item"] == pl.String
    assert lists["user"].unique(maintain_order=True).to_list() == list(range(29))


def test_users_of_whom_nothing_is_known_get_the_unadapted_ranking(recommend, run, log):
    unadapted = [item for item, _ in Predictor.load(run).recommend({}, 6)]
    Path("ids.txt").write_text("n3\nu5\nn3\n")
    out = good(recommend("users=ids.txt", "out=ids", "k=6"))
    assert "nothing is known of any user" in out
    assert items_by_user(pl.read_parquet("ids")) == {"n3": unadapted, "u5": unadapted}
    pl.DataFrame({"customer": [7, 8]}).write_parquet("ids.parquet")
    good(recommend("users=ids.parquet", "out=numbers", "k=6"))
    assert items_by_user(pl.read_parquet("numbers")) == {7: unadapted, 8: unadapted}
    Path("new.csv").write_text("u,i,r\na,i1,5\nb,,\n")
    assert "1 of 2 without a known row" in good(recommend("users=new.csv", "out=mixed", "k=6"))
    assert items_by_user(pl.read_parquet("mixed"))["b"] == unadapted


def test_a_user_whose_rows_do_not_count_still_gets_a_list(recommend, run, log):
    Path("new.csv").write_text("u,i,r\na,i1,5\nb,i2,nan\nc,i3,9\n")
    words = ["users=new.csv", "out=lists", "k=3"]
    code, _, err = recommend(*words)
    assert code == 2
    assert "2 rows were rejected, more than 0.01 of 3; the first: new.csv, line 3" in err
    assert not Path("lists").exists()
    out = good(recommend(*words, "data.max_rejected_fraction=0.7"))
    assert "2 rows; the first: new.csv, line 3: rating is not a number" in out
    reasons = pl.read_parquet("lists.rejects.parquet")["reason"].to_list()
    assert reasons == ["rating is not a number", "rating is outside 1 to 5"]
    unadapted = [item for item, _ in Predictor.load(run).recommend({}, 3)]
    lists = items_by_user(pl.read_parquet("lists"))
    assert lists["b"] == lists["c"] == unadapted
    assert list(lists) == ["a", "b", "c"]


def test_items_that_the_catalogue_lacks_are_reported_and_are_no_repeats(recommend, run, log):
    Path("new.csv").write_text("u,i,r\na,i1,5\na,x1,1\na,x2,5\na,i1,4\n")
    out = good(recommend("users=new.csv", "out=lists", "k=50", "new_items=false"))
    assert "2 rows of 2 items that the catalogue does not have; the first is x1" in out
    assert "1 repeats of a user and an item" in out
    with pytest.warns(UserWarning, match="2 of 3 interactions"):
        expected = Predictor.load(run).recommend({"i1": 4.0, "x1": 1.0, "x2": 5.0}, 50)
    require_lists(pl.read_parquet("lists"), {"a": expected})


def require_lists(lists: pl.DataFrame, expected: dict[str, list]) -> None:
    """The same items, with about the same scores."""
    assert items_by_user(lists) == {user: [i for i, _ in e] for user, e in expected.items() if e}
    scores = [score for user in expected for _, score in expected[user]]
    assert lists["score"].to_list() == pytest.approx(scores, abs=1e-5)


def new_ratings(log: pl.DataFrame) -> pl.DataFrame:
    """The log, in which users also rate the new items x0 to x3."""
    rows = [
        (f"n{u}", f"x{(u + k) % 4}", float(1 + (u * k) % 5), 0) for u in range(25) for k in (0, 1)
    ]
    return pl.concat([log, pl.DataFrame(rows, log.schema, orient="row")])


def test_new_items_that_the_log_rates_are_learnt_from_and_recommended(
    recommend, run, log, monkeypatch
):
    both = new_ratings(log)
    both.write_csv("new.csv")
    out = good(recommend("users=new.csv", "out=lists", "k=60"))
    assert "4 behind the catalogue; " in out
    predictor = Predictor.load(run).with_items(interactions=both.drop("t"))
    users = both["u"].unique(maintain_order=True).to_list()
    expected = predictor.recommend({user: ratings_of(both, user) for user in users}, 60)
    lists = pl.read_parquet("lists")
    require_lists(lists, expected)
    assert any(item.startswith("x") for item in lists["item"])
    monkeypatch.setattr(scan, "UNIT_ROWS", 60)
    monkeypatch.setattr(grouped_users, "ROWS_PER_BUCKET", 30)
    monkeypatch.setattr(recommend_users, "MAX_USERS", 4)
    good(recommend("users=new.csv", "out=many", "k=60", "cluster.workers=2"))
    many = pl.read_parquet("many").sort("user", "rank")
    assert many["score"].to_list() == pytest.approx(lists.sort("user", "rank")["score"], abs=1e-5)


def test_new_items_come_from_a_file_with_features_and_from_a_log_beside(recommend, run, log):
    both = new_ratings(log)
    beside = both.filter(pl.col("i").str.starts_with("x") | (pl.col("u") < "n2"))
    beside.write_parquet("beside.parquet")
    Path("items.csv").write_text("i,kind\nx0,c1|d2\ny,c3\ni1,c0\n")
    asked = log.filter(pl.col("u").is_in(["n1", "n3", "n29"]))
    asked.write_csv("new.csv")
    words = ["users=new.csv", "items=items.csv", "ratings=beside.parquet", "k=60"]
    out = good(recommend(*words, "out=lists"))
    assert "2 behind the catalogue" in out
    # Of users who are asked about, the log beside is not read.
    others = beside.filter(~pl.col("u").is_in(["n1", "n3", "n29"]))
    known = pl.concat([asked, others.filter(~pl.col("i").is_in(["x1", "x2", "x3"]))]).drop("t")
    features = {"x0": {"kind": ["c1", "d2"]}, "y": {"kind": ["c3"]}}
    predictor = Predictor.load(run).with_items(features, known)
    expected = predictor.recommend({u: ratings_of(asked, u) for u in ("n1", "n3", "n29")}, 60)
    require_lists(pl.read_parquet("lists"), expected)
    code, _, err = recommend(*words, "out=other", "new_items=false")
    assert (code, "new_items=false, and items or ratings names a file" in err) == (2, True)


def test_seen_items_and_other_than_candidates_are_left_out_as_asked(recommend, log):
    Path("some.txt").write_text("i3\ni4\nnope\ni3\n")
    out = good(recommend("users=new.csv", "out=some", "candidates=some.txt", "k=5"))
    assert "1 of 3 candidates" in out
    assert "k=5, and there are 2 items: users get what there is" in out
    for user, items in items_by_user(pl.read_parquet("some")).items():
        assert set(items) == {"i3", "i4"} - set(ratings_of(log, user))
    good(recommend("users=new.csv", "out=all", "k=80", "exclude_seen=false"))
    assert {len(items) for items in items_by_user(pl.read_parquet("all")).values()} == {50}
    pl.DataFrame({"i": ["i3", "i4"]}).write_parquet("some.parquet")
    good(recommend("users=new.csv", "out=again", "candidates=some.parquet", "k=5"))
    assert pl.read_parquet("again").equals(pl.read_parquet("some"))


@pytest.mark.filterwarnings("ignore:1 values of user features count as unknown")
def test_a_click_run_takes_ratings_or_clicks_and_users_features(recommend, clicks, log):
    predictor = Predictor.load(clicks)
    Path("people.csv").write_text("u,age,country\nn0,25,fr\nn1,31,mars\nn2,,no\n")
    features = {
        "n0": {"age": 25, "country": "fr"},
        "n1": {"age": 31, "country": "mars"},
        "n2": {"country": "no"},
    }
    words = ["users=new.csv", "k=4", "data.users_path=people.csv", "new_items=false"]
    out = good(recommend(*words, "out=ratings", of=clicks))
    assert "1 users' country: training did not have it" in out
    good(recommend(*words, "out=ignored", "data.columns.rating=null", of=clicks))
    log.select("u", "i").write_csv("new.csv")
    good(recommend(*words, "out=clicks", of=clicks))
    for name, is_rated in (("ratings", True), ("ignored", False), ("clicks", False)):
        lists = items_by_user(pl.read_parquet(name))
        for user in ("n0", "n1", "n2", "n3"):
            known = ratings_of(log, user)
            expected = predictor.recommend(
                {user: known if is_rated else list(known)},
                4,
                user_features={u: f for u, f in features.items() if u == user},
            )
            assert lists[user] == [item for item, _ in expected[user]]


def test_more_than_a_support_may_have_is_seen_and_not_read(recommend, run, tmp_path, log):
    short = shutil.copytree(run, tmp_path / "short")
    catalogue = short / "model" / "catalogue"
    manifest = read_manifest(catalogue)
    write_manifest(catalogue, replace(manifest, recipe={**manifest.recipe, "max_support": 8}))
    out = good(recommend("users=new.csv", "out=lists", "k=50", of=short))
    assert "know more than a support of the training may have" in out
    lists = items_by_user(pl.read_parquet("lists"))
    for user in log["u"].unique():
        assert set(lists.get(user, [])) == {f"i{k}" for k in range(50)} - {*ratings_of(log, user)}


BAD = {
    "empty": ("", [], "new.csv is empty"),
    "header": ("u,i,r\n", [], "users=new.csv: new.csv holds no row below its header"),
    "columns": ("a,b,c\n1,2,3\n", [], "not clear which column is the user and the item and the r"),
    "unrated": ("u,i\na,i1\n", [], "it is not clear which column is the rating; it has u, i"),
    "nan": ("u,i,r\na,i1,nan\n", [], "1 rows were rejected, .* rating is not a number"),
    "text": ("u,i,r\na,i1,good\n", [], "1 rows were rejected, .* rating is not a number"),
    "range": ("u,i,r\na,i1,6\n", [], "1 rows were rejected, .* rating is outside 1 to 5"),
    "no user": ("u,i,r\n,i1,5\n", ["data.max_rejected_fraction=1"], "names no user"),
    "k": ("u,i,r\na,i1,5\n", ["k=0"], "k is 0; it must be 1 or more"),
    "k text": ("u,i,r\na,i1,5\n", ["k=many"], "k is 'many'"),
    "column": (
        "u,i,r\na,i1,5\n",
        ["data.columns.item=z"],
        "new.csv has no column z; it has u, i, r; name the right ones in data.columns",
    ),
    "null": ("u,i,r\na,i1,5\n", ["data.columns.rating=null"], "this run predicts ratings; name"),
    "no file": ("", ["users=none.csv"], "users=none.csv does not exist"),
    "out": ("u,i,r\na,i1,5\n", ["out=new.csv"], "out=new.csv is users=new.csv, or lies in it"),
    "taken": ("u,i,r\na,i1,5\n", ["out=."], "out=. exists, and holds no recommendations"),
    "candidates": ("u,i,r\na,i1,5\n", ["candidates=none.txt"], "candidates=none.txt does not ex"),
    "features": ("u,i,r\na,i1,5\n", ["data.users_path=new.csv"], "this run has no user feature"),
    "synthetic": ("u,i,r\na,i1,5\n", ["data=synthetic"], "users=new.csv is set, and data=synth"),
    "form": ("u,i,r\na,i1,5\n", ["data=parquet"], "new.csv is not a readable Parquet file"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_code_2_and_no_file(recommend, case):
    text, words, message = BAD[case]
    Path("new.csv").write_text(text)
    names = dict(word.split("=", 1) for word in ("users=new.csv", "out=lists", *words))
    code, _, err = recommend(*(f"{name}={value}" for name, value in names.items()))
    assert code == 2
    assert err.count("\n") == 1
    assert re.search(message, err)
    left = {path.name for path in Path().iterdir()} - {"new.csv", "lists.rejects.parquet"}
    assert not left


def test_what_is_no_run_or_half_a_run_is_refused(recommend, run, log, tmp_path):
    code, _, err = recommend("users=new.csv", "out=lists", of=tmp_path / "none")
    assert (code, "holds no run" in err) == (2, True)
    half = tmp_path / "half"
    half.mkdir()
    (half / "config.yaml").write_bytes((run / "config.yaml").read_bytes())
    code, _, err = recommend("users=new.csv", "out=lists", of=half)
    assert (code, err.count("\n")) == (2, 1)
    assert not Path("lists").exists()


def test_a_worker_that_finds_other_parameters_says_so(run):
    predictor = Predictor.load(run)
    model = RunModel(str(run), predictor.step + 1, predictor.blend_weight)
    with pytest.raises(InputError, match=r"run was trained on meanwhile: .* run the same command"):
        model.ranker()


def test_two_at_once_do_not_write_the_same_lists(recommend, log):
    Path(".lists.recommending").mkdir()
    with locked(Path(".lists.recommending/.lock"), "taken"):
        code, _, err = recommend("users=new.csv", "out=lists")
    assert code == 2
    assert "another recommend is writing lists; wait for it, or stop it" in err
    good(recommend("users=new.csv", "out=lists"))
    assert not Path(".lists.recommending").exists()


KILLED = """
import sys
from greatmeta_dist.recommend import recommend_users
recommend_users.MAX_USERS = 2
from greatmeta_dist.__main__ import main
sys.exit(main())
"""
MARKS = ".lists.parquet.recommending/*/phases/recommend/done-*.json"


def kill_when_units_have_ended(run: Path, words: list[str]) -> None:
    command = [sys.executable, "-c", KILLED, "recommend", f"run={run}", *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(Path().glob(MARKS)):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.kill()
    process.wait()


def interrupt_when_units_have_ended(recommend, words: list[str], monkeypatch) -> None:
    run_unit = RecommendUnit.__call__

    def interrupted(self, number, unit):
        if number == 3:
            raise KeyboardInterrupt
        return run_unit(self, number, unit)

    with monkeypatch.context() as patched:
        patched.setattr(RecommendUnit, "__call__", interrupted)
        code, _, err = recommend(*words)
    assert (code, err) == (1, "greatmeta: interrupted; run the same command again to go on\n")


@pytest.mark.parametrize("is_killed", [True, False])
def test_what_was_stopped_goes_on_with_the_units_that_are_left(
    recommend, run, log, monkeypatch, is_killed
):
    monkeypatch.setattr(recommend_users, "MAX_USERS", 2)
    words = ["users=new.csv", "out=lists.parquet", "cluster.workers=1", "k=4"]
    if is_killed:
        kill_when_units_have_ended(run, words)
    else:
        interrupt_when_units_have_ended(recommend, words, monkeypatch)
    assert not Path("lists.parquet").exists()
    before = {path: path.stat().st_mtime_ns for path in Path().glob(MARKS)}
    assert 0 < len(before) < 15
    seen = {}
    join = recommend_users.BatchRecommendation._join

    def watch(self, pieces, schema):
        seen.update({path: path.stat().st_mtime_ns for path in before})
        return join(self, pieces, schema)

    with monkeypatch.context() as patched:
        patched.setattr(recommend_users.BatchRecommendation, "_join", watch)
        good(recommend(*words))
    assert seen == before  # these were not done again
    good(recommend(*[word.replace("lists", "whole") for word in words]))
    assert Path("lists.parquet").read_bytes() == Path("whole.parquet").read_bytes()
    assert not list(Path().glob(".*"))


def test_a_run_without_its_store_recommends(recommend, run, log):
    store = Store(Predictor.load(run).open_store().folder).folder
    moved = store.rename(store.with_name("away"))
    good(recommend("users=new.csv", "out=lists"))
    moved.rename(store)


def test_each_item_comes_with_what_moved_its_score(recommend, run, clicks, log, tmp_path):
    good(recommend("users=new.csv", "out=lists.parquet", "k=4"))
    good(recommend("users=new.csv", "out=why.parquet", "k=4", "explain=2"))
    plain, lists = pl.read_parquet("lists.parquet"), pl.read_parquet("why.parquet")
    assert lists.schema == COLUMNS | {"why": pl.List(pl.String)}
    assert lists.drop("why").equals(plain)
    predictor, known = Predictor.load(run), ratings_of(log, "n3")
    for item, why in lists.filter(user="n3").select("item", "why").iter_rows():
        assert why == predictor.explain(known, item).reasons(2)
        assert all(reason.startswith("rated i") for reason in why)
    (tmp_path / "people.csv").write_text("u,age,country\nn0,31,no\n")
    words = ("data.columns={user: u, item: i, rating: r}", "data.users_path=people.csv")
    good(recommend("users=new.csv", "out=c.parquet", "k=2", "explain=99", *words, of=clicks))
    whys = pl.read_parquet("c.parquet").filter(user="n0")["why"].explode().to_list()
    assert any(reason.startswith("country no: ") for reason in whys)
    assert all(re.match(r"(clicked|did not click|age|country) ", reason) for reason in whys)


def test_reasons_are_counted_from_0_on(recommend, log):
    code, _, err = recommend("users=new.csv", "out=lists", "explain=-1")
    assert code == 2
    assert "explain is -1; it must be 0 or more" in err
