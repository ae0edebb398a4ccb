#!/usr/bin/env bash
# safetensors 0.8.0 saves other numbers than a NumPy view holds.
#
# One would guess: saving a transposed array or a slice and loading it gives the same numbers, as in
# safetensors 0.7.0, or an error, as safetensors.torch gives for tensors that are not contiguous.
# What happens: 0.8.0 takes as many bytes as the array has from its first element on. Of a view these
# are other elements. There is no error, and shapes and types are right.
# Why it matters: columns of a larger matrix and transposed matrices are what numerical code has at
# hand. A model saved so loads without complaint and predicts something else.
# Remedy: numpy.ascontiguousarray before saving.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
for version in 0.7.0 0.8.0; do
    "$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
        "safetensors==$version" numpy==2.4.6 2>/dev/null
    "$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import safetensors
from safetensors.numpy import load, save

matrix = np.arange(6.0).reshape(2, 3)
views = {"as it is": matrix, "transposed": matrix.T, "last two columns": matrix[:, 1:]}
print(f"safetensors {safetensors.__version__}, numpy {np.__version__}")
for name, view in views.items():
    loaded = load(save({"x": view}))["x"]
    is_same = bool((loaded == view).all())
    print(f"  {name}: saved {view.tolist()}, loaded {loaded.tolist()}")
    expected = name == "as it is" or safetensors.__version__ == "0.7.0"
    if is_same != expected:
        raise SystemExit("the behaviour has changed")
PYTHON
done
