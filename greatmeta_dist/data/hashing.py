"""Stable random numbers from tokens: the same on every machine, in every version, in any order.

Splits, held-out items and the order of rows are drawn so. A draw is a function of the seed, of what
it is for, and of tokens' bytes alone. It does not depend on how a log is stored, cut or sorted.

The hash is defined here, because libraries' own may change with their versions:

    mix(z)      the finaliser of splitmix64 (Steele, Lea and Flood, 2014)
    hash(t)     h ← mix(number of bytes); for every 8 bytes w of the UTF-8 text, little endian, the
                last ones padded with zeros: h ← mix(h ⊕ w)
    draw        mix(hash ⊕ key), of which the upper 53 bits make a number in [0, 1)
    key         hash("<seed>/<purpose>")

All of it is arithmetic modulo 2⁶⁴ on whole arrays.
"""

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""2⁶⁴ over the golden ratio: the step between splitmix64's states."""


def mix(z: Hashes) -> Hashes:
    """Spread every bit over all 64: a bijection, in which no two inputs' outputs look alike."""
    with np.errstate(over="ignore"):
        z = z + GOLDEN
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def hash_tokens(tokens: pl.Series | list[str]) -> Hashes:
    """The hash of every token [n], a text."""
    array = tokens.to_arrow() if isinstance(tokens, pl.Series) else pa.array(tokens, pa.string())
    array = array.cast(pa.large_string())
    offsets = np.frombuffer(array.buffers()[1], np.int64)[array.offset :][: len(array) + 1]
    data = array.buffers()[2]
    size = int(offsets[-1]) if len(array) else 0
    # Eight zeros behind the last byte, so that a word may be read at every byte.
    padded = np.zeros(size + 8, np.uint8)
    if data is not None and size:
        padded[:size] = np.frombuffer(data, np.uint8)[:size]
    words = np.ndarray((size + 1,), "<u8", padded, strides=(1,))
    start, length = offsets[:-1], np.diff(offsets)
    hashes = mix(length.astype(np.uint64))
    left = np.arange(len(length))
    for first in range(0, int(length.max(initial=0)), 8):
        left = left[length[left] > first]  # few tokens are long
        num_bytes = np.minimum(length[left] - first, 8).astype(np.uint64)
        is_own_byte = np.uint64(2**64 - 1) >> (np.uint64(64) - np.uint64(8) * num_bytes)
        hashes[left] = mix(hashes[left] ^ (words[start[left] + first] & is_own_byte))
    return hashes


def key_of(seed: int, purpose: str) -> np.uint64:
    """What tells draws for one purpose from those for another."""
    key: np.uint64 = hash_tokens([f"{seed}/{purpose}"])[0]
    return key


def draw_bits(hashes: Hashes, seed: int, purpose: str) -> Hashes:
    """64 random bits for each hash."""
    return mix(hashes ^ key_of(seed, purpose))


def pair_hashes(left: Hashes, right: Hashes) -> Hashes:
    """The hash of each pair [n]; (a, b) and (b, a) differ."""
    return mix(mix(left) ^ right)


def to_unit(bits: Hashes) -> NDArray[np.float64]:
    """Random bits as numbers in [0, 1): the upper 53, as many as a float64 holds exactly."""
    return (bits >> np.uint64(11)).astype(np.float64) / 2.0**53


def uniform_hash(tokens: pl.Series | list[str], seed: int, purpose: str) -> NDArray[np.float64]:
    """A number in [0, 1) for each token [n]; independent of those for other purposes."""
    return to_unit(draw_bits(hash_tokens(tokens), seed, purpose))
