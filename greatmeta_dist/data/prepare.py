"""Interaction logs → a store (DESIGN.md section 5).

The log is checked in one streaming pass and dealt to buckets of users; each bucket, the unit of
work, is then split and encoded on its own, so memory does not grow with the log (it does with the
catalogue and the users' features). Rejected rows are kept in ``rejects.parquet``.
"""

import hashlib
import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray
from scipy import sparse

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.encode import TrainingStatistics, encode_items, encode_tasks
from greatmeta_dist.data.negatives import draw_negatives
from greatmeta_dist.data.sources import Kind, Source, open_source
from greatmeta_dist.data.split import SPLITS as PARTS
from greatmeta_dist.data.split import held_out_items, split_by_recipe
from greatmeta_dist.data.split_file import read_split
from greatmeta_dist.data.store import (
    FACTORS,
    FORMAT_VERSION,
    ITEM_ID,
    MANIFEST,
    Manifest,
    Store,
    checksum,
    read_manifest,
    shard_name,
    write_arrow,
    write_factorisations,
    write_factors,
    write_manifest,
)
from greatmeta_dist.data.validate import REJECTS, Rejects, catalogue, check_log, read_entities
from greatmeta_dist.data.vocabulary import (
    Vocabulary,
    bin_edges,
    binned,
    build_vocabularies,
    count_values,
)
from greatmeta_dist.errors import InputError, require
from greatmeta_dist.files import locked
from greatmeta_dist.priors import bayesian_mf, item_factors
from greatmeta_dist.priors.content import ItemFeature
from greatmeta_dist.priors.user_groups import (
    MAX_FITTED_USERS,
    Categories,
    ClusterTally,
    FittedGroups,
    Grouping,
    History,
    KnownGroups,
    Profiler,
    minority_groups,
)
from greatmeta_dist.ragged import Ragged, offsets_of

MIN_SHARDS = 8
"""So that a small store, too, can be read in eight lanes."""
MAX_CATEGORIES = 64
"""Values a list feature may have and still serve as preference profile."""
SPLIT_SCHEMA = pl.Schema(
    {
        "part": pl.String,
        "user": pl.String,
        "role": pl.String,
        "item": pl.Int32,
        "rating": pl.Float64,
    }
)
FOLDERS = ("factorisations", "shards", "vocab")
LOCK = ".lock"
WORK = ".preparing"
"""What a preparation works in; one that was killed leaves it."""

Progress = Callable[[str, float], None]
"""Told the stage and the share of it that is done."""


@dataclass
class Report:
    """What became of the log's rows."""

    read: int = 0
    rejected: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    unrated: int = 0
    out_of_bounds: int = 0
    """Interactions of users with too few or too many of them, or no more than a query takes."""
    not_in_split: int = 0
    """Interactions that the given split does not name."""
    unused: int = 0
    """Interactions of users with tasks that none of these takes: more than a support may hold, or
    than a query of held-out items."""
    tasks: dict[str, int] = field(default_factory=dict)
    interactions: dict[str, int] = field(default_factory=dict)
    rare_values: dict[str, int] = field(default_factory=dict)
    """Of each feature, the values that too few have for a row of their own."""
    is_new: bool = True
    """False where the store had been made the same way before."""


def prepare(
    config: DataConfig, store: Path, progress: Progress = lambda stage, share: None
) -> Report:
    """Prepare a log into ``store``; a store already made the same way is left as it is.

    Raises ``InputError`` for unreadable or malformed input, for too many rejected rows (which are
    then in ``rejects.parquet``), for a store made otherwise, and for a folder of other things.
    """
    is_new = not store.exists()
    require(
        is_new or _is_own(store),
        f"store={store} exists and is no store; choose an empty or new folder",
    )
    work = store / WORK
    try:
        store.mkdir(parents=True, exist_ok=True)
        with locked(store / LOCK, f"another prepare is writing {store}"):
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            try:
                return _Preparation(config, store, work, progress).run()
            finally:
                if not (store / MANIFEST).exists():
                    _clear(store)
                shutil.rmtree(work, ignore_errors=True)
                if is_new and [p.name for p in store.iterdir()] == [LOCK]:
                    shutil.rmtree(store)
    except pl.exceptions.PolarsError as error:
        raise InputError(f"cannot read the log: {str(error).splitlines()[0]}") from error


