"""A log generated from the options; see ``data/synthetic.py`` for what is in it."""

from pathlib import Path

import polars as pl

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.sources.base import Source, Table, reads
from greatmeta_dist.data.synthetic import write_synthetic


@reads("users", "items", "mean_interactions")
def open_synthetic(config: DataConfig, work: Path) -> Source:
    """Generate a log into ``work`` and open it; its true preference groups are known."""
    synthetic = write_synthetic(
        work / "synthetic",
        users=config.users,
        items=config.items,
        mean_interactions=config.mean_interactions,
        seed=config.seed,
    )
    folder = synthetic.folder
    return Source(
        _scan(folder / "interactions.parquet"),
        has_timestamp=True,
        users=Table(_scan(folder / "users.parquet"), {"age": "token", "region": "token"}),
        items=Table(
            _scan(folder / "items.parquet", lists=("category",)),
            {"category": "token_list", "maker": "token"},
        ),
        # No files: the fingerprint of the options is enough, and no file outlives ``work``.
        files=(),
        generated=(folder / "interactions.parquet",),
        group="group",
        notes={"noise_floor_rmse": synthetic.noise_floor_rmse},
    )


def _scan(path: Path, lists: tuple[str, ...] = ()) -> pl.LazyFrame:
    """A generated Parquet file in the frame of a source (``sources/base``)."""
    frame = pl.scan_parquet(path, row_index_name="row", glob=False)
    plain = [c for c in frame.collect_schema().names() if c not in ("row", *lists)]
    return frame.select(
        *[pl.col(c).cast(pl.String) for c in plain],
        *lists,
        file=pl.lit(path.name),
        line=pl.col("row").cast(pl.Int64) + 1,
        reason=pl.lit(None, pl.String),
        text=pl.lit(None, pl.String),
    )
