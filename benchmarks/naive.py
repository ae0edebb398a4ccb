"""One meta step as DESIGN.md section 2 writes it: one user at a time, by autograd.

It shares nothing with the production step but the tensors it starts from. The scheduler's gradient
is taken straight through θ'. Tests compare the production step with it in float64, and
``benchmarks.meta_step`` compares their speed.

Shapes: B users, n rows of a user's set, F feature fields, d embedding width, D = F·d input width.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from greatmeta_dist.meta.model import Recommender
from greatmeta_dist.meta.scheduler import Scheduler

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda h: h,
    "relu": F.relu,
    "gelu": F.gelu,
    "tanh": torch.tanh,
}


@dataclass
class User:
    """One task in the plainest form: embedding rows by field, rows of sets as lists."""

    user_fields: list[list[int]]
    support: list[list[list[int]]]
    """For each support row, for each item field, its embedding rows."""
    support_label: list[float]
    query: list[list[list[int]]]
    query_label: list[float]
    target_weight: float = 1.0
    support_logit: list[float] | None = None
    query_logit: list[float] | None = None
    """Of clicks: the logit of each row's prior probability."""

    def context_label(self) -> list[float]:
        """What enters the context of each support row: its label, or twice a click's residual."""
        if self.support_logit is None:
            return self.support_label
        pairs = zip(self.support_label, self.support_logit, strict=True)
        return [2 * (y - 1 / (1 + math.exp(-z))) for y, z in pairs]


@dataclass
class Settings:
    """The form of the model and of the step."""

    num_steps: int
    inner_rate: float
    outer_rate: float
    scheduler_rate: float
    nominal_users: int
    magnitude: str
    loss: str
    context: str
    has_encoder: bool
    hidden: tuple[int, ...]
    activation: str
    is_film_residual: bool
    is_mean: list[bool]
    has_kernel: bool = False
    support_damping: float = 0.0
    """Support sums are divided by the rows and this."""
    is_balanced: bool = False
    """Whether φ learns the users' target weights, in place of a look ahead."""
    is_averaging: bool = False
    """Whether the scheduler sees means of a user's gradient factors over its visits."""


def pooled(table: Tensor, values: list[int], is_mean: bool) -> Tensor:
    """One field's feature [d] from the table's rows of its values."""
    if not values:
        return torch.zeros(table.shape[1], dtype=table.dtype)
    total = torch.stack([table[v] for v in values]).sum(0)
    return total / len(values) if is_mean else total


def inputs(tables: list[Tensor], user: User, rows: list[list[list[int]]], s: Settings) -> Tensor:
    """x [n, D]; there is one table for each field, indexed by global row."""
    return torch.stack(
        [
            torch.cat(
                [
                    pooled(tables[f], v, s.is_mean[f])
                    for f, v in enumerate([*user.user_fields, *row])
                ]
            )
            for row in rows
        ]
    )


def forward(x: Tensor, context: Tensor, a: dict[str, Tensor], s: Settings) -> Tensor:
    """Predictions [n] from x [n, D] and the context [C]."""
    act = ACTIVATIONS[s.activation]
    h = x
    t = None
    if s.has_encoder:
        t = a["encoder.weight"] @ context + a["encoder.bias"]
    for k in range(1, len(s.hidden) + 1):
        h = h @ a[f"hidden_{k}.weight"].T + a[f"hidden_{k}.bias"]
        if t is not None:
            gamma = a[f"scale_{k}.weight"] @ t
            if s.is_film_residual:
                gamma = 1 + gamma
            h = gamma * h + a[f"shift_{k}.weight"] @ t
        h = act(h)
    prediction = (h @ a["output.weight"].T + a["output.bias"]).squeeze(1)
    if s.has_kernel:
        kernel_input = context[x.shape[1] :]
        prediction = prediction + (kernel_input * x) @ a["kernel.weight"].squeeze(0)
    return prediction


