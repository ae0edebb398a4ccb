#!/usr/bin/env bash
# pyarrow 26.0.1 casts a list view to a list that is not valid: its last list is lost.
#
# One would guess: list_view is another layout of the same lists, and a cast to list or large_list
# gives them, or raises, as other casts do.
# What happens: the cast returns an array without an error. Its last offset was never written, so the
# last list reads as empty, or as whatever lies there. Only validate(full=True) tells.
# Why it matters: Parquet files written from Arrow keep the type, and libraries that do not know it
# (Polars 2.1 is one) are given a cast of it. The last row's values may then be lost silently.
# Remedy: build the list from list_value_length and flatten.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    pyarrow==26.0.1 numpy==2.4.6 2>/dev/null
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

lists = [["a", "b"], ["c"]]
views = pa.array(lists, pa.list_view(pa.string()))
print(f"pyarrow {pa.__version__}: {views.type} of {views.to_pylist()}")
views.validate(full=True)
cast = views.cast(pa.large_list(pa.string()))
try:
    cast.validate(full=True)
except pa.ArrowInvalid as error:
    print(f"  cast to {cast.type} without an error; validate: {error}")
else:
    raise SystemExit("the behaviour has changed: the cast is valid")
lengths = pc.list_value_length(views).to_numpy()
offsets = pa.array(np.concatenate(([0], np.cumsum(lengths))), pa.int64())
built = pa.LargeListArray.from_arrays(offsets, views.flatten())
built.validate(full=True)
print(f"  built from lengths and flatten: {built.to_pylist()}")
assert built.to_pylist() == lists
PYTHON
