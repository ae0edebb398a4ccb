"""Which column of a log is the user, the item, the rating and the time, told by usual names."""

import re
from collections.abc import Collection, Sequence
from dataclasses import asdict

from greatmeta_dist.config import ColumnsConfig, DataConfig
from greatmeta_dist.config.data import AUTO
from greatmeta_dist.errors import InputError, require

USUAL_NAMES: dict[str, tuple[str, ...]] = {
    "user": (
        "user userid",
        "uid useridx username customer customerid client clientid visitor visitorid member "
        "memberid reviewer reviewerid account accountid person personid viewer viewerid profile "
        "profileid reader readerid listener listenerid player playerid steamid steamid64 usr usrid",
        "u",
    ),
    "item": (
        "item itemid",
        "parentasin",
        "iid movie movieid film filmid product productid asin book bookid isbn song songid track "
        "trackid artist artistid album albumid game gameid app appid video videoid news newsid "
        "article articleid business businessid place placeid venue venueid poi poiid anime animeid "
        "recipe recipeid beer beerid joke jokeid sku skuid goods goodsid hotel hotelid show showid "
        "content contentid course courseid restaurant restaurantid podcast podcastid creative "
        "creativeid",
        "i",
    ),
    "rating": (
        "rating ratings",
        "stars star score overall bookrating starrating userrating itemrating overallrating "
        "ratingvalue ratingscore reviewscore reviewoverall reviewrating myrating grade",
        "r",
    ),
    "timestamp": (
        "timestamp",
        "unixreviewtime unixtime unixtimestamp",
        "time ts date datetime reviewtime reviewdate created "
        "createdat createdtime eventtime eventtimestamp ratedat ratingtime ratingdate dateadded "
        "timestampms tstamp epoch interactiontime",
        "t",
    ),
    "event": (
        "event",
        "eventtype eventname behavior behaviour behaviortype behaviourtype action actiontype "
        "interactiontype",
        "type",
    ),
}
"""Usual names of each column, without case and marks, by preference: where a file has one of an
earlier line, those of later lines are other things."""


def find_columns(
    columns: ColumnsConfig, available: Sequence[str], name: str, needed: Collection[str]
) -> ColumnsConfig:
    """The columns with each ``auto`` replaced by what a file has, or by null.

    ``available`` are the columns of the file called ``name``, and ``needed`` the roles that there
    must be a column for. Raises ``InputError`` where it is not clear which column is one of these,
    or where several may be it. ``event`` is looked for only where it is needed, and then weighs
    the rows in the place of a rating that was not named.
    """
    named = asdict(columns)
    if "event" in needed and named["rating"] == AUTO:
        named["rating"] = None
    taken = {column for column in named.values() if column not in (None, AUTO)}
    found = dict(named)
    searched = [role for role in named if role != "event" or role in needed]
    for role in searched:
        if named[role] == AUTO:
            candidates = usual_columns(role, [c for c in available if c not in taken])
            found[role] = candidates[0] if len(candidates) == 1 else None
            if len(candidates) > 1 or (role in needed and not candidates):
                found[role] = AUTO
    if AUTO in (found[role] for role in searched):
        raise InputError(_unclear(found, available, name, needed))
    return ColumnsConfig(**found)


def columns_of(columns: ColumnsConfig) -> dict[str, str]:
    """Role → column, of the roles that have one."""
    return {role: name for role, name in asdict(columns).items() if name not in (None, AUTO)}


def needed_columns(config: DataConfig) -> set[str]:
    """The roles that a log must have a column for."""
    needed = {"user", "item"}
    if config.events:
        needed.add("event")
    elif not config.is_click and config.repeats_rule != "count":
        needed.add("rating")
    return needed


def require_known(columns: ColumnsConfig, available: Sequence[str], name: str) -> None:
    """Raise ``InputError`` where a file lacks a column that was named."""
    missing = [c for c in columns_of(columns).values() if c not in available]
    require(
        not missing,
        f"{name} has no column {', '.join(missing)}; it has {', '.join(available)}; name the right "
        "ones in data.columns",
    )


def other_cases(wanted: Collection[str], available: Collection[str]) -> dict[str, str]:
    """Columns of a file that are called as those wanted but for upper and lower case → as wanted.

    Parts that different tools wrote may differ in this. Only where it is clear which is meant.
    """
    found = {}
    for name in wanted:
        alike = [c for c in available if c.lower() == name.lower()]
        if name not in available and len(alike) == 1:
            found[alike[0]] = name
    return found


def usual_columns(role: str, available: Sequence[str]) -> list[str]:
    """The columns that have the most usual names of a role."""
    for names in USUAL_NAMES[role]:
        candidates = [c for c in available if _bare(c) in names.split()]
        if candidates:
            return candidates
    return []


def _bare(column: str) -> str:
    """``User-ID``, ``user_id`` and ``userId`` → ``userid``."""
    return re.sub(r"[^a-z0-9]", "", column.lower())


def _unclear(
    found: dict[str, str | None], available: Sequence[str], name: str, needed: Collection[str]
) -> str:
    """One line: what is not clear, what there is, and the option to type."""
    found = {r: c for r, c in found.items() if r != "event" or "event" in needed}
    unclear = [role for role, column in found.items() if column == AUTO]
    typed = ", ".join(
        f"{role}: {'COLUMN' if column == AUTO else in_yaml(column)}"
        for role, column in found.items()
        if column is not None
    )
    message = (
        f"{name}: it is not clear which column is the {' and the '.join(unclear)}; it has "
        f"{', '.join(available)}; name it, as in data.columns='{{{typed}}}'"
    )
    if len(available) == 1:
        separators = [s for s in (";", "\t", "|", "::", " ") if s in available[0]]
        if separators:
            message = f"{name} has one column, '{available[0]}'; if it is several, set "
            message += f"data.separator='{separators[0]}'".replace("\t", "\\t")
    if any(re.fullmatch(r"-?[\d.]+", column) for column in available):
        message += "; if its first line is a row, set data.has_header=false and name columns by "
        message += "number: data.columns='{user: 1, item: 2, rating: 3}'"
    return message


def in_yaml(name: str) -> str:
    """A name as it is written in YAML."""
    return name if re.fullmatch(r"\w[\w-]*", name) else f'"{name}"'


def entity_column(in_log: str, side: str, available: Sequence[str], name: str) -> str:
    """The column of a users' or items' file (``side``) with the ids.

    It is called as in the log, or by a usual name, or ``id``. Raises ``InputError`` where there is
    none, or several.
    """
    if in_log in available:
        return in_log
    candidates = usual_columns(side, available) or [c for c in available if _bare(c) == "id"]
    require(
        len(candidates) == 1,
        f"{name} has no column {in_log}, as the log calls the {side}; it has "
        f"{', '.join(available)}; rename the column with the {side}",
    )
    return candidates[0]
