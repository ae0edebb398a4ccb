"""Users adapt by compiled code as by torch, alone or among others; ``test_step.py`` compares both
with a naive loop."""

import ctypes
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from random_tasks import make_tasks

from greatmeta_dist.batching.collate import build_batch
from greatmeta_dist.meta.adapt import predict_query, task_results
from greatmeta_dist.meta.batch import TaskBatch
from greatmeta_dist.meta.fast_weights import (
    BucketDeltas,
    DenseDelta,
    InnerLoop,
    LowRankDelta,
    SharedWeights,
)
from greatmeta_dist.meta.model import Recommender
from greatmeta_dist.meta.native import library
from greatmeta_dist.meta.native.row_layers import RowLayers
from greatmeta_dist.meta.set_input import batch_inputs

INNER = InnerLoop(3, 0.02)
CONTEXT = {"context": "support"}
SHIPPED = {**CONTEXT, "has_kernel": True, "is_film_residual": True}
FORMS = {
    "shipped": dict(hidden=(64, 64), embedding_dim=16, activation="tanh", **SHIPPED),
    "odd widths": dict(hidden=(7, 13, 5), embedding_dim=3, activation="tanh", **SHIPPED),
    "wide": dict(hidden=(70, 33), embedding_dim=7, activation="relu", **SHIPPED),
    "one layer": {"hidden": (6,), "embedding_dim": 4, "activation": "relu", "context": "own"},
    "no encoder": {"hidden": (6, 9), "embedding_dim": 4, "has_encoder": False},
    "no kernel": dict(hidden=(10, 4), embedding_dim=8, activation="tanh", **CONTEXT),
    "low-rank layers": dict(hidden=(150, 160), embedding_dim=4, activation="tanh", **SHIPPED),
    "own first layer": dict(hidden=(5, 6), embedding_dim=1, activation="tanh", **SHIPPED),
}


def made(form: str, *, longest=20, loss="mse", users=None, dtype=torch.float64, nonfinite=None):
    """A model, its layers and embedding rows, and a batch."""
    model = Recommender(2, 3, **FORMS[form])
    tasks = make_tasks(
        np.random.default_rng(3),
        num_users=9,
        longest=longest,
        is_click=loss == "bce",
        has_logits=loss == "bce",
    )
    if nonfinite is not None:
        labels = tasks.table.support_label
        labels.values[labels.offsets[nonfinite]] = np.inf
    batch = build_batch(
        tasks.table,
        tasks.items,
        np.arange(9) if users is None else np.array(users),
        has_support_gradient=model.has_support_gradient,
        has_row_norms=False,
        dtype=np.float64 if dtype == torch.float64 else np.float32,
    )
    generator = torch.Generator().manual_seed(0)
    layers = {k: v.to(dtype) for k, v in model.init_layers(generator).items()}
    table = 0.1 * torch.randn(
        tasks.num_rows, model.embedding_dim, generator=generator, dtype=torch.float64
    )
    return model, layers, table.to(dtype)[batch.rows], batch


def read(model, layers, rows, batch: TaskBatch, inner: InnerLoop) -> list[torch.Tensor]:
    """All that depends on how users adapted."""
    results = task_results(model, batch, rows, layers, inner, has_unadapted=True)
    gradients = results.gradients
    read = [results.losses, gradients.rows.user, gradients.rows.query]
    for of_layer in gradients.layers.values():
        read += [of_layer.delta, of_layer.delta_sum, of_layer.inputs.rows]
    return [*read, *predict_query(model, batch, rows, layers, inner)]


def test_it_was_compiled():
    assert library.is_available()


def test_code_of_other_structures_is_not_used(monkeypatch):
    class Query(ctypes.Structure):
        _fields_ = (*library.Query._fields_, ("more", ctypes.c_int64))

    monkeypatch.setattr(library, "Query", Query)
    assert library._library.__wrapped__() is None


