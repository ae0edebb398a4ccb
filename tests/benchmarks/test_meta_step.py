"""What the benchmark of the step measures against takes the same step."""

import pytest
import torch

from benchmarks.meta_step.cases import Case, require_same_losses
from benchmarks.meta_step.shapes import SHAPES


@pytest.mark.parametrize("form", ["paper", "shipped"])
def test_all_ways_to_take_a_step_see_the_same_losses(form):
    case = Case(SHAPES[1], form, 8, torch.device("cpu"), "float32")
    require_same_losses([case.naive(), case.loop(), case.vmap(), case.ours()])
