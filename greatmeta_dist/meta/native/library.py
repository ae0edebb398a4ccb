"""``row_layers.c`` as compiled where the package was installed, and the structures it is given."""

import ctypes
import importlib.util
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from greatmeta_dist.meta.batch import RowSet
from greatmeta_dist.meta.fast_weights import DenseDelta, LowRankDelta, SharedWeights
from greatmeta_dist.meta.layer_input import LayerInput
from greatmeta_dist.meta.losses import Loss
from greatmeta_dist.meta.model import Recommender
from greatmeta_dist.meta.set_input import SetInput

LIBRARY = "greatmeta_dist.meta.native._row_layers"
MOST_HIDDEN = 8
VECTOR_BYTES = 64
"""The widest vectors that it uses, where the processor has them."""
ACTIVATIONS = {"none": 0, "relu": 1, "tanh": 2}
LOSSES: dict[Loss, int] = {"mse": 0, "bce": 1}

OwnDelta = LowRankDelta | DenseDelta
"""How far a layer has moved for each user of a bucket."""

_int, _pointer = ctypes.c_int64, ctypes.c_void_p
_pointers = ctypes.c_void_p * MOST_HIDDEN


class Call(ctypes.Structure):
    """As in ``row_layers.h``; the others too."""

    _fields_ = (
        ("is_double", _int),
        ("vector_bytes", _int),
        ("num_threads", _int),
        ("scratch_bytes", _int),
        ("scratch", _pointer),
        ("activation", _int),
        ("loss", _int),
        ("num_hidden", _int),
        ("width", _int * MOST_HIDDEN),
        ("num_columns", _int),
        ("num_shared", _int),
        ("num_users", _int),
        ("users", _pointer),
    )


class Sets(ctypes.Structure):
    _fields_ = (
        ("num_rows", _int),
        ("rows", _pointer),
        ("shared", _pointer),
        ("kernel_rows", _pointer),
        ("kernel_shared", _pointer),
        ("label", _pointer),
        ("row_weight", _pointer),
        ("logit", _pointer),
        ("first_output", _pointer),
        ("film", _pointer),
        ("d_film", _pointer),
    )


class Moved(ctypes.Structure):
    _fields_ = (
        ("num_rows", _int),
        ("rows", _pointer),
        ("scaled_delta", _pointer),
        ("weight", _pointer),
        ("shared", _pointer),
        ("bias", _pointer),
    )


class Layers(ctypes.Structure):
    _fields_ = (
        ("weight", _pointers),
        ("bias", _pointers),
        ("moved", Moved * MOST_HIDDEN),
        ("num_steps", _int),
        ("is_own", _int),
        ("output", _pointer),
        ("output_bias", _pointer),
        ("kernel", _pointer),
        ("kernel_shared", _pointer),
    )


class InnerStep(ctypes.Structure):
    _fields_ = (
        ("call", Call),
        ("sets", Sets),
        ("layers", Layers),
        ("rate", ctypes.c_double),
        ("gram", _pointer),
    )


class Query(ctypes.Structure):
    _fields_ = (
        ("call", Call),
        ("sets", Sets),
        ("layers", Layers),
        ("num_support_rows", _int),
        ("support_weight", _pointer),
        ("prediction", _pointer),
        ("d_prediction", _pointer),
        ("d_total", _pointer),
        ("hidden", _pointers),
        ("delta", _pointers),
        ("delta_sum", _pointers),
        ("mean", _pointer),
        ("d_rows", _pointer),
        ("d_shared", _pointer),
        ("d_mean", _pointer),
    )


@cache
def _library() -> ctypes.CDLL | None:
    """None where it was not compiled, or for another machine, or from another version's source, as
    an editable installation keeps it until it is made anew."""
    spec = importlib.util.find_spec(LIBRARY)
    if spec is None or spec.origin is None:
        return None
    try:
        library = ctypes.CDLL(spec.origin)
        sizes = library.greatmeta_inner_step_bytes(), library.greatmeta_query_bytes()
    except (OSError, AttributeError):
        return None
    return library if sizes == (ctypes.sizeof(InnerStep), ctypes.sizeof(Query)) else None


def is_available() -> bool:
    """Whether it was compiled for this machine."""
    return _library() is not None


def suits(model: Recommender, like: Tensor) -> bool:
    """Whether it computes such a model on such tensors."""
    return (
        like.is_cpu
        and like.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled("cpu")
        and 0 < len(model.hidden) <= MOST_HIDDEN
        and model.activation in ACTIVATIONS
    )


def inner_step(work: InnerStep) -> None:
    library = _library()
    assert library is not None
    library.greatmeta_inner_step(ctypes.byref(work))


def query(work: Query) -> None:
    library = _library()
    assert library is not None
    library.greatmeta_query(ctypes.byref(work))


