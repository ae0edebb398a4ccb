"""Hashes are the documented arithmetic, on any machine, in any version, however a log is cut."""

from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest

from greatmeta_dist.data.hashing import (
    draw_bits,
    hash_tokens,
    key_of,
    mix,
    pair_hashes,
    to_unit,
    uniform_hash,
)

TOKENS = ["u1", "u2", "ü", "", "12345678", "123456789", "a\0", "a\0\0", "日本語のユーザー" * 9]
MODULUS = 2**64


def plain_mix(z: int) -> int:
    """The finaliser of splitmix64, in integers of any size."""
    z = (z + 0x9E3779B97F4A7C15) % MODULUS
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % MODULUS
    z = (z ^ z >> 27) * 0x94D049BB133111EB % MODULUS
    return z ^ z >> 31


def plain_hash(token: str) -> int:
    """What the module's docstring says, byte by byte."""
    data = token.encode()
    h = plain_mix(len(data))
    for first in range(0, len(data), 8):
        h = plain_mix(h ^ int.from_bytes(data[first : first + 8], "little"))
    return h


def plain_draw(hashed: int, seed: int, purpose: str) -> int:
    return plain_mix(hashed ^ plain_hash(f"{seed}/{purpose}"))


def test_mix_gives_the_published_numbers_of_splitmix64():
    # The first outputs of Vigna's splitmix64.c with the seed 1234567: its states are steps apart.
    states = [(1234567 + k * 0x9E3779B97F4A7C15) % MODULUS for k in range(3)]
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert mix(np.array(states, np.uint64)).tolist() == expected
    assert [*map(plain_mix, states)] == expected


def test_hashes_are_the_documented_arithmetic():
    assert hash_tokens(pl.Series(TOKENS)).tolist() == [*map(plain_hash, TOKENS)]
    assert hash_tokens(TOKENS).tolist() == [*map(plain_hash, TOKENS)]
    assert len(set(map(plain_hash, TOKENS))) == len(TOKENS)


def test_draws_are_the_same_in_every_version():
    expected = [(plain_draw(plain_hash(token), 0, "split") >> 11) / 2**53 for token in TOKENS]
    assert uniform_hash(pl.Series(TOKENS), 0, "split").tolist() == expected
    bits = draw_bits(hash_tokens(TOKENS), 7, "ü")
    assert bits.tolist() == [plain_draw(plain_hash(token), 7, "ü") for token in TOKENS]
    assert int(key_of(7, "ü")) == plain_hash("7/ü")


def test_hashes_of_pairs_tell_left_from_right():
    left, right = hash_tokens(TOKENS), hash_tokens(TOKENS[::-1])
    plain = [
        plain_mix(plain_mix(plain_hash(a)) ^ plain_hash(b))
        for a, b in zip(TOKENS, TOKENS[::-1], strict=True)
    ]
    assert pair_hashes(left, right).tolist() == plain
    assert pair_hashes(left[:1], right[:1]) != pair_hashes(right[:1], left[:1])


@pytest.mark.parametrize("order", [slice(3, 7), slice(None, None, -1), [2, 2, 0]])
def test_a_hash_does_not_depend_on_how_a_column_is_cut(order: Sequence[int] | slice):
    assert hash_tokens(pl.Series(TOKENS)[order]).tolist() == (hash_tokens(TOKENS)[order].tolist())
    in_chunks = pl.concat([pl.Series(TOKENS[:4]), pl.Series(TOKENS[4:])], rechunk=False)
    assert hash_tokens(in_chunks).tolist() == hash_tokens(TOKENS).tolist()
    assert not len(hash_tokens(pl.Series([], dtype=pl.String)))


def test_units_are_from_zero_to_below_one():
    bits = np.array([0, MODULUS - 1], np.uint64)
    assert to_unit(bits).tolist() == [0.0, 1 - 2.0**-53]


def test_hashes_for_two_purposes_are_even_and_independent():
    tokens = pl.Series([f"u{k}" for k in range(20_000)])
    first, second, reseeded = (
        uniform_hash(tokens, seed, purpose)
        for seed, purpose in ((0, "split"), (0, "warm"), (1, "split"))
    )
    for draws in (first, second, reseeded):
        assert np.histogram(draws, 10, (0, 1))[0] == pytest.approx(2000, rel=0.1)
    for other in (second, reseeded):
        assert abs(np.corrcoef(first, other)[0, 1]) < 0.03
        assert (first < 0.2)[other < 0.2].mean() == pytest.approx(0.2, abs=0.03)
