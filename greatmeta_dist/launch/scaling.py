"""When a group of Ray workers makes way for another: its node goes, or there is room for more.

Ray Train ends groups at once when their size changes, and begins with nodes that are to be taken
away. Here it asks them for a checkpoint first, and leaves such nodes out.
"""

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from greatmeta_dist.launch.ray_cluster import ray  # isort: split

from ray._common.constants import RAY_WARN_BLOCKING_GET_INSIDE_ASYNC_ENV_VAR
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.constants import get_env_vars_to_propagate
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import (
    ElasticScalingPolicy,
    FixedScalingPolicy,
    NoopDecision,
    ScalingDecision,
    ScalingPolicy,
)
from ray.train.v2.api.config import ScalingConfig
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from greatmeta_dist.training.regroup import Regroup

logger = logging.getLogger(__name__)
ANSWER_S = 5.0
"""How long Ray may take to say what resources there are."""


class Trainer(TorchTrainer):
    """Ray Train's trainer, with a policy of ours; its group can be ended from another thread."""

    def __init__(self, policy: ScalingPolicy, *arguments: Any, **options: Any):
        super().__init__(*arguments, scaling_config=policy.scaling_config, **options)
        self._policy = policy
        self._controller: Any = None
        self._is_ended = False

    def end(self) -> None:
        """End the group, and what would start another one; ``fit`` then raises at once.

        Both live as long as the connection to Ray, which may be another's.
        """
        self._is_ended = True
        if self._controller is not None:
            with suppress(ray.exceptions.RayError):
                ray.kill(self._controller)

    def _initialize_and_run_controller(self, **options: Any) -> Any:
        """Do what Ray Train's own does, and keep the controller, which ``end`` needs."""
        options |= {"scaling_policy": self._policy}
        variables = {RAY_WARN_BLOCKING_GET_INSIDE_ASYNC_ENV_VAR: "0"} | get_env_vars_to_propagate()
        self._controller = (
            ray.remote(TrainController)
            .options(
                num_cpus=0, scheduling_strategy=on_this_node(), runtime_env={"env_vars": variables}
            )
            .remote(**options)
        )
        if self._is_ended:
            self.end()
        ray.get(self._controller.run.remote())
        return ray.get(self._controller.get_result.remote())


def on_this_node() -> NodeAffinitySchedulingStrategy:
    """Where an actor of the driver's goes: it lives and ends with the driver."""
    node = ray.get_runtime_context().get_node_id()
    return NodeAffinitySchedulingStrategy(node, soft=False)


def policy_of(scaling_config: ScalingConfig, mailbox: Any) -> ScalingPolicy:
    """The policy for a range of workers or for a fixed number of them."""
    kind = ElasticPolicy if scaling_config.elasticity_enabled else FixedPolicy
    return kind(scaling_config, mailbox)


class _AsksFirst:
    """Comes before a policy of Ray Train: asks a group to make way, where that would resize it."""

    def __init__(self, scaling_config: ScalingConfig, mailbox: Any):
        super().__init__(scaling_config)  # type: ignore[call-arg]
        self._mailbox = mailbox

    def make_decision_for_running_worker_group(
        self, worker_group_state: Any, worker_group_status: Any
    ) -> ScalingDecision:
        """Called every two seconds."""
        self._maybe_send_resource_request()  # type: ignore[attr-defined]
        _ask(self._mailbox, lambda: self._reason(worker_group_state))
        return NoopDecision()

    def _reason(self, group: Any) -> Regroup | None:
        """Why the group should make way now, if it should."""
        return preemption(group)


class FixedPolicy(_AsksFirst, FixedScalingPolicy):
    """As many workers as asked for; they leave nodes that are to be taken away."""


class ElasticPolicy(_AsksFirst, ElasticScalingPolicy):
    """As many workers as there is room for; they also make way for a larger group."""

    def _reason(self, group: Any) -> Regroup | None:
        return super()._reason(group) or self._growth(group)

    def _growth(self, group: Any) -> Regroup | None:
        """A larger power of two, where others leave room for it and the group is old enough."""
        interval_s = self.scaling_config.elastic_resize_monitor_interval_s
        if time.monotonic() - group.start_time < interval_s:
            return None
        reserved = self._get_reserved_resources()
        now = _power_of_two(group.num_workers)
        if reserved is None or _power_of_two(self._count_possible_workers(reserved)) <= now:
            return None
        free = ray._private.state.available_resources_per_node()
        draining = ray._private.state.state.get_draining_nodes()
        free = {node: resources for node, resources in free.items() if node not in draining}
        size = _power_of_two(group.num_workers + self._count_possible_workers(free))
        if size <= now:
            return None
        return Regroup("growth", f"the cluster has room for {size} workers, and {now} train")

    def _get_reserved_resources(self) -> Any:
        """What is there for this training now, without nodes that are to be taken away."""
        answer = self._autoscaling_coordinator.get_reserved_resources.remote(
            self._requester_id, recompute=True
        )
        try:
            reserved = ray.get(answer, timeout=ANSWER_S)
        except ray.exceptions.RayError:
            return None
        draining = ray._private.state.state.get_draining_nodes()
        return {node: resources for node, resources in reserved.items() if node not in draining}


def _ask(mailbox: Any, look: Callable[[], Regroup | None]) -> None:
    """Ask the group to make way, where there is a reason."""
    try:
        regroup = look()
    except Exception:  # a cluster that does not answer ends no training; it is asked again
        logger.warning("cannot see the nodes of the cluster", exc_info=True)
        return
    if regroup is not None:
        mailbox.regroup.remote(regroup)


def preemption(group: Any) -> Regroup | None:
    """Whether a node of the group is to be taken away: Ray has had notice, or it got SIGTERM."""
    draining = ray._private.state.state.get_draining_nodes()
    nodes = {worker.metadata.node_id: worker.metadata.node_ip for worker in group.workers}
    going = sorted(f"{ip} ({node[:8]})" for node, ip in nodes.items() if node in draining)
    if not going:
        return None
    plural = "s are" if len(going) > 1 else " is"
    return Regroup("preemption", f"node{plural} to be taken away: {', '.join(going)}")


def _power_of_two(number: int) -> int:
    """The largest power of two that is not above a number; 0 for 0."""
    return 1 << number.bit_length() - 1 if number else 0