def loss_of(
    tables: list[Tensor], a: dict[str, Tensor], user: User, which: str, s: Settings
) -> Tensor:
    """The user's loss on the ``support`` or ``query`` set."""
    rows, label = (
        (user.support, user.support_label) if which == "support" else (user.query, user.query_label)
    )
    if not rows:
        return torch.stack([t.sum() for t in [*tables, *a.values()]]).sum() * 0.0
    x = inputs(tables, user, rows, s)
    y = torch.tensor(label, dtype=x.dtype)
    if s.context == "own":
        context = x.mean(0)
    elif user.support:
        xs = x if which == "support" else inputs(tables, user, user.support, s)
        ys = torch.tensor(user.context_label(), dtype=x.dtype)
        count = len(xs) + s.support_damping
        context = torch.cat((xs.sum(0) / count, (ys[:, None] * xs).sum(0) / count))
    else:
        context = torch.zeros(2 * x.shape[1], dtype=x.dtype)
    prediction = forward(x, context, a, s)
    logit = user.support_logit if which == "support" else user.query_logit
    if logit is not None:
        prediction = prediction + torch.tensor(logit, dtype=x.dtype)
    row_weight = 1 / (len(y) + (s.support_damping if which == "support" else 0))
    if s.loss == "mse":
        return row_weight * ((prediction - y) ** 2).sum()
    return row_weight * F.binary_cross_entropy_with_logits(prediction, y, reduction="sum")


def context_features(tables: list[Tensor], user: User, s: Settings) -> Tensor:
    """The label-weighted mean of the support items' features: each field's first 16 columns."""
    width = tables[0].shape[1]
    num_fields = len(tables) - len(user.user_fields)
    if not user.support:
        return torch.zeros(num_fields * min(width, 16), dtype=tables[0].dtype)
    x = inputs(tables, user, user.support, s)[:, len(user.user_fields) * width :]
    label = torch.tensor(user.context_label(), dtype=x.dtype)
    mean = (label[:, None] * x).sum(0) / (len(x) + s.support_damping)
    return torch.cat([field[:16] for field in mean.split(width)])


