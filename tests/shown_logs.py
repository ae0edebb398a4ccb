"""Small logs, under the names that the documents' commands have for them."""

from pathlib import Path

import numpy as np

LOGS = ("log.csv", "new-rows.csv", "events.csv", "ml-1m", "ml-100k", "log.txt")
"""Names of logs, as ``data.path`` has them."""
USERS = ("new-users.csv", "ids.txt", "logs")
"""Names of logs and lists of users, as ``users`` has them; their items are those of data=synthetic.
"""
FIRST_TIME = 956_703_932
"""April 2000, when the first ratings of MovieLens 1M were given; the last ones are of 2001 here."""
NUM_USERS, NUM_ITEMS, NUM_RATINGS = 80, 260, 45


def write_shown_logs(folder: Path) -> None:
    """Write every log of ``LOGS`` into a folder."""
    ratings = _ratings()
    _write_csv(folder, ratings)
    _write_movielens_1m(folder / "ml-1m", ratings)
    _write_recbole(folder / "ml-100k", ratings)
    _write_users(folder, ratings)
    sentences = [f"u{user} likes i{item} {stars}" for user, item, stars in ratings]
    _write(folder / "log.txt", sentences)


def _ratings() -> list[tuple[int, int, int]]:
    """User and item, from 1, and stars."""
    rng = np.random.default_rng(0)
    quality = rng.normal(3.5, 0.7, NUM_ITEMS + 1)
    return [
        (user, item, int(np.clip(round(quality[item] + rng.normal()), 1, 5)))
        for user in range(1, NUM_USERS + 1)
        for item in 1 + rng.choice(NUM_ITEMS, NUM_RATINGS, replace=False)
    ]


def _write(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def _write_csv(folder: Path, ratings: list[tuple[int, int, int]]) -> None:
    log = [f"{user},{item},{stars},{k}" for k, (user, item, stars) in enumerate(ratings)]
    _write(folder / "log.csv", ["uid,iid,stars,at", *log])
    new = [
        f"{user},{item},{stars},{10**6 + k}" for k, (user, item, stars) in enumerate(ratings[::7])
    ]
    _write(folder / "new-rows.csv", ["uid,iid,stars,at", *new])
    kinds = ("view", "view", "view", "view", "cart", "purchase")
    events = [f"{user},{item},{kinds[stars]}" for user, item, stars in ratings]
    _write(folder / "events.csv", ["uid,iid,event", *events])
    items = [f"{item},{'drama|war' if item % 3 else 'comedy'},{item}.5" for item in _all_items()]
    _write(folder / "items.csv", ["iid,genre,price", *items])
    users = [f"{user},{'fr' if user % 2 else 'no'}" for user in range(1, NUM_USERS + 1)]
    _write(folder / "users.csv", ["uid,country", *users])


def _write_users(folder: Path, ratings: list[tuple[int, int, int]]) -> None:
    log = [f"new_{user},item_{item},{stars}" for user, item, stars in ratings[:100]]
    for name in ("new-users.csv", "logs/part-0.csv", "ratings.csv"):
        _write(folder / name, ["user,item,rating", *log])
    _write(folder / "ids.txt", ["ann", "bob"])
    _write(folder / "shelf.txt", ["item_3", "item_8"])
    _write(folder / "new-items.csv", ["item,category", "item_new,category_1"])


def _write_movielens_1m(folder: Path, ratings: list[tuple[int, int, int]]) -> None:
    log = [f"{user}::{item}::{stars}::{FIRST_TIME + 10_000 * k}"
           for k, (user, item, stars) in enumerate(ratings)]  # fmt: skip
    _write(folder / "ratings.dat", log)
    users = [f"{user}::F::25::{user % 4}::0" for user in range(1, NUM_USERS + 1)]
    _write(folder / "users.dat", users)
    movies = [f"{item}::Film {item} (1990)::{'Drama|War' if item % 3 else 'Comedy'}"
              for item in _all_items()]  # fmt: skip
    _write(folder / "movies.dat", movies)


def _write_recbole(folder: Path, ratings: list[tuple[int, int, int]]) -> None:
    log = [f"{user}\t{item}\t{stars}" for user, item, stars in ratings]
    header = "user_id:token\titem_id:token\trating:float"
    _write(folder / "ml-100k.inter", [header, *log])
    classes = [f"{item}\t{'Drama War' if item % 3 else 'Comedy'}" for item in _all_items()]
    _write(folder / "ml-100k.item", ["item_id:token\tclass:token_seq", *classes])
    split = [f"{_split_of(user)}\t{user}\t{'query' if k % NUM_RATINGS < 10 else 'support'}\t{item}"
             for k, (user, item, _) in enumerate(ratings)]  # fmt: skip
    _write(folder / "split.tsv", ["part\tuser_id\trole\titem_id", *split])


def _split_of(user: int) -> str:
    return {0: "test", 1: "valid"}.get(user % 5, "train")


def _all_items() -> range:
    return range(1, NUM_ITEMS + 1)
