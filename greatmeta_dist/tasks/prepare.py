"""Interaction logs → a store (DESIGN.md section 5).

The log is checked in one streaming pass and dealt to buckets of users; each bucket, the unit of
work, is then split on its own. Rejected rows are kept in ``rejects.parquet``.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from greatmeta_dist.config import DataConfig, InputError, require
from greatmeta_dist.tasks.batch import Ragged, offsets_of
from greatmeta_dist.tasks.clean import REJECTS, Rejects, catalogue, check_log, read_entities
from greatmeta_dist.tasks.groups import Groups, category_profiles, fit_groups, minority_groups
from greatmeta_dist.tasks.sources import Kind, Source, open_source
from greatmeta_dist.tasks.split import (
    PARTS,
    held_out_items,
    read_split,
    split_by_recipe,
    uniform_hash,
)
from greatmeta_dist.tasks.store import (
    FORMAT_VERSION,
    ITEM_ID,
    MANIFEST,
    Manifest,
    Ratings,
    checksum,
    list_array,
    read_manifest,
    shard_name,
    write_arrow,
    write_manifest,
)
from greatmeta_dist.tasks.vocabulary import (
    Vocabulary,
    bin_edges,
    binned,
    build_vocabularies,
    count_values,
)

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
FINGERPRINT_BYTES = 1 << 20

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
    """Interactions of users with too few or too many of them."""
    not_in_split: int = 0
    """Interactions that the given split does not name."""
    tasks: dict[str, int] = field(default_factory=dict)
    interactions: dict[str, int] = field(default_factory=dict)
    is_new: bool = True
    """False where the store had been made the same way before."""


def prepare(
    config: DataConfig, store: Path, progress: Progress = lambda stage, share: None
) -> Report:
    """Prepare a log into ``store``; a store already made the same way is left as it is.

    Raises ``InputError`` for unreadable or malformed input, for too many rejected rows (which are
    then in ``rejects.parquet``), and for a store made otherwise.
    """
    work = store / ".work"
    shutil.rmtree(work, ignore_errors=True)
    try:
        work.mkdir(parents=True)
        return _Preparation(config, store, work, progress).run()
    except pl.exceptions.PolarsError as error:
        raise InputError(f"cannot read the log: {str(error).splitlines()[0]}") from error
    except (NotADirectoryError, FileExistsError) as error:
        raise InputError(f"store={store} is not a folder; name a folder to create") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


class _Preparation:
    """The stages of one preparation, in order, with what they pass on."""

    def __init__(self, config: DataConfig, store: Path, work: Path, progress: Progress):
        self.config, self.store, self.work, self.progress = config, store, work, progress
        self.rejects, self.report = Rejects(), Report()

    def run(self) -> Report:
        self.progress("open the source", 0)
        self.source = open_source(self.config, self.work)
        self.given = read_split(self.config.split, self.work) if self.config.split else None
        fingerprint = _fingerprint(self.source, self.config)
        if self._is_done(fingerprint):
            return Report(
                **{**json.loads((self.store / "report.json").read_text()), "is_new": False}
            )

        self.progress("check the log", 0)
        self.items = catalogue(self.source, self.rejects)
        table = self.source.users
        self.users = None if table is None else read_entities(table, "user", self.rejects)
        log = check_log(self.source, self.items, self.config, self.rejects, self.work / "log")
        self.report.read, self.report.unrated = log.num_read, log.num_unrated
        buckets = []
        for k in range(log.num_buckets):
            self.progress("split users", k / log.num_buckets)
            buckets.append(self._split(log.bucket(k, self.users, self.rejects)))
        self._check_rejects(buckets)

        train = pl.concat([b.filter(pl.col("part") == "train") for b in buckets])
        require(
            len(train) > 0,
            f"no training task came out of {log.num_read} rows; lower data.min_interactions "
            f"(now {self.config.min_interactions}), or check data.split",
        )
        self._build_vocabularies(train)
        self._fit_groups(train)
        for folder in ("shards", "vocab"):
            shutil.rmtree(self.store / folder, ignore_errors=True)
            (self.store / folder).mkdir()
        shards, sizes = self._write_tasks(buckets)
        self._write_items(train)
        for vocabulary in self.vocabularies:
            vocabulary.write(self.store / "vocab")
        self._finish(fingerprint, train, shards, sizes)
        return self.report

    def _is_done(self, fingerprint: str) -> bool:
        """Whether the store was made from the same files in the same way."""
        if not (self.store / MANIFEST).exists():
            return False
        manifest = read_manifest(self.store)
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

    def _split(self, log: pl.DataFrame) -> pl.DataFrame:
        """A bucket's interactions by part and role."""
        if self.given is None:
            is_cold = held_out_items(self.items["id"], self.config)
            frame, left_out = split_by_recipe(log, is_cold, self.config)
            self.report.out_of_bounds += left_out
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
        return used.select(SPLIT_SCHEMA.names())

    def _check_rejects(self, buckets: list[pl.DataFrame]) -> None:
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
        share = self.config.max_rejected_fraction
        if len(rejected) > share * self.report.read:
            row = rejected.row(0, named=True)
            raise InputError(
                f"{len(rejected)} rows were rejected, more than {share:g} of "
                f"{self.report.read}; the first: {row['file']}, line {row['line']}: "
                f"{row['reason']}; see {self.store / REJECTS}, mend the files or raise "
                "data.max_rejected_fraction"
            )

    # --- vocabularies and groups ----------------------------------------------------------

    def _build_vocabularies(self, train: pl.DataFrame) -> None:
        """Rows for every value that training users and their items have."""
        seen_items = train["item"].unique()
        self.items = self.items.with_columns(pl.col("id").alias(ITEM_ID))
        item_kinds: dict[str, Kind] = {ITEM_ID: "token"}
        item_kinds |= self.source.items.features if self.source.items else {}
        user_kinds = self.source.users.features if self.source.users else {}
        counted = []
        if self.users is not None:
            seen = pl.col("id").is_in(train["user"].unique().implode())
            self.users, counts = _count(self.users, user_kinds, seen)
            counted += [(n, "user", user_kinds[n], c) for n, c in counts.items()]
        seen = pl.col("item").is_in(seen_items.implode())
        self.items, counts = _count(self.items, item_kinds, seen)
        counted += [(n, "item", item_kinds[n], c) for n, c in counts.items()]
        self.vocabularies = build_vocabularies(counted, seed=self.config.seed)

    def _fit_groups(self, train: pl.DataFrame) -> None:
        """Find the preference groups, or take the true ones of synthetic data."""
        self.groups: Groups | None = None
        self.category: tuple[Ragged, int] | None = None
        if self.source.group is not None:
            assert self.users is not None
            self.group_names = sorted(self.users[self.source.group].unique().to_list())
            return
        vocabulary = self._category_vocabulary()
        self.group_names = ["all"]
        if vocabulary is None:
            return
        values = vocabulary.values.to_list()
        known = pl.DataFrame({"value": values, "code": np.arange(len(values))})
        column = pl.DataFrame(
            {"item": self.items["item"], "value": self.items[vocabulary.field.name]}
        )
        if vocabulary.field.is_list:
            column = column.explode("value", empty_as_null=True, keep_nulls=True)
        pairs = column.join(known, on="value", how="inner", maintain_order="left")
        lengths = np.bincount(pairs["item"].to_numpy(), minlength=len(self.items))
        self.category = (Ragged(pairs["code"].to_numpy(), offsets_of(lengths)), len(values))
        users = _by_user(train.filter(pl.col("role") == "support"))
        support = Ragged(users.frame["item"].to_numpy(), users.offsets)
        profiles = category_profiles(support, *self.category)
        self.groups = fit_groups(
            profiles, values, num_groups=self.config.num_groups, seed=self.config.seed
        )
        self.group_names = self.groups.names

    def _category_vocabulary(self) -> Vocabulary | None:
        wanted = self.config.category
        choices = [v for v in self.vocabularies if v.field.side == "item"]
        if wanted is not None:
            named = [v for v in choices if v.field.name == wanted]
            names = ", ".join(v.field.name for v in choices)
            require(bool(named), f"data.category is '{wanted}'; the item features are {names}")
            return named[0]
        small = [v for v in choices if v.field.is_list and 1 < len(v.values) <= MAX_CATEGORIES]
        return small[0] if small else None

    # --- writing --------------------------------------------------------------------------

    def _write_tasks(self, buckets: list[pl.DataFrame]) -> tuple[dict[str, int], NDArray]:
        """Every part's shards; returns their numbers, and the training users of each group."""
        shards = dict.fromkeys(PARTS, 0)
        sizes = np.zeros(len(self.group_names), np.int64)
        per_bucket = {"train": max(1, MIN_SHARDS // len(buckets))}
        for k, bucket in enumerate(buckets):
            self.progress("write tasks", k / len(buckets))
            for part in PARTS:
                rows = bucket.filter(pl.col("part") == part)
                if not len(rows):
                    continue
                batch = self._encode_tasks(rows)
                if part == "train":
                    sizes += np.bincount(batch.column("group").to_numpy(), minlength=len(sizes))
                self.report.tasks[part] = self.report.tasks.get(part, 0) + batch.num_rows
                self.report.interactions[part] = self.report.interactions.get(part, 0) + len(rows)
                for hand in range(per_bucket.get(part, 1)):
                    dealt = np.arange(hand, batch.num_rows, per_bucket.get(part, 1))
                    path = self.store / shard_name(part, shards[part])
                    write_arrow(path, batch.take(pa.array(dealt)))
                    shards[part] += 1
        return {p: n for p, n in shards.items() if n}, sizes

    def _encode_tasks(self, rows: pl.DataFrame) -> pa.RecordBatch:
        """One part's tasks of a bucket, users in an order that their tokens alone decide."""
        tokens = rows["user"].unique(maintain_order=True)
        order = np.argsort(uniform_hash(tokens, self.config.seed, "order"), kind="stable")
        position = pl.DataFrame({"user": tokens[order], "position": np.arange(len(tokens))})
        rows = rows.join(position, on="user").sort("position", maintain_order=True)
        columns: dict[str, pa.Array] = {"user": pa.array(position["user"].to_list(), pa.string())}
        sets = {}
        for role in ("support", "query"):
            chosen = rows.filter(pl.col("role") == role)
            lengths = np.bincount(chosen["position"].to_numpy(), minlength=len(tokens))
            offsets = offsets_of(lengths)
            sets[role] = Ragged(chosen["item"].to_numpy(), offsets)
            rating = Ragged(chosen["rating"].to_numpy().astype(np.float32), offsets)
            columns[f"{role}_item"] = list_array(sets[role], pa.int32())
            columns[f"{role}_rating"] = list_array(rating, pa.float32())
        user_rows = position.select(id="user")
        if self.users is not None:
            user_rows = user_rows.join(self.users, on="id", how="left", maintain_order="left")
        for v in self.vocabularies:
            if v.field.side == "user":
                coded = v.encode(user_rows[v.field.name])
                columns[f"feature:{v.field.name}"] = list_array(coded, pa.int32())
        columns["group"] = pa.array(self._group_of(sets["support"], user_rows), pa.int32())
        return pa.RecordBatch.from_pydict(columns)

    def _group_of(self, support: Ragged, user_rows: pl.DataFrame) -> NDArray[np.int32]:
        if self.source.group is not None:
            index = {name: k for k, name in enumerate(self.group_names)}
            return (
                user_rows[self.source.group].replace_strict(index, return_dtype=pl.Int32).to_numpy()
            )
        if self.groups is None or self.category is None:
            return np.zeros(len(user_rows), np.int32)
        return self.groups.of(category_profiles(support, *self.category))

    def _write_items(self, train: pl.DataFrame) -> None:
        """The catalogue: token, features, and the training users' ratings of each item."""
        stats = train.group_by("item").agg(count=pl.len(), total=pl.col("rating").sum())
        items = self.items.join(stats, on="item", how="left", maintain_order="left")
        columns = {
            "item": pa.array(items["id"].to_list(), pa.string()),
            "train_count": pa.array(items["count"].fill_null(0).to_numpy(), pa.int64()),
            "train_sum": pa.array(items["total"].fill_null(0.0).to_numpy(), pa.float64()),
        }
        for v in self.vocabularies:
            if v.field.side == "item":
                coded = v.encode(items[v.field.name])
                columns[f"feature:{v.field.name}"] = list_array(coded, pa.int32())
        write_arrow(self.store / "items.arrow", pa.RecordBatch.from_pydict(columns))

    def _finish(
        self, fingerprint: str, train: pl.DataFrame, shards: dict[str, int], sizes: NDArray
    ) -> None:
        """The report, then the manifest: from here on the folder is a store."""
        self.progress("write the manifest", 0)
        (self.store / "report.json").write_text(json.dumps(asdict(self.report), indent=1))
        ratings = train["rating"].to_numpy()
        given = self.config.rating_range
        bounds = given if given is not None else [float(ratings.min()), float(ratings.max())]
        files = ["items.arrow", REJECTS, "report.json"]
        files += [f"vocab/{v.field.name}.parquet" for v in self.vocabularies]
        files += [shard_name(p, k) for p, n in shards.items() for k in range(n)]
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            fields=[v.field for v in self.vocabularies],
            num_rows=sum(v.field.num_rows for v in self.vocabularies),
            num_items=len(self.items),
            parts=self.report.tasks,
            shards=shards,
            ratings=Ratings(
                bounds[0], bounds[1], float(ratings.mean()), float(ratings.std()), len(ratings)
            ),
            groups=self.group_names,
            minority=minority_groups(sizes),
            recipe=asdict(self.config),
            fingerprint=fingerprint,
            notes=self.source.notes,
            checksums={name: checksum(self.store / name) for name in files},
        )
        write_manifest(self.store, manifest)


@dataclass(frozen=True)
class _Users:
    frame: pl.DataFrame
    """Rows of one user side by side."""
    offsets: NDArray[np.int64]


def _by_user(rows: pl.DataFrame) -> _Users:
    ordered = rows.sort("user", maintain_order=True)
    lengths = ordered.group_by("user", maintain_order=True).len()["len"].to_numpy()
    return _Users(ordered, offsets_of(lengths))


def _count(
    frame: pl.DataFrame, kinds: dict[str, Kind], is_seen: pl.Expr
) -> tuple[pl.DataFrame, dict[str, pl.DataFrame]]:
    """Bin numeric features by the seen entities, and count every feature's values among them."""
    for name, kind in kinds.items():
        if kind == "float":
            edges = bin_edges(frame.filter(is_seen)[name])
            frame = frame.with_columns(binned(frame[name], edges).alias(name))
    return frame, count_values(frame.filter(is_seen), kinds)


def _fingerprint(source: Source, config: DataConfig) -> str:
    """Of every source file: its name, size, first and last MiB."""
    digest = hashlib.sha256()
    for path in [*source.files, *([Path(config.split)] if config.split else [])]:
        size = path.stat().st_size
        digest.update(f"{path.name} {size} ".encode())
        with path.open("rb") as file:
            digest.update(file.read(FINGERPRINT_BYTES))
            file.seek(max(0, size - FINGERPRINT_BYTES))
            digest.update(file.read(FINGERPRINT_BYTES))
    return digest.hexdigest()
