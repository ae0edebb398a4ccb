"""Options of the priors: what ``train`` fits on the training rows before meta-training."""

from dataclasses import dataclass, field

from greatmeta_dist.config.checks import at_least, in_range
from greatmeta_dist.errors import require
from greatmeta_dist.extensions import PRIORS


@dataclass
class BiasConfig:
    """Shrunk means of items and offsets of users; strengths are estimated from the log."""

    min_damping: float = 0.01
    """Smallest estimate of a damping, in ratings: how many ratings' worth of prior a mean has."""
    max_damping: float = 1e6
    """Largest estimate; also taken where the log cannot tell."""
    max_ratings: int = 100_000_000
    """Ratings that the users' damping is estimated from: those of the first training users."""

    def __post_init__(self) -> None:
        require(
            0 < self.min_damping < self.max_damping,
            f"priors.bias.min_damping is {self.min_damping:g} and max_damping "
            f"{self.max_damping:g}; expected 0 < min_damping < max_damping",
        )


@dataclass
class ContentConfig:
    """Regression of items' mean ratings on their features: what an item is shrunk towards."""

    penalties: list[float] = field(default_factory=lambda: [1.0, 3.0, 10.0, 30.0, 100.0, 300.0])
    """Ridge penalties to choose from by cross-validation."""
    num_folds: int = 5
    """Folds of that cross-validation."""
    min_items: int = 50
    """Rated items that a regression needs. With fewer, all items are expected to get the mean."""
    max_tuned_items: int = 50_000
    """Rated items that choose the penalty and that trees are fitted to, at most."""
    tree_iterations: int = 100
    """Boosting iterations of the trees that predict items without ratings."""
    tree_learning_rate: float = 0.05
    """Learning rate of the boosting."""
    tree_leaves: int = 8
    """Leaves of a tree, at most."""
    tree_min_items: int = 10
    """Items that a leaf must hold."""
    tree_max_values: int = 64
    """Values of a feature that trees know: the most frequent ones."""
    tree_min_value_items: int = 10
    """Rated items that must have such a value."""

    def __post_init__(self) -> None:
        require(
            bool(self.penalties) and min(self.penalties) > 0,
            f"priors.content.penalties is {self.penalties}; expected numbers above 0",
        )
        at_least("priors.content.num_folds", self.num_folds, 2)
        # Cross-validation needs an item for each fold.
        for name in ("min_items", "max_tuned_items"):
            at_least(f"priors.content.{name}", getattr(self, name), self.num_folds)
        for name in (
            "tree_iterations",
            "tree_max_values",
            "tree_min_items",
            "tree_min_value_items",
        ):
            at_least(f"priors.content.{name}", getattr(self, name), 1)
        at_least("priors.content.tree_leaves", self.tree_leaves, 2)
        in_range("priors.content.tree_learning_rate", self.tree_learning_rate, 0, 1, is_open=True)


@dataclass
class ItemFactorsConfig:
    """Leading factors of the residual ratings: where items' own embedding rows start."""

    num_factors: int = 48
    """Factors of an item."""
    num_spare: int = 16
    """Further directions carried along, so that the factors converge."""
    num_passes: int = 6
    """Passes over the ratings."""
    damping: float = 10.0
    """Ratings' worth of prior of an item's factors: an item of few ratings has small ones."""
    max_items: int = 1_000_000
    """Items that get factors: the most rated ones."""
    max_ratings: int = 20_000_000
    """Ratings that are read: those of the first training users."""

    def __post_init__(self) -> None:
        for name in ("num_factors", "num_passes", "max_items", "max_ratings"):
            at_least(f"priors.item_factors.{name}", getattr(self, name), 1)
        at_least("priors.item_factors.num_spare", self.num_spare, 0)
        at_least("priors.item_factors.damping", self.damping, 0)