@pytest.mark.parametrize("vector_bytes", [16, 32, 64])
@pytest.mark.parametrize("loss", ["mse", "bce"])
@pytest.mark.parametrize("form", FORMS)
def test_users_adapt_as_by_torch(form, loss, vector_bytes, monkeypatch):
    monkeypatch.setattr(library, "VECTOR_BYTES", vector_bytes)
    for dtype, steps in itertools.product((torch.float64, torch.float32), (1, 3)):
        made_of = made(form, loss=loss, dtype=dtype)
        inner = replace(INNER, loss=loss, num_steps=steps)
        expected = read(*made_of, inner)
        found = read(*made_of, replace(inner, is_native=True))
        tolerance = 1e-12 if dtype == torch.float64 else 2e-6
        for ours, theirs in zip(found, expected, strict=True):
            assert theirs.isfinite().all()
            largest = max(1.0, float(theirs.abs().max()))
            assert float((ours - theirs).abs().max()) <= tolerance * largest


def test_adaptation_matters_in_these_tests():
    made_of = made("shipped")
    unadapted = read(*made_of, replace(INNER, num_steps=0))
    assert float((unadapted[0] - read(*made_of, INNER)[0]).abs().max()) > 1e-2


def test_both_forms_of_deltas_are_tried():
    kinds = set()
    for form in FORMS:
        model, layers, rows, batch = made(form)
        inputs = batch_inputs(model, batch, rows)
        shared = SharedWeights(layers)
        adapted = RowLayers(model, batch, inputs.supports, shared, INNER)
        for name, deltas in adapted.deltas().items():
            parts = deltas.deltas if isinstance(deltas, BucketDeltas) else [deltas]
            kinds |= {(name, type(part)) for part in parts}
    for name in ("hidden_1", "hidden_2"):
        assert {(name, LowRankDelta), (name, DenseDelta)} <= kinds


@pytest.mark.parametrize("form", ["shipped", "odd widths", "own first layer"])
def test_a_user_alone_adapts_as_among_others_and_theta_stays(form):
    native = replace(INNER, is_native=True)
    model, layers, table, batch = made(form, dtype=torch.float32)
    before = {k: v.clone() for k, v in layers.items()}
    _, together = predict_query(model, batch, table, layers, native)
    for user in range(9):
        model, layers, rows, alone = made(form, dtype=torch.float32, users=[user])
        _, found = predict_query(model, alone, rows, layers, native)
        n = int((alone.query.row_weight > 0).sum())
        torch.testing.assert_close(found[0, :n], together[user, :n], rtol=0, atol=1e-6)
    assert all(torch.equal(before[k], layers[k]) for k in layers)


def test_threads_change_no_bit():
    native = replace(INNER, is_native=True)
    model, layers, rows, batch = made("shipped", dtype=torch.float32)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(predict_query(model, batch, rows, layers, native)[1])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("activation", ["tanh", "relu", "none"])
def test_what_is_not_finite_stays_with_its_user(activation, monkeypatch):
    monkeypatch.setitem(FORMS, "given", {**FORMS["shipped"], "activation": activation})
    native = replace(INNER, is_native=True)
    model, layers, rows, batch = made("given", nonfinite=4)
    _, found = predict_query(model, batch, rows, layers, native)
    assert not found[4].isfinite().any()
    model, layers, rows, batch = made("given")
    _, expected = predict_query(model, batch, rows, layers, native)
    others = [k for k in range(9) if k != 4]
    assert torch.equal(found[others], expected[others])


def test_large_inputs_of_tanh_do_not_overflow():
    model, layers, rows, batch = made("no kernel", dtype=torch.float32)
    layers["hidden_1.weight"] = layers["hidden_1.weight"] * 1e4
    inner = replace(INNER, learning_rate=1e-3)
    expected = predict_query(model, batch, rows, layers, inner)[1]
    found = predict_query(model, batch, rows, layers, replace(inner, is_native=True))[1]
    assert expected.isfinite().all()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_models_that_it_does_not_compute_adapt_by_torch():
    like = torch.zeros(1)
    model = Recommender(2, 3, **FORMS["shipped"])
    assert library.suits(model, like)
    assert not library.suits(replace(model, activation="gelu"), like)
    assert not library.suits(replace(model, hidden=(2,) * 9), like)
    assert not library.suits(model, like.half())
    assert not library.suits(model, like.to("meta"))
    with torch.autocast("cpu", torch.bfloat16):
        assert not library.suits(model, like)
