"""Symmetric matrices as their upper triangles."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Packing:
    """Keeps symmetric matrices [D, D] as their upper triangles [P]: half the memory and work."""

    def __init__(self, width: int):
        self.width = width
        self.row, self.column = np.triu_indices(width)
        self.is_diagonal = self.row == self.column

    def pack(self, matrices: Floats) -> Floats:
        """[n, D, D] → [n, P]"""
        return matrices[:, self.row, self.column]

    def outer(self, vectors: Floats) -> Floats:
        """v vᵀ of vectors [n, D], packed: [n, P]."""
        return vectors[:, self.row] * vectors[:, self.column]

    def unpack(self, packed: Floats) -> Floats:
        """[n, P] → [n, D, D]"""
        full = np.empty((len(packed), self.width, self.width))
        full[:, self.row, self.column] = packed
        full[:, self.column, self.row] = packed
        return full