@dataclass
class BayesianMFConfig:
    """Variational Bayesian matrix factorisation, whose predictions are blended with the model's."""

    num_factors: int = 20
    """Factors of an item and of a user."""
    num_passes: int = 20
    """Passes over the ratings."""
    num_warm_up: int = 4
    """First passes that keep the variances as they start: factors are too small to tell them."""
    num_single: int = 8
    """First passes in which all users share one normal prior; then it is a mixture."""
    num_starts: int = 4
    """Random starts of a small log, whose predictions are averaged."""
    max_start_ratings: int = 1_000_000
    """Ratings read by all starts together. A log of more than half of them has one start."""
    num_components: int = 8
    """Normals of the mixture that users are taken from."""
    min_component_users: int = 40
    """Training users for each component; with fewer users there are fewer components."""
    component_damping: float = 10.0
    """Users' worth of prior, at 0, of a component's mean."""
    max_clustered: int = 20_000
    """Users whose k-means clusters the components start as, at most."""
    max_ratings: int = 5_000_000
    """Ratings that are factorised: those of the first training users."""
    max_items: int = 50_000
    """Items that are factorised: the most rated ones. Each takes some 9 KB of memory."""
    min_item_ratings: int = 50
    """An item that has more ratings than those read needs this many read; else it is left out."""
    min_variance: float = 1e-6
    """Smallest variance, as a share of the ratings' variance."""

    def __post_init__(self) -> None:
        in_range("priors.bayesian_mf.min_variance", self.min_variance, 0, 1, is_open=True)
        for name in (
            "num_factors",
            "num_passes",
            "num_single",
            "num_starts",
            "num_components",
            "min_component_users",
            "max_clustered",
            "max_ratings",
            "max_items",
            "min_item_ratings",
            "max_start_ratings",
        ):
            at_least(f"priors.bayesian_mf.{name}", getattr(self, name), 1)
        at_least("priors.bayesian_mf.num_warm_up", self.num_warm_up, 0)
        at_least("priors.bayesian_mf.component_damping", self.component_damping, 0)


@dataclass
class UserGroupsConfig:
    """Preference groups: k-means clusters of what users choose and like."""

    category: str | None = None
    """Item feature whose values make the profile. None takes the first list feature with at most
    ``max_categories`` values."""
    max_categories: int = 64
    """Values that a feature chosen by itself may have."""
    num_groups: int = 8
    """Groups to cluster users into."""
    num_starts: int = 10
    """Random starts of k-means."""
    max_users: int = 50_000
    """Training users that groups are fitted to and judged by, at most: the first ones."""
    liking_damping: float = 2.0
    """Ratings' worth of prior of how much a user likes a category."""
    minority_share: float = 0.2
    """Minority groups are the smallest ones that together hold at most this share of users."""

    def __post_init__(self) -> None:
        in_range("priors.user_groups.minority_share", self.minority_share, 0, 1)
        for name in ("max_categories", "num_groups", "num_starts", "max_users"):
            at_least(f"priors.user_groups.{name}", getattr(self, name), 1)
        at_least("priors.user_groups.liking_damping", self.liking_damping, 0)


@dataclass
class PriorsConfig:
    """What is fitted on the training rows before meta-training, and kept beside the store."""

    seed: int = 0
    """Decides every random choice of the fits."""
    extra: list[str] = field(default_factory=list)
    """Further priors to fit, by the names under which packages registered them. What they predict,
    if they predict, is averaged with the Bayesian factorisation's predictions."""
    bias: BiasConfig = field(default_factory=BiasConfig)
    content: ContentConfig = field(default_factory=ContentConfig)
    item_factors: ItemFactorsConfig = field(default_factory=ItemFactorsConfig)
    bayesian_mf: BayesianMFConfig = field(default_factory=BayesianMFConfig)
    user_groups: UserGroupsConfig = field(default_factory=UserGroupsConfig)

    def __post_init__(self) -> None:
        at_least("priors.seed", self.seed, 0)
        in_range("priors.seed", self.seed, 0, 2**32, is_open_above=True)
        if self.extra:
            known = PRIORS.names()
            for name in self.extra:
                require(
                    name in known,
                    f"priors.extra names '{name}'; there is {', '.join(known)}",
                )
