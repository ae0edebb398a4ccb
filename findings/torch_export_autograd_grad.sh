#!/usr/bin/env bash
# torch 2.13.0 cannot export a gradient through an operation that keeps its own output.
#
# One would guess: torch.export with strict=False traces torch.autograd.grad through any operation,
# since each has a gradient.
# What happens: for its gradient tanh, sigmoid and relu keep their output, and F.linear an inner value.
# What is unpacked is a tensor that the tracer has never seen, and the export fails: "We found a fake
# tensor in the exported program constant's list".
# Why it matters: adaptation by gradient steps inside a program needs activations.
# Remedy: operations that keep their inputs: plain products, gelu, and for the others an
# autograd.Function that keeps its input.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 2>/dev/null
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch import nn
from torch.nn.functional import gelu, linear


class Tanh(torch.autograd.Function):
    @staticmethod
    def forward(context, z):
        context.save_for_backward(z)
        return torch.tanh(z)

    @staticmethod
    def backward(context, gradient):
        (z,) = context.saved_tensors
        return gradient * (1 - torch.tanh(z).square())


LOSSES = {
    "tanh": lambda x, w: torch.tanh(x @ w.T).sum(),
    "sigmoid": lambda x, w: torch.sigmoid(x @ w.T).sum(),
    "relu": lambda x, w: torch.relu(x @ w.T).sum(),
    "F.linear twice": lambda x, w: linear(linear(x, w), w[:, :1]).sum(),
    "products twice": lambda x, w: ((x @ w.T) @ w[:, :1].T).sum(),
    "gelu": lambda x, w: gelu(x @ w.T).sum(),
    "tanh of its own": lambda x, w: Tanh.apply(x @ w.T).sum(),
}


class Step(nn.Module):
    def __init__(self, loss):
        super().__init__()
        self.weight, self.loss = nn.Parameter(torch.ones(1, 6)), loss

    def forward(self, x):
        (gradient,) = torch.autograd.grad(self.loss(x, self.weight), [self.weight])
        return x @ (self.weight - gradient).T


FAILS = ("tanh", "sigmoid", "relu", "F.linear twice")
print(f"torch {torch.__version__}")
for name, loss in LOSSES.items():
    try:
        torch.export.export(Step(loss), (torch.randn(5, 6),), strict=False)
    except RuntimeError as error:
        assert name in FAILS, name
        print(f"  {name}: {str(error)[:64]}")
    else:
        if name in FAILS:
            raise SystemExit(f"the behaviour has changed: {name} is exported")
        print(f"  {name}: exported")
PYTHON
