"""Every tag has a description, and the documents list them all."""

import re
from fnmatch import fnmatchcase
from pathlib import Path

from greatmeta_dist.training.tags import FIRST_PAGE, TAGS, describe, first_page

PAGE = Path(__file__).parents[2] / "docs" / "tensorboard.md"


def test_the_first_description_that_fits_counts():
    assert describe("val/user_cold/rmse") == TAGS["val/*/rmse"]
    assert describe("val/valid/rmse_by_group/a") == TAGS["val/*/rmse_by_group/*"]
    assert describe("val/valid/within_half") == TAGS["val/*/*"]
    assert describe("meta/weight_by_group/a") == TAGS["meta/weight_by_group/*"]
    assert describe("meta/gap_by_activity/8+") == TAGS["meta/*_by_activity/*"]
    assert describe("somebody/else") == ""


def test_no_description_is_hidden_behind_another():
    for pattern in TAGS:
        assert describe(pattern.replace("*", "x")) == TAGS[pattern], pattern


def test_the_documents_list_every_tag():
    table = set(re.findall(r"`([\w/*@]+)`", PAGE.read_text()))
    for pattern in TAGS:
        assert any(fnmatchcase(pattern, listed) for listed in table), pattern


def test_charts_that_a_training_cannot_fill_are_left_out():
    def titles(**has: bool) -> set[str]:
        page = first_page(**has)
        assert list(page) == list(FIRST_PAGE)
        return {title for charts in page.values() for title in charts}

    everything = titles(has_scheduler=True, has_gpu=True, is_group=True, is_click=True)
    assert everything == {title for charts in FIRST_PAGE.values() for title in charts}
    assert everything - titles(has_scheduler=True, has_gpu=False, is_group=True, is_click=True) == {
        "GPU memory, MiB"
    }
    left_out = everything - titles(has_scheduler=True, has_gpu=True, is_group=False, is_click=True)
    assert left_out == {"seconds a step in messages, by kind", "bytes a step in messages, by kind"}
    left_out = everything - titles(has_scheduler=True, has_gpu=True, is_group=True, is_click=False)
    assert left_out == {
        "log loss on validation users, and the best so far",
        "AUC on validation users",
    }
    left_out = everything - titles(has_scheduler=False, has_gpu=True, is_group=True, is_click=True)
    assert {"effective sample size, share of the batch"} < left_out


def test_patterns_end_where_their_tags_end():
    page = first_page(has_scheduler=True, has_gpu=True, is_group=True, is_click=True)
    for charts in page.values():
        for patterns in charts.values():
            assert all(pattern.endswith("$") for pattern in patterns)
    pattern, _ = page["Is it learning?"]["RMSE on validation users, and the best so far"]
    assert re.match(pattern, "val/valid/rmse")
    assert not re.match(pattern, "val/valid/rmse_by_group/a")
