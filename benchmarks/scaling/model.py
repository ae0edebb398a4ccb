"""A model of many workers, calibrated from what is measured with two."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from greatmeta_dist.config import ModelConfig
from greatmeta_dist.meta.model import ONE_ROW_LAYERS

WORKERS = (2, 8, 32, 128, 512)
NUM_ROWS = 10**9
FLOAT_BYTES = 4
WORTH = 0.05
"""The share of a step's time that a plain all-reduce must save to be worth other bits."""


Shapes = Mapping[str, Sequence[int]]
"""Of the tensors of A by name."""


@dataclass(frozen=True)
class Step:
    """What a worker computes and sends in a step."""

    users: float
    """Its users."""
    compute_s: float
    """Seconds that it computes."""
    rows: float
    """Distinct embedding rows that its users touch."""
    columns: float
    """Numbers that the coordinator gets of each user."""
    parameters_of_a: int
    one_row_layers: tuple[tuple[int, int], ...]
    """Outputs and inputs of the layers that see one row a user."""

    def by_user(self, size: int) -> list[tuple[int, int]]:
        """Of ``one_row_layers``, those that a group of so many workers adds up from its users'
        rows (``LinearGradients.are_few``)."""
        users = size * self.users
        return [(out, of) for out, of in self.one_row_layers if users * (out + of) <= 2 * out * of]


def one_row_layers(shapes: Shapes) -> tuple[tuple[int, int], ...]:
    """Of the shapes of A's tensors, those that ``Step`` asks for."""
    weights = [shapes[f"{name}.weight"] for name in ONE_ROW_LAYERS]
    return tuple((num_out, num_in) for num_out, num_in in weights)


def model(measured: dict[str, Any], gbit: float, latency_us: float) -> list[dict[str, float]]:
    """Predictions for as many users a worker as half the measured step, and its distinct rows."""
    users = measured["users_per_batch"] / 2
    step = Step(
        users=users,
        compute_s=users / measured["users_per_s"][1],
        rows=measured["rows_per_worker"][2],
        columns=measured["phases"]["statistics"]["bytes_per_step"] / (FLOAT_BYTES * users),
        parameters_of_a=measured["parameters_of_A"],
        one_row_layers=tuple(map(tuple, measured["one_row_layers"])),
    )
    return [predict(size, step, gbit, latency_us) for size in WORKERS]


def predict(size: int, step: Step, gbit: float, latency_us: float) -> dict[str, float]:
    """A step of ``size`` workers, each of which does ``step``.

    Assumes: rows have the default width, and are spread evenly over owners; every link carries
    ``gbit`` both ways, every message ``latency_us`` more; an all-to-all posts a
    message to every peer, on which A's sums and the next plan piggyback; gather, scatter and
    broadcast take log₂ W hops, the broadcast all of A in each; with ``fast`` the two sums of A
    leave the all-to-alls for the best all-reduces there are (halving and doubling: log₂ W messages
    each way, all of A once each way); nothing overlaps, though the engine computes while ḡ and
    A's new values travel.
    """
    bandwidth, latency = gbit * 1e9 / 8, latency_us * 1e-6
    bytes_of_a, width = FLOAT_BYTES * step.parameters_of_a, ModelConfig().embedding_dim
    by_user = step.by_user(size)
    bytes_by_lane = bytes_of_a - FLOAT_BYTES * sum(out * of for out, of in by_user)
    bytes_by_user = step.users * FLOAT_BYTES * sum(out + of for out, of in by_user)
    hops, remote, is_pair = math.log2(size), (size - 1) / size, size == 2
    # Fetch; ḡ to owners and back, of two workers at once; the outer update to owners, the next
    # plan piggybacked.
    num_messages = 3 if is_pair else 4
    row_bytes = remote * step.rows * (4 * FLOAT_BYTES * width + 4)
    row_s = num_messages * latency * (size - 1) + row_bytes / bandwidth
    statistics_bytes = step.users * FLOAT_BYTES * (step.columns + 1)
    statistics_s = (size - 1) * statistics_bytes / bandwidth + 2 * latency * hops
    broadcast_s = hops * (latency + bytes_of_a / bandwidth)
    # ḡ in slices, out and back, or all of it at once, which is as much; the update in slices,
    # and the sums to the coordinator; of two workers the update straight to it.
    tree_s = 4 * remote * bytes_by_lane / bandwidth + (0 if is_pair else latency * hops)
    fast_s = 2 * 2 * (hops * latency + remote * bytes_by_lane / bandwidth)
    # Users' rows of the layers that are one product: to all for ḡ, to the coordinator after it.
    products_s = 2 * (size - 1) * bytes_by_user / bandwidth
    fast_s += latency if is_pair else 0  # ḡ's rows there and back
    step_s = step.compute_s + row_s + statistics_s + tree_s + products_s + broadcast_s
    # Of A: ḡ's slices out and back, the update's slices, a summed slice to the coordinator, and
    # the broadcast; two workers send the update whole.
    times_a = 3 if is_pair else 3 + 1 / size
    sent = row_bytes + remote * (times_a * bytes_by_lane + bytes_of_a) + statistics_bytes
    sent += (size - 1) * (1 + 1 / size) * bytes_by_user
    return {
        "workers": size,
        "users_per_s": size * step.users / step_s,
        "efficiency": step.compute_s / step_s,
        "bytes_per_user": sent / step.users,
        "messages_ms": 1e3 * (step_s - step.compute_s),
        "sums_of_A_ms": 1e3 * (tree_s + products_s),
        "fast_ms": 1e3 * (fast_s + products_s),
        "fast_saves": (tree_s - fast_s) / step_s,
        "gib_of_rows": NUM_ROWS * bytes_per_row(width) / size / 2**30,
    }


def bytes_per_row(width: int) -> int:
    """A row, both of its Adam moments and its running mean; two counters."""
    return 4 * FLOAT_BYTES * width + 8