def most_rated(count: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """The at most so many items of most ratings, from what each has [items]; ascending."""
    ordered = np.argsort(-count, kind="stable")[:most]
    return np.sort(ordered[count[ordered] > 0])


def _is_own(folder: Path) -> bool:
    """Whether a folder is a store, what is left of its preparation, or empty.

    Raises ``InputError`` where the manifest in it is not a store's.
    """
    if not folder.is_dir():
        return False
    if (folder / MANIFEST).exists():
        read_manifest(folder)
        return True
    left = {p.name for p in folder.iterdir()}
    return WORK in left or left <= {LOCK, REJECTS}


def _clear(store: Path) -> None:
    """Away with what a preparation wrote that did not end."""
    for folder in FOLDERS:
        shutil.rmtree(store / folder, ignore_errors=True)
    for name in ("items.arrow", FACTORS, "report.json", f"{MANIFEST}.partial"):
        (store / name).unlink(missing_ok=True)


@dataclass(frozen=True)
class _Chunks:
    """Users' ratings, or what is left of them, on disk."""

    count: NDArray[np.int64]
    """[items] how many."""
    paths: list[Path]

    def chunks(self, item: NDArray[np.int64]) -> Iterator[sparse.csr_matrix]:
        """[users, n] of the items [n]."""
        return (sparse.load_npz(path)[:, item] for path in self.paths)


class _Preparation:
    """The stages of one preparation, in order, with what they pass on."""

    def __init__(self, config: DataConfig, store: Path, work: Path, progress: Progress):
        self.config, self.store, self.work, self.progress = config, store, work, progress
        self.rejects, self.report = Rejects(), Report()

    def run(self) -> Report:
        self.progress("open the source", 0)
        self.source = open_source(self.config, self.work)
        require(
            self.config.query_by != "time" or self.source.has_timestamp,
            "data.query_by=time needs times, and the log has none; set data.columns.timestamp or "
            "data.query_by=random",
        )
        self.given = read_split(self.config.split, self.work) if self.config.split else None
        fingerprint = _fingerprint(self.source, self.config)
        if self._is_done(fingerprint):
            return Report(
                **{**json.loads((self.store / "report.json").read_text()), "is_new": False}
            )

        try:
            return self._make(fingerprint)
        except InputError:
            self.rejects.write(self.store)
            raise

    def _make(self, fingerprint: str) -> Report:
        self.progress("check the log", 0)
        self.items = catalogue(self.source, self.rejects)
        table = self.source.users
        self.users = None if table is None else read_entities(table, "user", self.rejects)
        log = check_log(self.source, self.items, self.config, self.rejects, self.work / "log")
        self.report.read, self.report.unrated = log.num_read, log.num_unrated
        self.rejects.require_few(log.num_read, self.config, self.store)
        self.rejects.take_in()

        self.is_cold = self._cold_items()
        self.statistics = TrainingStatistics.empty(len(self.items))
        buckets = [self.work / f"split-{k}.parquet" for k in range(log.num_buckets)]
        for k, path in enumerate(buckets):
            self.progress("split users", k / log.num_buckets)
            whole = log.bucket(k, self.users, self.rejects)
            split = self._split(whole)
            if self.config.is_implicit:
                split = draw_negatives(split, whole, self.items["id"], self.is_cold, self.config)
            self.statistics.add(split.filter(pl.col("part") == "train"))
            split.write_parquet(path)
        self._check_rejects()
        left = log.num_read - self.report.rejected - log.num_unrated
        remedy = (
            "check data.split"
            if self.config.split
            else f"lower data.min_interactions (now {self.config.min_interactions}), or keep fewer "
            "query rows and held-out users"
        )
        require(
            bool(self.statistics.users),
            f"no training task came out of {left} usable rows of {log.num_read}; {remedy}",
        )

        share = self.statistics.mean
        require(
            not self.config.is_click or 0 < share < 1,
            f"{share:.0%} of the training rows are clicks, and training needs clicks and others; "
            f"set data.click_at (now {self.config.click_at}) within the ratings, or data.negatives",
        )
        self._build_vocabularies()
        content = [
            ItemFeature(
                v.codes(column := self.items[v.field.name]), v.num_frequent, v.numbers(column)
            )
            for v in self.vocabularies
            if v.field.side == "item" and v.field.name != ITEM_ID
        ]
        self.statistics.expect(content, self.config.seed)
        for path in buckets:
            train = pl.scan_parquet(path, glob=False).filter(part="train").collect()
            self.statistics.add_offsets(train)
        factored, factors = self._factor_items(buckets)
        factorisations = self._factorise(buckets)
        self.clusters = self._make_clusters(buckets)
        self.groups = self._known_groups() or self.clusters
        for folder in FOLDERS:
            shutil.rmtree(self.store / folder, ignore_errors=True)
            (self.store / folder).mkdir()
        shards, sizes, tally = self._write_tasks(buckets)
        items = encode_items(self.items, self.vocabularies, self.statistics)
        write_arrow(self.store / "items.arrow", items)
        write_factors(self.store, factored, factors)
        write_factorisations(self.store, factorisations)
        for vocabulary in self.vocabularies:
            vocabulary.write(self.store / "vocab")
        self._finish(fingerprint, shards, sizes, tally)
        return self.report

    def _is_done(self, fingerprint: str) -> bool:
        """Whether the store was made from the same files in the same way."""
        if not (self.store / MANIFEST).exists():
            return False
        store = Store(self.store)
        store.check()
        manifest = store.manifest
        changed = [
            f"data.{k}" for k, v in asdict(self.config).items() if manifest.recipe.get(k) != v
        ]
        if manifest.fingerprint != fingerprint:
            changed.append("the source files")
        require(
            not changed,
            f"{self.store} was prepared differently ({', '.join(changed[:5])}); "
            "choose another store=DIR, or delete it",
        )
        return True

    # --- splitting ------------------------------------------------------------------------

    def _cold_items(self) -> NDArray[np.bool_]:
        """[items] those that training may not see, by the recipe or the given split."""
        if self.given is None:
            return held_out_items(self.items["id"], self.config)
        is_asked = pl.col("part").is_in(["item_cold", "both_cold"]) & (pl.col("role") == "query")
        cold = self.given.filter(is_asked)["item"]
        return self.items["id"].is_in(cold.implode()).to_numpy()

    def _split(self, log: pl.DataFrame) -> pl.DataFrame:
        """A bucket's interactions by part and role."""
        if self.given is None:
            frame, left_out, unused = split_by_recipe(
                log, self.items["id"], self.is_cold, self.config
            )
            self.report.out_of_bounds += left_out
            self.report.unused += unused
            return frame.cast(SPLIT_SCHEMA)
        named = self.given.join(
            self.items.select("id", index="item"), left_on="item", right_on="id", how="inner"
        )
        used = log.join(
            named.select("part", "user", "role", split_line="line", item="index"),
            on=["user", "item"],
            how="inner",
            maintain_order="left",
        )
        self.report.not_in_split += len(log) - len(used.unique(["user", "item"]))
        self.given = self.given.filter(~pl.col("line").is_in(used["split_line"].implode()))
        return used.sort("split_line").select(SPLIT_SCHEMA.names())

    def _check_rejects(self) -> None:
        """Write the rejects; stop if they are too many."""
        if self.given is not None:
            missing = self.given.with_columns(
                file=pl.lit(Path(self.config.split or "").name),
                reason=pl.lit("names an interaction that the log does not hold"),
                text=pl.concat_str("user", "item", separator=" "),
            )
            self.rejects.add(missing, "item")
        rejected = self.rejects.table()
        self.rejects.write(self.store)
        self.report.rejected = len(rejected)
        reasons = rejected.group_by("reason").len().sort("len", descending=True)
        self.report.reasons = dict(reasons.head(20).iter_rows())
        self.rejects.require_few(self.report.read, self.config, self.store)

    # --- vocabularies and groups ----------------------------------------------------------

    def _build_vocabularies(self) -> None:
        """Rows for every value that training users and their items have."""
        self.items = self.items.with_columns(pl.col("id").alias(ITEM_ID))
        item_kinds: dict[str, Kind] = {ITEM_ID: "token"}
        item_kinds |= self.source.items.features if self.source.items else {}
        user_kinds = self.source.users.features if self.source.users else {}
        both = sorted(user_kinds.keys() & item_kinds.keys())
        require(
            not both,
            f"{', '.join(both)} is a feature of users and of items; rename one of the two columns",
        )
        counted, least = [], self.config.min_value_count
        if self.users is not None:
            is_seen = pl.col("id").is_in(pl.concat(self.statistics.users).implode())
            self.users, counts = _count(self.users, user_kinds, is_seen, least)
            counted += [(n, "user", user_kinds[n], c) for n, c in counts.items()]
        is_seen = pl.lit(pl.Series(self.statistics.item_count > 0))
        self.items, counts = _count(self.items, item_kinds, is_seen, least)
        counted += [(n, "item", item_kinds[n], c) for n, c in counts.items()]
        self.vocabularies = build_vocabularies(counted, min_count=least, seed=self.config.seed)
        self.report.rare_values = {v.field.name: v.num_rare for v in self.vocabularies}

    def _factor_items(self, buckets: list[Path]) -> tuple[NDArray, NDArray]:
        """The items that have factors of the first training users' ratings, and these."""
        with self._first_users(
            buckets, self.statistics.residuals, most=item_factors.MAX_RATINGS
        ) as first:
            self.progress("factor items", 0)
            chosen = most_rated(first.count, item_factors.MAX_ITEMS)
            found = item_factors.item_factors(
                lambda: first.chunks(chosen), first.count[chosen], seed=self.config.seed
            )
        return chosen, found

    def _factorise(self, buckets: list[Path]) -> list[bayesian_mf.BayesianMF]:
        """Of the first training users' ratings of the items that these say enough of, by start."""
        with self._first_users(
            buckets, self.statistics.about_expected, most=bayesian_mf.MAX_RATINGS
        ) as first:
            enough = np.minimum(self.statistics.item_count, bayesian_mf.ENOUGH_RATINGS)
            is_enough = first.count >= enough
            of_known = first.count * is_enough if is_enough.any() else first.count
            chosen, passes = most_rated(of_known, bayesian_mf.MAX_ITEMS), itertools.count()
            starts = bayesian_mf.num_starts(int(first.count.sum()))

            def chunks() -> Iterator[sparse.csr_matrix]:
                self.progress("factorise", next(passes) / starts / (bayesian_mf.NUM_PASSES + 1))
                return first.chunks(chosen)

            return [
                bayesian_mf.factorise(chunks, chosen, seed=(self.config.seed, start))
                for start in range(starts)
            ]

    @contextmanager
    def _first_users(
        self,
        buckets: list[Path],
        matrix: Callable[[pl.DataFrame], sparse.csr_matrix],
        *,
        most: int,
    ) -> Iterator[_Chunks]:
        """Buckets' training users as matrices on disk, until these hold the ``most`` ratings."""
        ratings = np.zeros(len(self.items), np.int64)
        paths = []
        for k, bucket in enumerate(buckets):
            self.progress("read training users", k / len(buckets))
            train = pl.scan_parquet(bucket, glob=False).filter(part="train").collect()
            found = matrix(train)
            ratings += np.bincount(found.indices, minlength=len(ratings))
            paths.append(self.work / f"chunk-{k}.npz")
            sparse.save_npz(paths[-1], found, compressed=False)
            if ratings.sum() >= most:
                break
        try:
            yield _Chunks(ratings, paths)
        finally:
            for path in paths:
                path.unlink()

    def _known_groups(self) -> Grouping | None:
        """The true groups of synthetic data."""
        column = self.source.group
        if column is None:
            return None
        assert self.users is not None
        return KnownGroups(column, sorted(self.users[column].unique().to_list()))

    def _make_clusters(self, buckets: list[Path]) -> Grouping:
        """Clusters of the first training users."""
        chosen = self._category_vocabulary()
        if chosen is None:
            return Grouping()
        categories = Categories.from_column(self.items[chosen.field.name], chosen.values)
        found: list[pl.DataFrame] = []
        num_users = 0
        for path in buckets:
            rows = pl.scan_parquet(path, glob=False).filter(part="train").collect()
            found.append(rows.sort("user", maintain_order=True))
            num_users += rows["user"].n_unique()
            if num_users >= MAX_FITTED_USERS:
                break
        rows = pl.concat(found)
        lengths = rows.group_by("user", maintain_order=True).len()["len"].to_numpy()
        history = History(
            Ragged(rows["item"].to_numpy(), offsets_of(lengths)), rows["rating"].to_numpy()
        )
        return FittedGroups(
            Profiler(categories, self.statistics.item_means(), self.config.is_implicit),
            history,
            num_groups=self.config.num_groups,
            seed=self.config.seed,
        )

    def _category_vocabulary(self) -> Vocabulary | None:
        wanted = self.config.category
        choices = [v for v in self.vocabularies if v.field.side == "item"]
        if wanted is not None:
            named = [v for v in choices if v.field.name == wanted]
            names = ", ".join(v.field.name for v in choices)
            require(bool(named), f"data.category is '{wanted}'; the item features are {names}")
            require(
                bool(len(named[0].values)),
                f"data.category is '{wanted}', and no rated item has a value of it; choose another",
            )
            return named[0]
        small = [v for v in choices if v.field.is_list and 1 < len(v.values) <= MAX_CATEGORIES]
        return small[0] if small else None

    # --- writing --------------------------------------------------------------------------

    def _write_tasks(self, buckets: list[Path]) -> tuple[dict[str, int], NDArray, ClusterTally]:
        """Every part's shards; returns their numbers, and the training users by group and cluster.

        A bucket's training users are dealt evenly to its shards.
        """
        shards = dict.fromkeys(PARTS, 0)
        sizes = np.zeros(len(self.groups.names), np.int64)
        tally = ClusterTally(len(self.clusters.names))
        for k, path in enumerate(buckets):
            self.progress("write tasks", k / len(buckets))
            bucket = pl.read_parquet(path, glob=False)
            for part in PARTS:
                rows = bucket.filter(pl.col("part") == part)
                if not len(rows):
                    continue
                batch = encode_tasks(
                    rows,
                    self.users,
                    self.vocabularies,
                    self.groups,
                    self.clusters,
                    seed=self.config.seed,
                )
                hands = 1
                if part == "train":
                    hands = max(1, MIN_SHARDS // len(buckets))
                    sizes += np.bincount(batch.column("group").to_numpy(), minlength=len(sizes))
                    users = pl.DataFrame({"user": batch.column("user").to_pylist()})
                    left = users.join(
                        self.statistics.residual_mse(rows),
                        on="user",
                        how="left",
                        maintain_order="left",
                    )
                    tally.add(batch.column("cluster").to_numpy(), left["left"].to_numpy())
                self.report.tasks[part] = self.report.tasks.get(part, 0) + batch.num_rows
                self.report.interactions[part] = self.report.interactions.get(part, 0) + len(rows)
                for hand in range(hands):
                    dealt = pa.array(np.arange(hand, batch.num_rows, hands))
                    write_arrow(self.store / shard_name(part, shards[part]), batch.take(dealt))
                    shards[part] += 1
        return {p: n for p, n in shards.items() if n}, sizes, tally

    def _finish(
        self, fingerprint: str, shards: dict[str, int], sizes: NDArray, tally: ClusterTally
    ) -> None:
        """The report, then the manifest: from here on the folder is a store."""
        self.progress("write the manifest", 0)
        (self.store / "report.json").write_text(json.dumps(asdict(self.report), indent=1))
        files = ["items.arrow", FACTORS, REJECTS, "report.json"]
        files += sorted(
            f"factorisations/{p.name}" for p in (self.store / "factorisations").iterdir()
        )
        files += [f"vocab/{v.field.name}.parquet" for v in self.vocabularies]
        files += [shard_name(p, k) for p, n in shards.items() for k in range(n)]
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            fields=[v.field for v in self.vocabularies],
            num_rows=sum(v.field.num_rows for v in self.vocabularies),
            num_items=len(self.items),
            parts=self.report.tasks,
            shards=shards,
            ratings=self.statistics.ratings(
                [0.0, 1.0] if self.config.is_click else self.config.rating_range
            ),
            is_click=self.config.is_click,
            is_implicit=self.config.is_implicit,
            groups=list(self.groups.names),
            minority=minority_groups(sizes),
            clusters=tally.clusters(),
            recipe=asdict(self.config),
            fingerprint=fingerprint,
            notes=self.source.notes,
            checksums={name: checksum(self.store / name) for name in files},
        )
        write_manifest(self.store, manifest)


def _count(
    frame: pl.DataFrame, kinds: dict[str, Kind], is_seen: pl.Expr, min_count: int
) -> tuple[pl.DataFrame, dict[str, pl.DataFrame]]:
    """Bin numeric features by the seen entities, and count every feature's values among them."""
    for name, kind in kinds.items():
        if kind == "float":
            edges = bin_edges(frame.filter(is_seen)[name], min_count=min_count)
            frame = frame.with_columns(binned(frame[name], edges).alias(name))
    return frame, count_values(frame.filter(is_seen), kinds)


def _fingerprint(source: Source, config: DataConfig) -> str:
    """Of every source file: its name and what it holds."""
    files = [*source.files, *([Path(config.split)] if config.split else [])]
    named = [f"{path.name} {checksum(path)}" for path in files]
    return hashlib.sha256("\n".join(named).encode()).hexdigest()
