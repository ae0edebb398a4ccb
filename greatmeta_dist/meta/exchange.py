"""What the meta step asks of other lanes and of the coordinator.

``engine/lane_exchange.py`` implements it.

Lists hold one entry for each batch hosted here. Shapes as in ``batch.py``.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

from torch import Tensor

from greatmeta_dist.meta.gradients import LaneSums, MetaGradient
from greatmeta_dist.meta.user_statistics import UserStatistics


class Exchange(Protocol):
    """The messages of one step (DESIGN.md section 4).

    Sums take gradients as they are made, so that few are held at a time, and may overwrite them.
    """

    def fetch_rows(self) -> list[Tensor]:
        """The current embedding rows [U, d] of each batch."""

    def sum(self, gradients: Iterable[LaneSums]) -> Callable[[], list[MetaGradient]]:
        """Begin the sum over all lanes; what is returned waits for it.

        The sum is given back at the embedding rows of each batch hosted here.
        """

    def compute_weights(self, user_statistics: list[UserStatistics]) -> list[Tensor]:
        """Send every user's statistics to the coordinator; the weights [B] of each batch."""

    def update_scheduler(self, weight_gradients: list[Tensor]) -> list[Tensor]:
        """Send ∂(Σ L)/∂w [B] of each batch's users, after a look ahead, and let φ learn from it.

        Returns the weights [B] of each batch's users under the new φ.
        """

    def apply(self, gradients: Iterable[LaneSums]) -> None:
        """Sum over all lanes, and take the outer optimizer's step on θ."""
