"""Lists in one field of text are read whole, or refused."""

import polars as pl
import pytest

from greatmeta_dist.data.sources.lists import is_broken_list, value_list


def read(text: str) -> tuple[list[str], bool]:
    frame = pl.DataFrame({"genre": [text]})
    return frame.select(value_list("genre", "|"), broken=is_broken_list("genre")).row(0)


@pytest.mark.parametrize(
    "text, values",
    [
        ("['a', 'b']", ["a", "b"]),
        ('["a", "b"]', ["a", "b"]),
        ("['a' 'b']", ["a", "b"]),
        ("('a', 'b')", ["a", "b"]),
        ("('a',)", ["a"]),
        ("{'a', 'b'}", ["a", "b"]),
        ("[u'a', u'b']", ["a", "b"]),
        ("[1 2 3]", ["1", "2", "3"]),
        ("[1, 2]", ["1", "2"]),
        ("[0.5 -1e-3]", ["0.5", "-1e-3"]),
        ("['a', None]", ["a"]),
        (r"['it\'s', 'b']", ["it's", "b"]),
        (r'["caf\u00e9", "x\ty"]', ["café", "x\ty"]),
        ("['a, b', 'c']", ["a, b", "c"]),
        ('["x [1]", "y"]', ["x [1]", "y"]),
        ("['a', 'b',]", ["a", "b"]),
        ("[film noir, drama]", ["film noir", "drama"]),
        ("[a|b]", ["a", "b"]),
        ("a|[b]|c", ["a", "[b]", "c"]),
        ("[REC]|noir", ["[REC]", "noir"]),
        ("(no genres listed)", ["(no genres listed)"]),
        ("{x}", ["{x}"]),
        ("[ ]", []),
        ("a | b|a", ["a", "b"]),
    ],
)
def test_lists_are_read(text, values):
    assert read(text) == (values, False)


@pytest.mark.parametrize(
    "text",
    [
        "['a','b'",
        "[['a'], ['b']]",
        "[{'id': 1, 'name': 'x'}]",
        "['a'|'b']",
        "['a', 'b'] x",
        "['it''s']",
        "array(['a', 'b'], dtype=object)",
        "frozenset({'a'})",
        "('a', 5)",
        "{'a': 1}",
    ],
)
def test_what_is_not_read_whole_is_refused(text):
    assert read(text)[1]
