"""The service as an application of Ray Serve: ``greatmeta_dist.launch.serve:application``.

Each replica holds a run. Requests that wait together are answered together.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

# Before Ray, which reads its settings when it is imported.
import greatmeta_dist.launch.ray_cluster  # noqa: F401  isort: skip

import ray
import torch
from fastapi import FastAPI
from ray import serve

from greatmeta_dist.config import ServeConfig
from greatmeta_dist.errors import require
from greatmeta_dist.launch.batcher import Batcher
from greatmeta_dist.launch.serve_http import (
    Health,
    Item,
    RecommendAnswer,
    RecommendRequest,
    ScoreAnswer,
    ScoreRequest,
    make_app,
)
from greatmeta_dist.predict import Predictor
from greatmeta_dist.recommend.questions import Answer, Question, answers, ask_best, ask_scores
from greatmeta_dist.recommend.ranker import Ranker
from greatmeta_dist.storage.local_copy import absolute, shown

SHUTDOWN_S = 20.0
"""How long a replica that is stopped goes on with requests under way, at most."""


@dataclass(frozen=True)
class Served:
    """What a replica serves."""

    ranker: Ranker
    run: str
    step: int


def load_run(run: str) -> Served:
    """A run, with its catalogue looked at. Raises ``InputError``."""
    predictor = Predictor.load(run)
    return Served(predictor.ranker, shown(str(predictor.run)), predictor.step)


def application(args: dict[str, Any]) -> serve.Application:
    """The application, from ``args`` of its config: ``run``, and options of ``ServeConfig``.

    Raises ``InputError``.
    """
    # Host and port are Serve's own, and are set where it is started.
    names = [f.name for f in fields(ServeConfig) if f.name not in ("host", "port")]
    unknown = [name for name in args if name not in ("run", *names)]
    require(not unknown, f"args has {', '.join(unknown)}; expected run, {', '.join(names)}")
    run = args.get("run")
    require(isinstance(run, str), "args names no run; add run: DIR")
    config = ServeConfig(**{name: value for name, value in args.items() if name != "run"})
    return bound(config, partial(load_run, absolute(str(run))))


def _web() -> FastAPI:
    """The web application of the replica that this process is."""

    def service() -> Any:
        return serve.get_replica_context().servable_object

    return make_app(service)


@serve.deployment(graceful_shutdown_timeout_s=SHUTDOWN_S, graceful_shutdown_wait_loop_s=0.1)
@serve.ingress(_web)
class Recommender:
    """A replica: answers requests of ``serve_http``."""

    def __init__(self, config: ServeConfig, load: Callable[[], Served]):
        torch.set_num_threads(config.threads)
        self.config, self.served = config, load()
        self.max_body_bytes = config.max_body_kib << 10
        self.batcher: Batcher[Question, Answer] = Batcher(
            partial(answers, self.served.ranker),
            max_batch=config.max_batch,
            wait_s=config.batch_wait_ms / 1e3,
        )

    async def recommend(self, request: RecommendRequest) -> RecommendAnswer:
        """The best items for a user."""
        most = self.config.max_k
        require(request.k <= most, f"k is {request.k}; this service gives {most} items at most")
        question = ask_best(
            self.served.ranker,
            request.interactions,
            request.k,
            user_features=request.user_features,
            exclude_seen=request.exclude_seen,
            candidates=request.candidates,
        )
        best: Any = await self.batcher.ask(question)
        items = [Item(item=one.item, score=one.score) for one in best]
        return RecommendAnswer(items=items, unknown_items=question.unknown_items)

    async def score(self, request: ScoreRequest) -> ScoreAnswer:
        """What a user will give certain items."""
        question = ask_scores(
            self.served.ranker,
            request.interactions,
            request.items,
            user_features=request.user_features,
        )
        scores: Any = await self.batcher.ask(question)
        return ScoreAnswer(scores=scores, unknown_items=question.unknown_items)

    def health(self) -> Health:
        """Whether the service is up, and what it serves."""
        served = self.served
        num_items = len(served.ranker.new_users.items)
        return Health(status="ok", run=served.run, step=served.step, items=num_items)


def bound(config: ServeConfig, load: Callable[[], Served]) -> serve.Application:
    """The application of what ``load`` gives in each replica."""
    deployment: serve.Deployment = Recommender.options(  # type: ignore[attr-defined]
        num_replicas=config.replicas,
        ray_actor_options={"num_cpus": config.threads, "num_gpus": _gpus(config)},
        # All wait at the replicas, where the next batch gathers while one is computed. Serve's own
        # queue offers what it holds with growing pauses, in which replicas idle.
        max_ongoing_requests=config.max_batch + config.max_queued,
        max_queued_requests=config.max_queued,
    )
    return deployment.bind(config, load)


def _gpus(config: ServeConfig) -> float:
    if config.gpus_per_replica is not None:
        return config.gpus_per_replica
    return float(ray.cluster_resources().get("GPU", 0) > 0)
