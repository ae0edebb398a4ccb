"""Options of the model and of its adaptation to one user."""

from dataclasses import dataclass, field

from greatmeta_dist.config.checks import at_least, check_choices, choice, in_range
from greatmeta_dist.errors import require

MAX_WIDTH = 1 << 16
"""Of a layer or an embedding row: more is a slip of the keyboard, and would not fit into memory."""


@dataclass
class ModelConfig:
    """The recommender."""

    embedding_dim: int = 64
    """Width of every embedding row."""
    hidden: list[int] = field(default_factory=lambda: [64, 64])
    """Widths of the predictor's hidden layers, the first one first."""
    activation: str = choice("tanh", ("none", "relu", "gelu", "tanh"))
    """Function after every hidden layer. ``none`` is the authors' form."""
    has_encoder: bool = True
    """Whether the personalized encoder scales and shifts the hidden layers for each user."""
    context: str = choice("support", ("own", "support"))
    """Which rows the encoder reads. ``support``: those of the user's support set, with their
    ratings, for support and query alike. ``own``: those of the set that is predicted, without
    ratings (the authors' form)."""
    is_film_residual: bool = True
    """Whether the encoder multiplies hidden layers by 1 + γ. With false it multiplies by γ (the
    authors' form)."""
    has_item_id: bool = True
    """Whether each item has an embedding row of its own, besides the rows of its features."""
    list_pooling: str = choice("mean", ("mean", "sum"))
    """How the embedding rows of a token list become one vector. ``sum`` is the authors' form."""
    target: str = choice("bias", ("rating", "standardised", "bias"))
    """What the model learns to predict. ``rating``: the rating itself (the authors' form).
    ``standardised``: the rating less the training mean, in training standard deviations.
    ``bias``: the same less the item's shrunk mean and the user's shrunk offset, which the support
    set gives. What was taken off is added to predictions again."""
    has_kernel: bool = True
    """Whether predictions add a learnt similarity of the item to the items that the user rated.
    Needs ``model.context=support``."""
    embedding_std: float = 0.1
    """Standard deviation of fresh embedding rows. About 0.8 over the root of
    ``model.embedding_dim`` works best."""
    item_init: str = choice("factors", ("factors", "random"))
    """Where items' own embedding rows start. ``random``: at fresh rows. ``factors``: at fresh rows
    plus the item factors of the training ratings, which are scaled to a fresh row's expected
    length."""
    use_bayesian_mf: bool = True
    """Whether predictions are blended with those of a Bayesian matrix factorisation, for items
    that it knows. Gradients do not see the blend. While training, the blend weight is a half, and
    the best step is chosen with it. Afterwards it is the weight that suits the validation users
    best."""

    def __post_init__(self) -> None:
        check_choices("model", self)
        require(
            not self.has_kernel or (self.has_encoder and self.context == "support"),
            "model.has_kernel=true needs model.has_encoder=true and model.context=support",
        )
        require(bool(self.hidden), "model.hidden is empty; expected at least one width")
        at_least("model.hidden", min(self.hidden), 1)
        at_least("model.embedding_dim", self.embedding_dim, 1)
        in_range("model.hidden", max(self.hidden), 1, MAX_WIDTH)
        in_range("model.embedding_dim", self.embedding_dim, 1, MAX_WIDTH)
        at_least("model.embedding_std", self.embedding_std, 0)


@dataclass
class InnerConfig:
    """Adaptation to one user."""

    steps: int = 3
    """T, inner steps: how often the model is moved towards a user's support set."""
    learning_rate: float = 0.02
    """α, learning rate of the inner steps."""
    support_damping: float = 80.0
    """Support rows' worth of damping. A user's support gradient is a sum over n rows, divided by n
    plus this number, so that few rows move the model less."""

    def __post_init__(self) -> None:
        at_least("inner.steps", self.steps, 0)
        at_least("inner.learning_rate", self.learning_rate, 0)
        at_least("inner.support_damping", self.support_damping, 0)
