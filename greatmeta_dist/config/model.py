"""Options of the model and of its adaptation to one user."""

from dataclasses import dataclass, field

from greatmeta_dist.config.checks import at_least, one_of
from greatmeta_dist.errors import require


@dataclass
class ModelConfig:
    """The recommender."""

    embedding_dim: int = 64
    """Width of every embedding row."""
    hidden: list[int] = field(default_factory=lambda: [64, 64])
    """Widths of the predictor's hidden layers."""
    activation: str = "tanh"
    """After every hidden layer: ``none`` (the authors' form), ``relu``, ``gelu`` or ``tanh``."""
    has_encoder: bool = True
    """Whether the personalized encoder modulates the hidden layers."""
    context: str = "support"
    """What the encoder reads: ``own`` (the set's own rows, the authors' form) or the rated
    ``support`` set, for both sets."""
    is_film_residual: bool = True
    """Whether the encoder's scales are 1 + γ."""
    has_item_id: bool = True
    """Whether an item has an embedding of its own besides its features."""
    list_pooling: str = "mean"
    """Whether token lists are averaged; the authors sum them."""
    target: str = "bias"
    """What the model predicts: the ``rating`` (the authors' form), ``standardised`` over the
    training ratings, or, in those units, the rest that a ``bias`` leaves: item mean and the user's
    offset from the support, shrunk as the store's ratings suggest."""
    has_kernel: bool = True
    """Whether predictions add a learnt kernel between an item and the rated support; needs the
    ``support`` context."""
    embedding_std: float = 0.1
    """Standard deviation of fresh embedding rows; best about 0.8 over the root of their width."""
    item_init: str = "factors"
    """Whether items' own rows start, besides, at the store's factors of the training ratings, as
    long as a fresh row is expected to be."""
    use_bayesian_mf: bool = True
    """Whether the store's Bayesian factorisations of the training ratings have a part in what is
    predicted of items that they hold: a half in training, where no gradient knows of them, and the
    best step is chosen so; afterwards the share that suits the validation users."""

    def __post_init__(self) -> None:
        one_of("model.activation", self.activation, ("none", "relu", "gelu", "tanh"))
        one_of("model.context", self.context, ("own", "support"))
        one_of("model.list_pooling", self.list_pooling, ("mean", "sum"))
        one_of("model.item_init", self.item_init, ("factors", "random"))
        one_of("model.target", self.target, ("rating", "standardised", "bias"))
        require(
            not self.has_kernel or (self.has_encoder and self.context == "support"),
            "model.has_kernel=true needs model.has_encoder=true and model.context=support",
        )
        require(bool(self.hidden), "model.hidden is empty; expected at least one width")
        at_least("model.hidden", min(self.hidden), 1)
        at_least("model.embedding_dim", self.embedding_dim, 1)
        at_least("model.embedding_std", self.embedding_std, 0)


@dataclass
class InnerConfig:
    """Adaptation to one user."""

    steps: int = 3
    """T, inner steps."""
    learning_rate: float = 0.02
    """α, inner learning rate."""
    support_damping: float = 80.0
    """Sums over a support set are divided by its rows and this many more, so that few rows move a
    user less."""

    def __post_init__(self) -> None:
        at_least("inner.steps", self.steps, 0)
        at_least("inner.learning_rate", self.learning_rate, 0)
        at_least("inner.support_damping", self.support_damping, 0)
