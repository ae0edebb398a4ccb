"""More forms of generated logs: JSON Lines, and folders of packed and empty parts in Hive's way."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fuzz.generate import BAD_LINES, FAULTS, HEADER, Draws, csv_line

EVENTS = ("view", "cart", "purchase", "search")
MANY = 5000
EVENT_SHARES = (0.6, 0.2, 0.1, 0.1)
BAD_JSON = (
    b"",
    b"  ",
    b"{",
    b"[1, 2]",
    b'"u1"',
    b'{"u": "u1", "i": "i1", "r": 4, "t": 3',
    b'{"u": "u1"} {"u": "u2"}',
    b'{"u": "\xff", "i": "i1", "r": 4}',
    b'{"u": "u1", "i": "i1", "r": 4, "t": 3},',
    b"u1,i1,4,3",
)


def write_json(
    path: Path, *, num_rows: int, num_users: int, num_items: int, seed: int, faults: float = FAULTS
) -> None:
    """Write objects with the keys ``u i r t e``, some of which may be missing or of other types."""
    rng = np.random.default_rng(seed)
    draws = Draws(rng, num_rows, num_users, num_items)
    kind = rng.random(num_rows)
    if num_rows > MANY and seed % 3 == 0:
        faults /= 1000  # so that whole parts without a fault are read at once
    with path.open("wb") as file:
        for k in range(num_rows):
            if kind[k] < faults / 2:
                file.write(BAD_JSON[rng.integers(len(BAD_JSON))] + b"\n")
            else:
                one = _object(rng, draws, k, is_at_fault=kind[k] < faults)
                is_ascii = bool(rng.integers(2))
                file.write(json.dumps(one, ensure_ascii=is_ascii).encode() + b"\n")


def _object(rng: np.random.Generator, draws: Draws, k: int, *, is_at_fault: bool) -> dict[str, Any]:
    user, item = int(draws.user[k]), int(draws.item[k])
    one: dict[str, Any] = {
        "u": f"u-ü {user}" if user % 5 else f"u{user}",
        "i": item if item % 7 else 10**25 + item,
        "r": float(draws.rating[k]),
        "t": int(draws.time[k]),
        "e": EVENTS[rng.choice(4, p=EVENT_SHARES)],
        "x": {"y": ['"', "}\n{"]},
    }
    if is_at_fault:
        name = "uirte"[rng.integers(5)]
        wrong = (None, "", "five", float("nan"), float("inf"), 1e30)
        one[name] = wrong[rng.integers(6 if name == "r" else 2)]
        if one[name] is None and rng.integers(2):
            del one[name]
    return one


def write_parts(
    folder: Path,
    *,
    num_rows: int,
    num_users: int,
    num_items: int,
    seed: int,
    faults: float = FAULTS,
) -> None:
    """Write CSV files ``u,i,r,t`` in folders ``e=view`` and so on.

    Some are packed, one has no row, one no byte, and the last lines of some are cut off.
    """
    rng = np.random.default_rng(seed)
    draws = Draws(rng, num_rows, num_users, num_items)
    kind = rng.random(num_rows)
    lines: dict[str, list[bytes]] = {}
    for k in range(num_rows):
        if kind[k] < faults / 2:
            line = BAD_LINES[rng.integers(len(BAD_LINES))]
        else:
            line = csv_line(rng, draws, k, is_at_fault=kind[k] < faults).encode()
        event = EVENTS[rng.choice(4, p=EVENT_SHARES)]
        lines.setdefault(f"e={event}/part-{rng.integers(3)}.csv", []).append(line)
    for number, (name, part) in enumerate(sorted(lines.items())):
        content = HEADER + b"\n".join(part)[: None if number % 2 else -1] + b"\n"
        target = folder / (f"{name}.gz" if number % 3 == 0 else name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(gzip.compress(content) if number % 3 == 0 else content)
    (folder / "e=view" / "empty.csv").write_bytes(b"")
    (folder / "e=view" / "rowless.csv").write_bytes(HEADER)
    (folder / "_SUCCESS").touch()
