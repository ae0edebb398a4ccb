"""Options of an evaluation: what lists are judged by, and on how much knowledge of a user."""

from dataclasses import dataclass, field

from greatmeta_dist.config.checks import at_least
from greatmeta_dist.errors import require


@dataclass
class EvaluateConfig:
    """How lists of items are judged."""

    cutoffs: list[int] = field(default_factory=lambda: [5, 10, 20])
    """Lengths k of the lists that are judged: recall@k, hr@k, ndcg@k, coverage@k, novelty@k."""
    positive_at: float | None = None
    """Lowest rating that counts as positive, an item worth recommending. null is three quarters of
    the way from the lowest to the highest rating in training: of 1 to 5 stars 4. Where clicks are
    predicted a click is positive, whatever stands here."""
    known_rows: list[int] = field(default_factory=list)
    """Numbers of rows n. For each, users are also scored by what is known from the first n rows of
    their support sets alone. [] scores whole support sets only."""
    other_data: bool = False
    """Whether the store may hold other data than the run was trained on, as long as its labels mean
    the same. Items and values are then found by their ids; those that the run does not have count
    as unknown. A log (``users``) may always."""
    catalogue_users: int | None = None
    """About so many users of each scenario have the whole catalogue ranked, all where it has fewer.
    null is all users where clicks are predicted. Where ratings are, it is as many as make 5 million
    scores of items, but 100 to 1,000."""

    def __post_init__(self) -> None:
        require(bool(self.cutoffs), "evaluate.cutoffs is empty; expected one length at least")
        for name in ("cutoffs", "known_rows"):
            values = getattr(self, name)
            at_least(f"evaluate.{name}", min(values, default=1), 1)
            require(
                values == sorted(set(values)),
                f"evaluate.{name} is {values}; expected different numbers, in ascending order",
            )
        if self.catalogue_users is not None:
            at_least("evaluate.catalogue_users", self.catalogue_users, 1)
