"""A safetensors file written piece by piece, in the order given: the same bytes every time.

The library writes what is in memory as a whole. A table of embedding rows may fill most of it, so
here a tensor is a row of parts, of which one at a time is there.
"""

import json
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

DTYPES = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64"}
"""Names of types in the file."""
ALIGNMENT = 8
"""Bytes: tensors begin at a multiple of it, so that a mapped file can be read in place."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor to write."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    parts: Iterable[Tensor]
    """Its rows, one part after the other."""

    @classmethod
    def of(cls, name: str, tensor: Tensor) -> "StoredTensor":
        """A tensor that is in memory."""
        return cls(name, tensor.dtype, tuple(tensor.shape), (tensor,))

    @property
    def num_bytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def write_tensors(path: Path, tensors: Sequence[StoredTensor]) -> None:
    """Write a safetensors file: the length of a JSON header, the header, and the data.

    Wider types come first, so that every tensor is aligned without gaps, which the format does not
    allow.
    """
    ordered = sorted(tensors, key=lambda tensor: -tensor.dtype.itemsize)
    header, start = {}, 0
    for tensor in ordered:
        end = start + tensor.num_bytes
        header[tensor.name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in ordered:
            num_bytes = 0
            for part in tensor.parts:
                num_bytes += file.write(part.detach().cpu().contiguous().numpy().data)
            assert num_bytes == tensor.num_bytes, tensor.name
