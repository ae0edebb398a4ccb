"""Whatever is computed of moved values, the causes' parts add up to the difference."""

import torch

from greatmeta_dist.recommend.moved import Moved, joined

RNG = torch.Generator().manual_seed(0)


def moved(num_causes: int = 4, width: int = 6) -> Moved:
    before = torch.randn(width, dtype=torch.float64, generator=RNG)
    by_cause = torch.randn(num_causes, width, dtype=torch.float64, generator=RNG)
    return Moved(before, before + by_cause.sum(0), by_cause)


def assert_whole(value: Moved) -> None:
    torch.testing.assert_close(
        value.by_cause.sum(0), value.after - value.before, atol=1e-12, rtol=1e-12
    )


def test_parts_add_up_after_every_operation():
    a, b = moved(), moved()
    single = moved(width=1)
    cases = [
        a + b,
        a + 2.5,
        a.scaled(-3.0),
        a.times(b),
        a.times(single),
        a.through(torch.tanh, lambda z: 1 - torch.tanh(z) ** 2),
        a.through(torch.relu, lambda z: (z > 0).double()),
        a.clamped(-0.5, 0.5),
        joined([a, b, single]),
        *joined([a, b]).split([5, 7]),
        Moved.from_zero(a.by_cause),
        Moved.fixed(a.before, 4),
    ]
    for case in cases:
        assert_whole(case)
    assert torch.equal(cases[3].after, a.after * b.after)
    assert torch.equal(cases[3].before, a.before * b.before)


def test_two_factors_share_what_they_do_together():
    one, other = torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0], [1.0]])
    product = Moved.from_zero(3 * one.double()).times(Moved.from_zero(5 * other.double()))
    assert product.by_cause[:, 0].tolist() == [7.5, 7.5]


def test_where_a_bound_holds_nothing_moves():
    value = Moved(
        torch.tensor([7.0]).double(), torch.tensor([9.0]).double(), torch.ones(2, 1).double()
    )
    assert value.clamped(1.0, 5.0).by_cause.tolist() == [[0.0], [0.0]]


def test_causes_that_cancel_are_scaled_by_the_derivative():
    value = Moved(
        torch.zeros(1).double(), torch.zeros(1).double(), torch.tensor([[2.0], [-2.0]]).double()
    )
    slope = value.through(torch.sin, torch.cos).by_cause
    assert slope.tolist() == [[2.0], [-2.0]]
