#!/usr/bin/env bash
# torch's CPU generator reads the low 32 bits of a seed alone.
#
# One would guess: a 64-bit seed, which manual_seed takes and initial_seed gives back whole, gives
# other numbers when any of its bits differs. NumPy's generators do.
# What happens: seeds that differ above bit 31 draw the same numbers on a CPU.
# Why it matters: "seed + (number << 32)" is a common way to give shards or workers generators of
# their own. All of them draw the same: here, embedding rows of a large table repeated.
# Remedy: mix the numbers into 32 bits, for instance with numpy.random.SeedSequence.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.13.0 numpy==2.4.6 2>/dev/null
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import torch

print(f"torch {torch.__version__}, numpy {np.__version__}")
seeds = [7, 7 + (1 << 32), 7 + (2 << 32)]
of_torch, of_numpy = set(), set()
for seed in seeds:
    generator = torch.Generator().manual_seed(seed)
    assert generator.initial_seed() == seed
    draws = torch.rand(3, generator=generator)
    of_torch.add(tuple(draws.tolist()))
    of_numpy.add(tuple(np.random.default_rng(seed).random(3).tolist()))
    print(f"  seed {seed}: {[round(x, 4) for x in draws.tolist()]}")
print(f"  different draws of {len(seeds)} seeds: torch {len(of_torch)}, NumPy {len(of_numpy)}")
if (len(of_torch), len(of_numpy)) != (1, len(seeds)):
    raise SystemExit("the behaviour has changed")
PYTHON
