"""Activity of the benchmark of very active users is what it says."""

import numpy as np
import pytest

from benchmarks.long_tail import activity


@pytest.mark.parametrize("longest", [100, 1_000, 10_000, 100_000])
def test_rows_are_as_many_whatever_the_tail(longest):
    rows, sigma = activity(2048, 100, longest)
    assert abs(int(rows.sum()) - 204_800) <= 4
    assert rows[-1] == pytest.approx(longest, rel=0.01)
    assert (np.diff(rows) >= 0).all()
    assert rows[0] >= 2
    assert (sigma > 0.5) == (longest > 100)
