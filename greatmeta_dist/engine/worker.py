"""What a worker holds and does: θ and its optimizers, steps, predictions.

Here with all lanes and the coordinator in one process.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor

from greatmeta_dist.config import Config
from greatmeta_dist.engine.coordinator import Coordinator
from greatmeta_dist.engine.embeddings import EmbeddingTable
from greatmeta_dist.engine.exchange import LocalExchange
from greatmeta_dist.meta.adapt import InnerLoop, predict_query
from greatmeta_dist.meta.batch import StepBatch, TaskBatch, to_device
from greatmeta_dist.meta.factors import FactorSizes, Magnitude
from greatmeta_dist.meta.model import Loss, Recommender
from greatmeta_dist.meta.scheduler import SCORERS, Scheduler
from greatmeta_dist.meta.step import MetaStep, StepReport, StepSettings, Weighing


@dataclass(frozen=True)
class Sizes:
    """What the model must know of a store."""

    num_user_fields: int
    num_item_fields: int
    num_rows: int
    loss: Loss = "mse"
    """``bce`` where labels are clicks."""


class Worker:
    """θ = (E, A), φ and the optimizers, and the meta step on them."""

    def __init__(self, config: Config, sizes: Sizes, device: torch.device):
        m = config.model
        self.device = device
        self.model = Recommender(
            sizes.num_user_fields,
            sizes.num_item_fields,
            embedding_dim=m.embedding_dim,
            hidden=tuple(m.hidden),
            activation=m.activation,
            has_encoder=m.has_encoder,
            context="support" if m.context == "support" else "own",
            is_film_residual=m.is_film_residual,
            has_kernel=m.has_kernel,
        )
        self.inner = InnerLoop(config.inner.steps, config.inner.rate, sizes.loss)
        generator = torch.Generator().manual_seed(config.train.seed)
        self.layers = {
            name: tensor.to(device) for name, tensor in self.model.init_layers(generator).items()
        }
        rows = torch.empty(sizes.num_rows, m.embedding_dim)
        rows.normal_(std=m.embedding_std, generator=generator)
        self.table = EmbeddingTable(
            rows.to(device),
            rate=config.train.rate,
            update="dense" if config.train.row_update == "dense" else "lazy",
            averaging=config.train.averaging,
        )
        weighing, magnitude = _weighing(config)
        self.sizes = FactorSizes.of(self.model, magnitude, has_context=weighing == "balanced")
        self.scheduler = _make_scheduler(config, self.sizes, device)
        self.coordinator = Coordinator(
            self.layers,
            self.scheduler,
            outer_rate=config.train.rate,
            scheduler_rate=config.scheduler.rate,
            averaging=config.train.averaging,
        )
        self._step = MetaStep(
            self.model,
            self.inner,
            StepSettings(
                nominal_users=config.train.users_per_step,
                outer_rate=config.train.rate,
                magnitude=magnitude,
                weighing=weighing,
                has_context=self.sizes.context > 0,
                is_bf16=config.cluster.precision == "bf16",
            ),
        )

    def step(self, batch: StepBatch) -> StepReport:
        """One meta step on a global batch."""
        here = to_device(batch, self.device)
        exchange = LocalExchange(here, self.table, self.coordinator)
        return self._step(here.parts, self.layers, exchange=exchange, coordinator=self.coordinator)

    def predict(self, batch: TaskBatch) -> tuple[Tensor, Tensor]:
        """Predictions [B, n] for every user's query rows, unadapted and adapted.

        From the running mean of θ.
        """
        batch = to_device(batch, self.device)
        rows = self.table.fetch_mean(batch.rows)
        return predict_query(self.model, batch, rows, self.coordinator.mean, self.inner)

    def dense_state(self) -> dict[str, Tensor]:
        """Everything but the embedding rows: A, φ and their optimizers' state, by name."""
        state = {f"theta.{k}": v.detach() for k, v in self.layers.items()}
        if self.coordinator.averaging:
            state |= {f"mean.{k}": v for k, v in self.coordinator.mean.items()}
        state |= _optimizer_state("theta", self.layers, self.coordinator.optimizer)
        if self.scheduler is not None and self.coordinator.scheduler_optimizer is not None:
            named = dict(self.scheduler.named_parameters())
            state |= {f"phi.{k}": v.detach() for k, v in self.scheduler.state_dict().items()}
            state |= _optimizer_state("phi", named, self.coordinator.scheduler_optimizer)
        return state

    def row_state(self) -> dict[str, Tensor]:
        """The embedding rows and what goes with each: [R, ·], and the number of steps."""
        return self.table.state()

    def load(self, dense: dict[str, Tensor], rows: dict[str, Tensor]) -> None:
        """The inverse of ``dense_state`` and ``row_state``, in place."""
        with torch.no_grad():
            for name, param in self.layers.items():
                param.copy_(dense[f"theta.{name}"])
                if self.coordinator.averaging:
                    self.coordinator.mean[name].copy_(dense[f"mean.{name}"])
            self.table.load_state(rows)
            named = dict(self.scheduler.named_parameters()) if self.scheduler else {}
            for name, tensor in self.scheduler.state_dict().items() if self.scheduler else ():
                tensor.copy_(dense[f"phi.{name}"])
        _load_optimizer("theta", self.layers, self.coordinator.optimizer, dense)
        if self.coordinator.scheduler_optimizer is not None:
            _load_optimizer("phi", named, self.coordinator.scheduler_optimizer, dense)


def _weighing(config: Config) -> tuple[Weighing, Magnitude]:
    kind = config.scheduler.kind
    if kind in ("mlp", "lstm"):
        return "look_ahead", "norm" if config.scheduler.magnitude == "norm" else "loss"
    return cast(Weighing, kind), "losses"


def _make_scheduler(config: Config, sizes: FactorSizes, device: torch.device) -> Scheduler | None:
    kind = config.scheduler.kind
    if kind not in SCORERS:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        return Scheduler(
            cast(Literal["mlp", "lstm", "balanced"], kind),
            sizes,
            max_weight_ratio=config.scheduler.max_weight_ratio,
            reads=tuple(config.scheduler.factors),
        ).to(device)


def _optimizer_state(
    prefix: str, named: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """Adam's state under names, e.g. ``theta.output.bias.exp_avg``; empty before the first step."""
    return {
        f"{prefix}.{name}.{key}": torch.as_tensor(value)
        for name, param in named.items()
        for key, value in optimizer.state[param].items()
    }


def _load_optimizer(
    prefix: str,
    named: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    state: dict[str, Tensor],
) -> None:
    for name, param in named.items():
        start = f"{prefix}.{name}."
        own = {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}
        optimizer.state[param] = {k: v.clone() for k, v in own.items()}
