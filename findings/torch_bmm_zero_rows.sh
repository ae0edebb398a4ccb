#!/usr/bin/env bash
# torch 2.13 (CPU): zeros put behind the rows of a batched product change the bits of the other rows.
#
# One would guess: a row of a product is computed from that row alone, so padding a batch's matrices
# with rows of zeros leaves the other rows as they are. For sizes of some dozens they are, to the bit.
# What happens: where one matrix product of the batch takes fewer than 400 multiplications, torch
# runs a loop of its own, and from 400 on the matrix library. The two round otherwise. Padding that
# takes a product across 400 so changes bits of rows that were not touched; 400 is written nowhere in
# the documentation. With baddbmm it is so for every shape tried, with bmm for transposed weights.
# Why it matters: padding to a common length is how sets of different sizes share a batch. Results of
# a user then depend on who else is there, which breaks bitwise reproducibility of small models only.
# Remedy: pad to so many rows that rows times columns times inner size is 400 or more throughout.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2>/dev/null
"$folder/venv/bin/python" - <<'PYTHON'
import torch

torch.set_num_threads(1)
torch.manual_seed(0)
BATCH, ROWS = 64, 8
print(f"torch {torch.__version__}, rows of zeros behind {ROWS} rows, {BATCH} matrices each")
for inner, columns in ((8, 1), (16, 1), (4, 4), (16, 2), (64, 8)):
    rows = torch.randn(BATCH, ROWS, inner)
    weight, bias = torch.randn(BATCH, columns, inner), torch.randn(BATCH, 1, columns)

    def product(num_rows: int) -> torch.Tensor:
        padded = torch.cat((rows, torch.zeros(BATCH, num_rows - ROWS, inner)), 1)
        return torch.baddbmm(bias, padded, weight.mT)[:, :ROWS]

    numbers = range(ROWS, 193, 8)
    changed = [n for n in numbers if not torch.equal(product(n), product(192))]
    sizes = [n * inner * columns for n in numbers]
    expected = [n for n, size in zip(numbers, sizes) if size < 400]
    most = max((product(n) - product(192)).abs().max().item() for n in numbers)
    print(f"  {inner} x {columns}: other bits than padded to 192 where padded to {changed}; {most:.0e}")
    assert changed == expected, (changed, expected)
PYTHON
