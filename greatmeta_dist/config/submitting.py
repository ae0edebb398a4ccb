"""Options of ``greatmeta submit``, and of ``greatmeta jobs``."""

from dataclasses import dataclass

from greatmeta_dist.config.checks import at_least
from greatmeta_dist.errors import require


@dataclass
class SubmitConfig:
    """A command that runs as a job of a Ray cluster."""

    detach: bool = False
    """Whether to end once the job has passed its checks, and not to follow it. ``--detach`` is the
    same."""
    wheel: str | None = None
    """Wheel of this package to send along: nodes then run that, and not what they have. What it
    depends on they must have. null sends none."""
    python: str = "python"
    """Python that starts the job, on the cluster: a name on its nodes' PATH, or a whole path."""
    stop_wait_s: int = 300
    """Seconds that the job has for its last checkpoint when it is stopped."""

    def __post_init__(self) -> None:
        at_least("submit.stop_wait_s", self.stop_wait_s, 1)
        require(bool(self.python), "submit.python is empty; expected a command such as python3")
