"""How many recommendations over HTTP does a service hold, and how long do they take?

``python -m benchmarks.serve [--items 100000] [--clients 1 4 16 64] [--seconds 15] [--replicas 1]
[--max-batch 16] [--threads 1] [-k 10] [--json FILE]``. A model of the shipped form with random
numbers, served by Ray Serve on loopback. Clients ask one after the other, each about users of 5 to
50 known ratings, and none waits between two requests. For each number of clients: requests a second
and the p50 and p99 of their times. Answers are checked for their length. Clients and service share
this machine.
"""

import argparse
import asyncio
import json
import random
import socket
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

# Before Ray, which reads its settings when it is imported.
from greatmeta_dist.launch.ray_cluster import connected  # isort: skip

import aiohttp
import numpy as np
from ray import serve
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks.environment import write_result
from benchmarks.recommend.random_model import random_ranker, random_scorer, random_users, raw
from greatmeta_dist.config import ClusterConfig, ServeConfig
from greatmeta_dist.display import Display
from greatmeta_dist.launch.serve import Served, bound
from greatmeta_dist.launch.serve_here import address, start

NUM_USERS = 200
SMALL = 1000
"""Items of the model that only makes users; theirs are spread over the whole catalogue."""
WARM_UP_S = 2.0


@dataclass(frozen=True)
class Row:
    """What one number of clients held."""

    clients: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    refused: int
    """Requests that were refused, since too many waited."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--seconds", type=float, default=15.0, help="of each number of clients")
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--max-batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = ServeConfig(
        port=port,
        replicas=options.replicas,
        max_batch=options.max_batch,
        threads=options.threads,
    )
    display, bodies = Display(Console(stderr=True)), requests(options)
    cluster = ClusterConfig(kind="ray", threads=config.replicas * config.threads)
    rows = []
    with connected(cluster, display):
        start(config)
        serve.run(bound(config, partial(served, options.items)), name="benchmark")
        for clients in options.clients:
            rows.append(asyncio.run(load(address(config), bodies, clients, options)))
            display.say(f"{clients} clients: {rows[-1].requests_per_s:.1f} requests/s")
        serve.delete("benchmark")
    show(rows, options)
    write_result(options.json, options, {"rows": [asdict(row) for row in rows]})


def served(num_items: int) -> Served:
    """The random model, as each replica makes it."""
    return Served(random_ranker(random_scorer(num_items)), "random", 0)


def requests(options: argparse.Namespace) -> list[bytes]:
    """Bodies of requests about some users."""
    users = random_users(random_scorer(SMALL), NUM_USERS)
    scale = max(1, options.items // SMALL)
    bodies = []
    for user in range(NUM_USERS):
        pairs, features = raw(users, user)
        spread = [(item * scale, rating) for item, rating in pairs]
        body = {"interactions": spread, "user_features": features, "k": options.k}
        bodies.append(json.dumps(body).encode())
    return bodies


async def load(url: str, bodies: list[bytes], clients: int, options: argparse.Namespace) -> Row:
    """Ask for a while with so many clients. Raises ``RuntimeError`` where an answer is wrong."""
    begin = time.perf_counter() + WARM_UP_S
    end = begin + options.seconds
    seconds: list[float] = []
    refused = 0

    async def client(session: aiohttp.ClientSession, rng: random.Random) -> None:
        nonlocal refused
        while (asked := time.perf_counter()) < end:
            async with session.post("/recommend", data=rng.choice(bodies)) as response:
                answer = await response.read()
            if response.status == 503:
                refused += 1
                continue
            if response.status != 200 or len(json.loads(answer)["items"]) != options.k:
                raise RuntimeError(f"status {response.status}: {answer[:200]!r}")
            if asked >= begin:
                seconds.append(time.perf_counter() - asked)

    headers = {"content-type": "application/json"}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(url, headers=headers, connector=connector) as session:
        await asyncio.gather(*(client(session, random.Random(n)) for n in range(clients)))
    elapsed = time.perf_counter() - begin
    p50, p99 = 1e3 * np.quantile(seconds, [0.5, 0.99])
    return Row(clients, len(seconds) / elapsed, float(p50), float(p99), refused)


def show(rows: list[Row], options: argparse.Namespace) -> None:
    """Print the table."""
    title = (
        f"best {options.k} of {options.items:,} items over HTTP, {options.replicas} replica(s) "
        f"of {options.threads} thread(s), batches up to {options.max_batch}"
    )
    table = Table("clients", "requests/s", "p50, ms", "p99, ms", "refused", box=SIMPLE, title=title)
    for row in rows:
        table.add_row(
            str(row.clients),
            f"{row.requests_per_s:.1f}",
            f"{row.p50_ms:.1f}",
            f"{row.p99_ms:.1f}",
            str(row.refused),
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