class Tensors:
    """Keeps tensors alive while structures point to them; all are of one precision."""

    def __init__(self, like: Tensor):
        self._like = like
        self._kept: list[Tensor] = []

    def pointer(self, tensor: Tensor | None) -> int | None:
        if tensor is None:
            return None
        assert tensor.is_contiguous()
        assert tensor.dtype in (self._like.dtype, torch.int64)
        self._kept.append(tensor)
        return tensor.data_ptr()

    def pointers(self, tensors: Sequence[Tensor | None]) -> Any:
        return _pointers(*map(self.pointer, tensors))

    def call(
        self,
        model: Recommender,
        x: LayerInput,
        loss: Loss,
        *,
        users: Tensor | None,
        num_users: int,
        num_delta_rows: int,
    ) -> Call:
        """``x`` [·, n, ·] are the rows of users' sets; ``num_delta_rows`` are the most rows of a
        low-rank delta."""
        like, num_threads = x.rows, torch.get_num_threads()
        size = _scratch_size(model, like.shape[1], num_delta_rows, lanes(like))
        return Call(
            is_double=like.dtype == torch.float64,
            vector_bytes=VECTOR_BYTES,
            num_threads=num_threads,
            scratch_bytes=size * like.element_size(),
            scratch=self.pointer(like.new_empty(num_threads, size)),
            activation=ACTIVATIONS[model.activation],
            loss=LOSSES[loss],
            num_hidden=len(model.hidden),
            width=(_int * MOST_HIDDEN)(*model.hidden),
            num_columns=like.shape[2],
            num_shared=x.num_shared or 0,
            num_users=num_users,
            users=self.pointer(users),
        )

    def sets(self, given: SetInput, rows: RowSet, first_output: Tensor) -> Sets:
        """Without film."""
        kernel_input = given.kernel_input
        return Sets(
            num_rows=given.x.rows.shape[1],
            rows=self.pointer(given.x.rows),
            shared=self.pointer(given.x.shared),
            kernel_rows=self.pointer(kernel_input.rows if kernel_input else None),
            kernel_shared=self.pointer(kernel_input.shared if kernel_input else None),
            label=self.pointer(rows.label),
            row_weight=self.pointer(rows.row_weight),
            logit=self.pointer(rows.logit),
            first_output=self.pointer(first_output),
        )

    def layers(
        self,
        model: Recommender,
        shared: SharedWeights,
        deltas: dict[str, OwnDelta],
        *,
        num_steps: int,
        num_shared: int | None,
    ) -> Layers:
        """``deltas`` are those of all row layers, after so many inner steps; or of none."""
        hidden = [f"hidden_{k + 1}" for k in range(len(model.hidden))]
        moved = [self._moved(deltas[name]) if deltas else Moved() for name in hidden]
        output = deltas.get("output") or DenseDelta(
            shared.weight("output", None), shared.bias("output")
        )
        kernel = deltas.get("kernel")
        if model.has_kernel and kernel is None:
            kernel = DenseDelta(shared.weight("kernel", num_shared), None)
        assert isinstance(output, DenseDelta)
        assert kernel is None or isinstance(kernel, DenseDelta)
        return Layers(
            weight=self.pointers([shared.layers[f"{name}.weight"] for name in hidden]),
            bias=self.pointers([shared.bias(name) for name in hidden]),
            moved=(Moved * MOST_HIDDEN)(*moved),
            num_steps=num_steps,
            is_own=bool(deltas),
            output=self.pointer(output.weight.rows),
            output_bias=self.pointer(output.bias),
            kernel=self.pointer(kernel.weight.rows if kernel else None),
            kernel_shared=self.pointer(kernel.weight.shared if kernel else None),
        )

    def _moved(self, delta: OwnDelta) -> Moved:
        if isinstance(delta, DenseDelta):
            return Moved(
                weight=self.pointer(delta.weight.rows),
                shared=self.pointer(delta.weight.shared),
                bias=self.pointer(delta.bias),
            )
        return Moved(
            num_rows=delta.scaled_delta.shape[1],
            rows=self.pointer(delta.inputs.rows),
            scaled_delta=self.pointer(delta.scaled_delta),
        )


def num_delta_rows(deltas: Iterable[OwnDelta]) -> int:
    """The most rows of a low-rank delta."""
    rows = [d.scaled_delta.shape[1] for d in deltas if isinstance(d, LowRankDelta)]
    return max(rows, default=0)


def lanes(like: Tensor) -> int:
    """Numbers in the widest vector."""
    return VECTOR_BYTES // like.element_size()


def filled_up(count: int, like: Tensor) -> int:
    """A number of numbers, up to whole vectors."""
    return -(-count // lanes(like)) * lanes(like)


def _scratch_size(model: Recommender, n: int, m: int, num_lanes: int) -> int:
    """Numbers that a thread needs, for sets of n rows and deltas of m, each filled up to whole
    vectors."""
    first, widest, depth = model.hidden[0], max(model.hidden), len(model.hidden)
    columns = model.num_item_fields * model.embedding_dim
    widest_in = max(columns, widest)
    n, m = n + num_lanes, m + num_lanes
    of_layers = 3 * n * (sum(model.hidden) + depth * num_lanes) + 2 * n
    copies = max(
        first * (columns + 1),  # a first layer of one's own, turned
        first + (columns + 2 * first) * n,  # or its rows, and what it makes of them
        widest * widest,  # another layer, turned
        3 * widest * n,  # or its rows, and what it makes of them
        columns * n,  # rows, turned
        widest_in * n + m * n,  # the same, and what a delta's rows make of them
        widest * m + n * m,  # a delta, turned, and its coefficients
    )
    return of_layers + sum(model.hidden) + (depth + 5) * num_lanes + copies