def gradient(loss: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    """The gradient of each tensor; zeros where it does not enter the loss."""
    grads = torch.autograd.grad(loss, leaves, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(grads, leaves, strict=True)]


def leaf(t: Tensor) -> Tensor:
    """A copy that gradients are taken of."""
    return t.detach().clone().requires_grad_()


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / (a.norm().clamp(min=1e-8) * b.norm().clamp(min=1e-8))


@dataclass(frozen=True)
class Task:
    """What is taken from one user."""

    loss: Tensor
    """Query loss after adaptation."""
    unadapted_loss: Tensor
    gradient: list[Tensor]
    """g: of the tables, then of A."""
    unadapted: list[Tensor]
    """g⁰, of A."""


class NaiveStep:
    """Holds θ (one table per field, all with the same row numbers), φ and both Adams."""

    def __init__(
        self,
        tables: list[Tensor],
        layers: dict[str, Tensor],
        scheduler: Scheduler,
        settings: Settings,
    ):
        self.s = settings
        self.tables = [leaf(t) for t in tables]
        self.layers = {k: leaf(v) for k, v in layers.items()}
        self.scheduler = scheduler
        self.theta = torch.optim.Adam([*self.tables, *self.layers.values()], lr=settings.outer_rate)
        self.phi = torch.optim.Adam(scheduler.parameters(), lr=settings.scheduler_rate)
        self.visits: list[list[Tensor]] = []
        """Gradient factors of each user's visits, where they are averaged."""

    def __call__(self, users: list[User]) -> dict:
        """One step on a global batch: losses and weights [B], and the factors' columns [B, ·]."""
        tasks = [self._task(user) for user in users]
        grads = [task.gradient for task in tasks]
        columns = self._columns(users, tasks)
        params = [*self.tables, *self.layers.values()]
        self.scheduler.observe(columns)
        weights = self.scheduler(columns)
        self.phi.zero_grad()
        if self.s.is_balanced:
            target = torch.tensor([u.target_weight for u in users], dtype=columns.dtype)
            total = -(target / target.sum() * weights.log()).sum()
        else:
            total = self._look_ahead(users, weights, grads, params)
        total.backward()
        torch.nn.utils.clip_grad_value_(self.scheduler.parameters(), 10)
        self.phi.step()

        with torch.no_grad():
            final = self.scheduler(columns)
        for k, p in enumerate(params):
            p.grad = sum(w * g[k] for w, g in zip(final, grads, strict=True)).clamp(-10, 10)
        self.theta.step()
        return {
            "loss": torch.stack([task.loss for task in tasks]),
            "columns": columns,
            "first_weights": weights.detach(),
            "weights": final,
        }

    def _task(self, user: User) -> Task:
        """Steps 1 and 2: adapt, and take both gradients."""
        s = self.s
        a = {k: leaf(v) for k, v in self.layers.items()}
        for _ in range(s.num_steps):
            g = gradient(loss_of(self.tables, a, user, "support", s), list(a.values()))
            a = {k: leaf(v - s.inner_rate * d) for (k, v), d in zip(a.items(), g, strict=True)}
        loss = loss_of(self.tables, a, user, "query", s)
        adapted = gradient(loss, [*self.tables, *a.values()])
        unadapted_loss = loss_of(self.tables, self.layers, user, "query", s)
        unadapted = gradient(unadapted_loss, list(self.layers.values()))
        return Task(loss.detach(), unadapted_loss.detach(), adapted, unadapted)

    def _columns(self, users: list[User], tasks: list[Task]) -> Tensor:
        """Step 3: the factors of all users, as columns [B, ·]."""
        s = self.s
        kinds = [self._magnitude(tasks), self._gap(tasks), self._agreement(tasks)]
        if s.is_averaging:
            self.visits.append([torch.cat(of_user) for of_user in zip(*kinds, strict=True)])
            assert len(self.visits) <= 10  # from then on the mean moves by a tenth
            by_user = zip(*self.visits, strict=True)
            kinds = [torch.stack([sum(v) / len(v) for v in by_user])]
        if s.is_balanced and s.context == "support":
            with torch.no_grad():
                kinds.append(
                    torch.stack([context_features(self.tables, user, s) for user in users])
                )
        return torch.cat(kinds, 1)

    def _magnitude(self, tasks: list[Task]) -> Tensor:
        losses = torch.stack([task.loss for task in tasks])
        if self.s.magnitude == "losses":
            both = (losses, torch.stack([task.unadapted_loss for task in tasks]))
            return torch.stack(both, 1).clamp(min=1e-6).log()
        if self.s.magnitude == "loss":
            return losses[:, None]
        norms = [sum(x.norm() for x in task.gradient) for task in tasks]
        return torch.stack(norms)[:, None]

    def _gap(self, tasks: list[Task]) -> Tensor:
        num_fields = len(self.tables)
        return torch.stack(
            [
                torch.stack(
                    [
                        cosine(g, g0)
                        for g, g0 in zip(task.gradient[num_fields:], task.unadapted, strict=True)
                    ]
                )
                for task in tasks
            ]
        )

    def _agreement(self, tasks: list[Task]) -> Tensor:
        num_fields, grads = len(self.tables), [task.gradient for task in tasks]
        mean = [torch.stack(g).sum(0) / self.s.nominal_users for g in zip(*grads, strict=True)]
        return torch.stack(
            [
                torch.stack(
                    [
                        (g[p] * mean[p]).sum() if p < num_fields else cosine(g[p], mean[p])
                        for p in range(len(g))
                    ]
                )
                for g in grads
            ]
        )

    def _look_ahead(
        self,
        users: list[User],
        weights: Tensor,
        grads: list[list[Tensor]],
        params: list[Tensor],
    ) -> Tensor:
        """L_φ, as a function of the weights: the mean query loss at θ'."""
        s, num_fields = self.s, len(self.tables)
        ahead = [
            p.detach() - s.outer_rate * sum(w * g[k] for w, g in zip(weights, grads, strict=True))
            for k, p in enumerate(params)
        ]
        a = dict(zip(self.layers, ahead[num_fields:], strict=True))
        losses = [loss_of(ahead[:num_fields], a, u, "query", s) for u in users]
        return torch.stack(losses).mean()


def unstack(model: Recommender, layers: dict[str, Tensor]) -> dict[str, Tensor]:
    """A by published tensors, the ``film`` stack taken apart, in the order of the factors."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in layers.items():
        if name != "film.weight":
            tensors[name] = tensor
            continue
        stacked = tensor.split(model.layers["film"].splits)
        for k in range(len(model.hidden)):
            tensors[f"scale_{k + 1}.weight"] = stacked[2 * k]
            tensors[f"shift_{k + 1}.weight"] = stacked[2 * k + 1]
    return tensors
