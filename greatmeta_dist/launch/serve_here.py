"""The service on this machine, in a Ray of its own, until it is stopped."""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

# Before Ray, which reads its settings when it is imported.
from greatmeta_dist.launch.ray_cluster import connected  # isort: skip

# Serve ends its HTTP process, and starts another one, where it does not answer in 5 s. On a busy
# machine none would ever come up.
os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")

from ray import serve
from ray.exceptions import RayError
from ray.serve.config import HTTPOptions
from ray.serve.exceptions import RayServeException
from ray.serve.schema import LoggingConfig

from greatmeta_dist.config import ClusterConfig, ServeConfig
from greatmeta_dist.display import Display
from greatmeta_dist.launch.serve import bound, load_run
from greatmeta_dist.predict import Predictor
from greatmeta_dist.signals import noted_stop_signals
from greatmeta_dist.storage.local_copy import absolute

NAME = "greatmeta"
"""Of the application."""
LOOK_S = 0.2
"""How often it is looked whether the service shall stop."""


def serve_here(run: str | Path, config: ServeConfig, display: Display) -> None:
    """Serve a run until Ctrl-C or SIGTERM; requests under way are finished then.

    Raises ``InputError`` where the run cannot be loaded.
    """
    predictor = Predictor.load(run, warn=display.say)  # a bad run is one line, and at once
    step = predictor.step
    del predictor
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    cluster = ClusterConfig(kind="ray", threads=config.replicas * config.threads)
    is_up = False

    def stop_at_once() -> None:
        if not is_up:
            raise KeyboardInterrupt

    with noted_stop_signals(stop_at_once) as stop, connected(cluster, display):
        with _errors_in_one_line():
            start(config)
            serve.run(bound(config, partial(load_run, absolute(run))), name=NAME)
        is_up = True
        display.say(
            f"serving {run}, step {step}, at {address(config)}; stop with Ctrl-C. "
            f"How to ask: {address(config)}/docs"
        )
        while not stop.is_received:
            time.sleep(LOOK_S)
        display.say("stopping; requests under way are finished")
        serve.delete(NAME)  # which waits for them; all else ends with Ray


@contextmanager
def _errors_in_one_line() -> Iterator[None]:
    """Raise ``RuntimeError`` with the last line of an error of Ray's, which holds the cause."""
    try:
        yield
    except (RayError, RayServeException, RuntimeError) as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        cause = lines[-1].strip() if lines else type(error).__name__
        raise RuntimeError(f"the service did not start: {cause}") from error


def start(config: ServeConfig) -> None:
    """Start Ray Serve in the Ray that this process is connected to."""
    serve.start(
        http_options=HTTPOptions(host=config.host, port=config.port),
        logging_config=LoggingConfig(log_level="WARNING", enable_access_log=False),
    )


def address(config: ServeConfig) -> str:
    """Where to ask."""
    host = "127.0.0.1" if config.host == "0.0.0.0" else config.host
    return f"http://{f'[{host}]' if ':' in host else host}:{config.port}"
