"""Adam moves tensors as torch's does."""

import torch

from greatmeta_dist.engine.adam import Adam


def test_steps_are_those_of_torch_bit_for_bit():
    generator = torch.Generator().manual_seed(0)
    ours = [torch.randn(shape, generator=generator) for shape in ((7, 5), (13,), (), (3,))]
    theirs = [tensor.clone().requires_grad_() for tensor in ours]
    adam, reference = Adam(ours, rate=0.01), torch.optim.Adam(theirs, lr=0.01, fused=True)
    for step in range(20):
        for a, b in zip(ours[: 3 - step % 2], theirs, strict=False):  # the last has no gradient
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        adam.step()
        reference.step()
        adam.zero_grad()
        reference.zero_grad()
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    for a, b in zip(ours, theirs, strict=True):
        expected = reference.state[b]
        assert adam.state[a].keys() == expected.keys()
        assert all(torch.equal(adam.state[a][k], expected[k]) for k in expected)
    assert adam.state[ours[3]] == {}
