"""A model of many workers, calibrated from what is measured with two."""

import math
from typing import Any

from greatmeta_dist.config import ModelConfig

WORKERS = (2, 8, 32, 128, 512)
NUM_ROWS = 10**9
FLOAT_BYTES = 4
WORTH = 0.05
"""The share of a step's time that a plain all-reduce must save to be worth other bits."""


def model(measured: dict[str, Any], gbit: float, latency_us: float) -> list[dict[str, float]]:
    """Predictions for as many users a worker as half the measured step.

    Assumes: computing takes a worker what it takes one here; a worker touches as many distinct
    rows, of the default width, as one of 2 does here, spread evenly over owners; every
    link carries ``gbit`` both ways, every message ``latency_us`` more; an all-to-all posts a
    message to every peer, on which A's sums and the next plan piggyback; gather, scatter and
    broadcast take log₂ W hops, the broadcast all of A in each; with ``fast`` the two sums of A
    leave the all-to-alls for the best all-reduces there are (halving and doubling: log₂ W messages
    each way, all of A once each way); nothing overlaps, though the engine computes while ḡ and
    A's new values travel.
    """
    users = measured["users_per_batch"] / 2
    compute = users / measured["users_per_s"][1]
    bandwidth, latency = gbit * 1e9 / 8, latency_us * 1e-6
    bytes_of_a = FLOAT_BYTES * measured["parameters_of_A"]
    rows, width = measured["rows_per_worker"][2], ModelConfig().embedding_dim
    columns = measured["phases"]["statistics"]["bytes_per_step"] / (FLOAT_BYTES * users)
    # A row, both of its Adam moments and its running mean; two counters.
    table_bytes = NUM_ROWS * (4 * FLOAT_BYTES * width + 8)
    predictions = []
    for size in WORKERS:
        hops, remote = math.log2(size), (size - 1) / size
        is_pair = size == 2
        # Fetch; ḡ to owners and back, of two workers at once; the outer update to owners, the next
        # plan piggybacked.
        num_messages = 3 if is_pair else 4
        row_bytes = remote * rows * (4 * FLOAT_BYTES * width + 4)
        row_s = num_messages * latency * (size - 1) + row_bytes / bandwidth
        statistics_bytes = users * FLOAT_BYTES * (columns + 1)
        statistics_s = (size - 1) * statistics_bytes / bandwidth + 2 * latency * hops
        broadcast_s = hops * (latency + bytes_of_a / bandwidth)
        # ḡ in slices, out and back, or all of it at once, which is as much; the update in slices,
        # and the sums to the coordinator; of two workers the update straight to it.
        tree_s = 4 * remote * bytes_of_a / bandwidth + (0 if is_pair else latency * hops)
        fast_s = 2 * 2 * (hops * latency + remote * bytes_of_a / bandwidth)
        fast_s += latency if is_pair else 0  # ḡ's rows there and back
        step_s = compute + row_s + statistics_s + tree_s + broadcast_s
        sent = row_bytes + remote * (4 if is_pair else 5) * bytes_of_a + statistics_bytes
        predictions.append(
            {
                "workers": size,
                "users_per_s": size * users / step_s,
                "efficiency": compute / step_s,
                "bytes_per_user": sent / users,
                "messages_ms": 1e3 * (step_s - compute),
                "sums_of_A_ms": 1e3 * tree_s,
                "fast_ms": 1e3 * fast_s,
                "fast_saves": (tree_s - fast_s) / step_s,
                "gib_of_rows": table_bytes / size / 2**30,
            }
        )
    return predictions
