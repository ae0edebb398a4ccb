"""Last.fm of HetRec 2011 as downloaded: who listens to whom, and tags of artists."""

from pathlib import Path

import polars as pl

from greatmeta_dist.config import DataConfig
from greatmeta_dist.data.sources.base import (
    Source,
    entity_table,
    interactions_of,
    local_folder,
    require_columns,
)
from greatmeta_dist.data.sources.lists import distinct_values
from greatmeta_dist.data.text import TextFormat, scan_text

PLAYS, ARTISTS = "user_artists.dat", "artists.dat"
TAGGED, TAGS = "user_taggedartists.dat", "tags.dat"


def open_lastfm_hetrec(config: DataConfig, work: Path) -> Source:
    """Open the folder ``data.path``: plays, and artists with the tags that users gave them.

    The log has no times, and its weights are play counts. Tags that are malformed are rejected as
    rows of items are.
    """
    folder = local_folder(config)
    # Only the words of tags hold letters beyond ASCII in an older encoding.
    plays, artists, tagged, tags = (
        scan_text(f"{folder}/{name}", TextFormat("\t", encoding=encoding), work)
        for name, encoding in (
            (PLAYS, "utf-8"), (ARTISTS, "utf-8"), (TAGGED, "utf-8"), (TAGS, "latin-1"),
        )
    )  # fmt: skip
    require_columns(plays, PLAYS, ("userID", "artistID", "weight"))
    require_columns(artists, ARTISTS, ("id", "name"))
    require_columns(tagged, TAGGED, ("artistID", "tagID"))
    require_columns(tags, TAGS, ("tagID", "tagValue"))
    words = tags.filter(pl.col("reason").is_null()).select("tagID", "tagValue")
    of_artist = (
        tagged.filter(pl.col("reason").is_null())
        .join(words, on="tagID")
        .group_by("artistID")
        .agg(tags=pl.col("tagValue").unique().sort())
    )
    known = artists.select(artist="id", file="file", line="line", reason="reason", text="text")
    malformed = [
        frame.filter(pl.col("reason").is_not_null()).select("file", "line", "reason", "text")
        for frame in (tagged, tags)
    ]
    items = pl.concat(
        [
            known.join(
                of_artist, left_on="artist", right_on="artistID", how="left", maintain_order="left"
            ),
            *malformed,
        ],
        how="diagonal",
    )
    return Source(
        interactions_of(plays, {"user": "userID", "item": "artistID", "rating": "weight"}),
        has_timestamp=False,
        users=None,
        items=entity_table(
            items, "artist", [distinct_values(pl.col("tags")).alias("tags")], {"tags": "token_list"}
        ),
        files=tuple(Path(folder, name) for name in (PLAYS, ARTISTS, TAGGED, TAGS)),
        not_used={ARTISTS: ["name", "url", "pictureURL"]},
    )
