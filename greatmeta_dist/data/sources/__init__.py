"""Forms of interaction logs; ``extensions.SOURCES`` names them."""

from greatmeta_dist.data.sources.base import Kind, Source, Table
from greatmeta_dist.data.sources.open import open_source

__all__ = ["Kind", "Source", "Table", "open_source"]
