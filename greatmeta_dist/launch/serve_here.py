"""The service on this machine, in a Ray of its own, until it is stopped."""

import logging
import time
from functools import partial
from pathlib import Path

# Before Ray, which reads its settings when it is imported.
from greatmeta_dist.launch.ray_cluster import connected  # isort: skip

from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.exceptions import RayServeException
from ray.serve.schema import LoggingConfig

from greatmeta_dist.config import ClusterConfig, ServeConfig
from greatmeta_dist.display import Display
from greatmeta_dist.launch.serve import bound, load_run
from greatmeta_dist.predict import Predictor
from greatmeta_dist.signals import noted_stop_signals

NAME = "greatmeta"
"""Of the application."""
LOOK_S = 0.2
"""How often it is looked whether the service shall stop."""


def serve_here(run: Path, config: ServeConfig, display: Display) -> None:
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
        try:
            start(config)
            serve.run(bound(config, partial(load_run, str(run.absolute()))), name=NAME)
        except RayServeException as error:
            raise RuntimeError(f"the service did not start: {error}") from error
        is_up = True
        display.say(
            f"serving {run}, step {step}, at {address(config)}; stop with Ctrl-C. "
            f"How to ask: {address(config)}/docs"
        )
        while not stop.is_received:
            time.sleep(LOOK_S)
        display.say("stopping; requests under way are finished")
        serve.delete(NAME)  # which waits for them; all else ends with Ray


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
