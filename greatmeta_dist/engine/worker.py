"""What a worker holds and does: its share of θ, steps on its lanes, predictions."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from greatmeta_dist.config import Config, ModelConfig
from greatmeta_dist.engine.batch_invariance import is_batch_invariant, is_native_right
from greatmeta_dist.engine.checkpoint import Block
from greatmeta_dist.engine.communicator import Communicator
from greatmeta_dist.engine.coordinator import Coordinator, StepReport
from greatmeta_dist.engine.embeddings import EmbeddingTable, block_size, fresh_rows
from greatmeta_dist.engine.lane_exchange import LaneExchange
from greatmeta_dist.engine.layers import FlatLayers
from greatmeta_dist.engine.routing import RoutingPlan
from greatmeta_dist.engine.weighting import make_weighting
from greatmeta_dist.meta.adapt import adapted_networks, predict_query
from greatmeta_dist.meta.batch import SlotTable, StepBatch, TaskBatch, to_device
from greatmeta_dist.meta.factor_averages import FactorAverages
from greatmeta_dist.meta.factors import FactorSizes
from greatmeta_dist.meta.fast_weights import InnerLoop
from greatmeta_dist.meta.losses import Loss
from greatmeta_dist.meta.model import Recommender
from greatmeta_dist.meta.native import library
from greatmeta_dist.meta.padding import Padding
from greatmeta_dist.meta.pooling import pool_slots
from greatmeta_dist.meta.step import MetaStep, StepSettings
from greatmeta_dist.meta.user_networks import UserNetworks


@dataclass(frozen=True)
class StoreFacts:
    """What the model must know of a store."""

    num_user_fields: int
    num_item_fields: int
    num_rows: int
    loss: Loss = "mse"
    """``bce`` where labels are clicks."""


class RowStart(NamedTuple):
    """Where some embedding rows start, besides the noise that all start with."""

    rows: Tensor
    """[n] rows of the whole table, distinct, ascending."""
    values: Tensor
    """[n, k] what is added to the rows' first columns, min(k, d) of them; in units of the length
    that a fresh row is expected to have."""


class Worker:
    """θ = (E, A): a block of E, all of A; on rank 0 φ and the dense optimizers; the meta step.

    After ``keep_averages`` also the averaged factors of the users that it hosts.
    """

    is_stopping: bool = False
    """Whether any worker asked to stop in the last step."""

    def __init__(
        self,
        config: Config,
        facts: StoreFacts,
        device: torch.device,
        communicator: Communicator | None = None,
        start: RowStart | None = None,
    ):
        """``communicator`` is that of a lone worker where not given."""
        train = config.train
        self.device = device
        self.communicator = communicator or Communicator()
        self.model = _make_recommender(config.model, facts)
        self.inner = InnerLoop(
            config.inner.steps,
            config.inner.learning_rate,
            facts.loss,
            is_native=config.cluster.adaptation == "native" and library.is_available(),
        )
        # Both draw from one generator, the layers first.
        generator = torch.Generator().manual_seed(train.seed)
        layers = self.model.init_layers(generator)
        self.layers = FlatLayers({name: tensor.to(device) for name, tensor in layers.items()})
        self.table = self._make_table(config, facts.num_rows, generator, start)
        self.weighting = make_weighting(config.scheduler)
        self.factor_sizes = FactorSizes.of(self.model, self.weighting.factor_spec)
        self.coordinator = self._make_coordinator(config) if self.communicator.is_first else None
        self._averaged_layers = self.layers
        self._num_rows, self._num_users = facts.num_rows, 0
        self._planned: tuple[StepBatch, RoutingPlan] | None = None
        settings = StepSettings(
            users_per_batch=train.users_per_batch,
            look_ahead_rate=train.learning_rate,
            is_bf16=config.cluster.precision == "bf16",
        )
        self._step = MetaStep(self.model, self.inner, self.weighting, settings)

    def _make_table(
        self, config: Config, num_rows: int, generator: torch.Generator, start: RowStart | None
    ) -> EmbeddingTable:
        """This worker's block of the fresh embedding rows [``num_rows``, d]."""
        model, train = config.model, config.train
        block = block_size(num_rows, self.communicator.size)
        first = min(self.communicator.rank * block, num_rows)
        rows = fresh_rows(
            num_rows,
            model.embedding_dim,
            model.embedding_std,
            generator,
            first=first,
            last=min(first + block, num_rows),
        )
        if start is not None:
            _add_start_in_place(rows, start, first, model.embedding_std)
        return EmbeddingTable(
            rows.to(self.device),
            rate=train.learning_rate,
            is_lazy=train.row_update == "lazy",
            ema_decay=train.ema_decay,
            first=first,
            block=block,
        )

    def _make_coordinator(self, config: Config) -> Coordinator:
        """The coordinator, with a fresh φ."""
        # A fresh φ is drawn from torch's global generator. It is seeded for this, and then put back
        # as it was, so that building a worker changes no random number of the process.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.train.seed)
            scheduler = self.weighting.make_scheduler(self.factor_sizes)
        return Coordinator(
            self.layers,
            scheduler.to(self.device) if scheduler else None,
            weighting=self.weighting,
            outer_rate=config.train.learning_rate,
            scheduler_rate=config.scheduler.learning_rate,
            ema_decay=config.train.ema_decay,
        )

    @property
    def _is_averaging(self) -> bool:
        """Whether the weighting sees means of a user's factors over its visits."""
        spec = self.weighting.factor_spec
        return spec is not None and spec.is_averaged

    def keep_averages(self, user_range: range, num_users: int) -> None:
        """Before training: keep factor averages of the users hosted here, if the weighting asks.

        ``user_range`` are their indices among all ``num_users`` training users.
        """
        if self._is_averaging:
            averages = FactorAverages(
                len(user_range), self.factor_sizes, self.device, first_user=user_range.start
            )
            self._step, self._num_users = replace(self._step, averages=averages), num_users

    @property
    def padding(self) -> Padding:
        """How far supports may be padded."""
        return Padding.of(self.model, self.inner.num_steps)

    def is_native_right(self, batch: StepBatch) -> bool:
        """Whether the compiled code is here and adapts users as torch does, but for rounding; also
        where neither this model nor this device uses it."""
        with self._step.precision(self.layers.flat):
            if not library.suits(self.model, self.layers.flat):
                return True
        if not self.inner.is_native:
            return False
        here = to_device(batch, self.device)
        return is_native_right(here, model=self.model, layers=self.layers, inner=self.inner)

    def adapt_by_torch(self) -> None:
        """From now on, without the compiled code."""
        self.inner = replace(self.inner, is_native=False)
        self._step = replace(self._step, inner=self.inner)

    def is_batch_invariant(self, together: StepBatch, apart: StepBatch) -> bool:
        """Whether a step's users get the same bits as one batch and lane by lane."""
        with self._step.precision(self.layers.flat):
            return is_batch_invariant(
                to_device(together, self.device),
                to_device(apart, self.device),
                model=self.model,
                layers=self.layers,
                inner=self.inner,
                spec=self.weighting.factor_spec,
                users_per_batch=self._step.settings.users_per_batch,
            )

    def step(
        self, batch: StepBatch, following: StepBatch | None = None, *, is_stopping: bool = False
    ) -> StepReport | None:
        """One meta step on the users of a global batch that are hosted here.

        Gives the coordinator's report, on its worker. ``following`` is the next batch, if it is
        known: the plan for its rows is exchanged on the way; all workers know it, or none.
        ``is_stopping`` asks all to stop: see the attribute.
        """
        assert self._step.averages is not None or not self._is_averaging
        here = to_device(batch, self.device)
        planned = self._planned if self._planned and self._planned[0] is batch else None
        exchange = LaneExchange(
            here,
            self.table,
            self.layers,
            self.coordinator,
            self.communicator,
            plan=planned[1] if planned else None,
            following=following.rows.to(self.device, non_blocking=True) if following else None,
            is_stopping=is_stopping,
        )
        self._step(here.batches, self.layers, exchange=exchange)
        self._planned = (following, exchange.next_plan) if following else None
        self.is_stopping = exchange.is_stopping
        return self.coordinator.report if self.coordinator else None

    def broadcast_averaged_params(self) -> None:
        """Before predictions: give all workers the running mean of A."""
        # The other workers receive it into a copy of A's tensors: A itself must stay as training
        # has it.
        if self.coordinator is not None:
            self._averaged_layers = self.coordinator.averaged_layers
        elif self._averaged_layers is self.layers:
            self._averaged_layers = FlatLayers(self.layers)
        self.communicator.broadcast(self._averaged_layers.flat, "predictions")

    def predict(self, batch: TaskBatch | None) -> tuple[Tensor, Tensor] | None:
        """Predictions [B, n] for every user's query rows, unadapted and adapted.

        They are made with the running mean of θ. All workers call it together, for they hold each
        other's rows; one without a batch passes None.
        """
        if batch is None:
            nothing = torch.empty(0, dtype=torch.int64, device=self.device)
            RoutingPlan.of(nothing, self.table, self.communicator).fetch(
                self.table.lookup_averaged, "predictions"
            )
            return None
        batch = to_device(batch, self.device)
        plan = RoutingPlan.of(batch.rows, self.table, self.communicator)
        rows, _ = plan.fetch(self.table.lookup_averaged, "predictions")
        return predict_query(self.model, batch, rows, self._averaged_layers, self.inner)

    def adapted_networks(self, batch: TaskBatch) -> UserNetworks:
        """Every user's adapted model as a function of items, with the running mean of θ."""
        batch = to_device(batch, self.device)
        rows = self.table.lookup_averaged(batch.rows)
        return adapted_networks(self.model, batch, rows, self._averaged_layers, self.inner)

    @property
    def averaged_layers(self) -> Mapping[str, Tensor]:
        """The running mean of A by name, which predictions use."""
        return self._averaged_layers

    def pooled_features(self, slots: SlotTable, rows: Tensor) -> Tensor:
        """Features [entities, fields·d] of slots whose rows are numbered among ``rows`` [U]."""
        slots, rows = to_device(slots, self.device), rows.to(self.device)
        return pool_slots(self.table.lookup_averaged(rows), slots)

    def with_further_rows(self, values: Tensor) -> "Worker":
        """A lone worker that predicts as this one does, with embedding rows ``values`` [k, d] more.

        They stand behind the others. It is for predictions only.
        """
        assert self.communicator.size == 1
        worker = copy.copy(self)
        worker.table = self.table.extended(values)
        return worker

    def dense_state(self) -> dict[str, Tensor]:
        """Everything but the embedding rows: A, φ and their optimizers' state, by name; on the
        coordinator's worker, nothing elsewhere."""
        coordinator = self.coordinator
        if coordinator is None:
            return {}
        state = {f"theta.{k}": v.detach() for k, v in self.layers.items()}
        if coordinator.ema_decay:
            state |= {f"mean.{k}": v for k, v in coordinator.averaged_layers.items()}
        state |= coordinator.optimizer.state("theta")
        if coordinator.scheduler is not None and coordinator.scheduler_optimizer is not None:
            state |= {f"phi.{k}": v.detach() for k, v in coordinator.scheduler.state_dict().items()}
            state |= coordinator.scheduler_optimizer.state("phi")
        return state

    def blocks(self) -> dict[str, Block]:
        """This worker's blocks: of embedding rows with their optimizer's state, and, where they are
        kept, of training users' factor averages."""
        table, averages = self.table, self._step.averages
        blocks = {"rows": Block(table.state(), table.first, self._num_rows)}
        if averages is not None:
            state = {"factors": averages.mean, "visits": averages.visits}
            blocks["users"] = Block(state, averages.first_user, self._num_users)
        return blocks

    def load(self, dense: dict[str, Tensor], tables: dict[str, dict[str, Tensor]]) -> None:
        """The inverse of ``dense_state`` and ``blocks``, in place. All workers call it together."""
        self.table.load_state(tables["rows"])
        if self._step.averages is not None:
            self._step.averages.mean.copy_(tables["users"]["factors"])
            self._step.averages.visits.copy_(tables["users"]["visits"])
        coordinator = self.coordinator
        if coordinator is not None:
            with torch.no_grad():
                for name, param in self.layers.items():
                    param.copy_(dense[f"theta.{name}"])
                    if coordinator.ema_decay:
                        coordinator.averaged_layers[name].copy_(dense[f"mean.{name}"])
                scheduler = coordinator.scheduler
                for name, tensor in scheduler.state_dict().items() if scheduler else ():
                    tensor.copy_(dense[f"phi.{name}"])
            coordinator.optimizer.load_state("theta", dense)
            if coordinator.scheduler_optimizer is not None:
                coordinator.scheduler_optimizer.load_state("phi", dense)
        self.communicator.broadcast(self.layers.flat, "load")
        self.broadcast_averaged_params()

    def start_layers_from(self, dense: Mapping[str, Tensor], *, has_scheduler: bool) -> None:
        """Before the first step: take A, its running mean where there is one, from another run's
        ``dense_state``; with ``has_scheduler`` also φ. All workers call it together."""
        coordinator = self.coordinator
        if coordinator is not None:
            with torch.no_grad():
                for name, param in self.layers.items():
                    value = dense.get(f"mean.{name}", dense[f"theta.{name}"])
                    param.copy_(value)
                    if coordinator.ema_decay:
                        coordinator.averaged_layers[name].copy_(value)
                if has_scheduler and coordinator.scheduler is not None:
                    for name, tensor in coordinator.scheduler.state_dict().items():
                        tensor.copy_(dense[f"phi.{name}"])
        self.communicator.broadcast(self.layers.flat, "load")
        self.broadcast_averaged_params()

    def start_rows_from(self, rows: Tensor, values: Tensor) -> None:
        """Before the first step: set those of rows [n], of the whole table, that this worker holds
        to values [n, d]."""
        here = rows - self.table.first
        is_here = (here >= 0) & (here < len(self.table.weight))
        self.table.overwrite(here[is_here].to(self.device), values[is_here].to(self.device))


def _make_recommender(options: ModelConfig, facts: StoreFacts) -> Recommender:
    """The model's form."""
    return Recommender(
        facts.num_user_fields,
        facts.num_item_fields,
        embedding_dim=options.embedding_dim,
        hidden=tuple(options.hidden),
        activation=options.activation,
        has_encoder=options.has_encoder,
        context="support" if options.context == "support" else "own",
        is_film_residual=options.is_film_residual,
        has_kernel=options.has_kernel,
    )


def _add_start_in_place(rows: Tensor, start: RowStart, first: int, std: float) -> None:
    """Add to fresh rows [n, d], those of the whole table from ``first`` on, where they start."""
    width = min(rows.shape[1], start.values.shape[1])
    # ``start.rows`` ascend, so those of this block are one slice of them.
    here = slice(*torch.searchsorted(start.rows, torch.tensor([first, first + len(rows)])).tolist())
    values = start.values[here, :width] * (std * rows.shape[1] ** 0.5)
    rows[start.rows[here] - first, :width] += values
