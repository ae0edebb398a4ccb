"""``greatmeta serve``: a run that recommends over HTTP."""

import socket
from importlib.util import find_spec

from greatmeta_dist.config import Config
from greatmeta_dist.display import Display
from greatmeta_dist.errors import InputError, require

EXTRA = ("fastapi", "uvicorn", "aiohttp")
"""Packages that only serving needs."""


def serve_run(config: Config) -> None:
    """Serve a run until it is stopped. Raises ``InputError``."""
    missing = [name for name in EXTRA if find_spec(name) is None]
    require(
        not missing,
        f"serving needs packages that are not installed ({', '.join(missing)}); install them: "
        "pip install 'greatmeta_dist[serve]'",
    )
    _require_free(config.serve.host, config.serve.port)
    from greatmeta_dist.launch.serve_here import serve_here

    serve_here(config.run or "", config.serve, Display())


def _require_free(host: str, port: int) -> None:
    """Raise ``InputError`` unless this process may listen at an address: Serve retries for long."""
    try:
        family, kind, number, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, number) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(place)
    except OSError as error:
        raise InputError(
            f"cannot listen at {host}:{port} ({error.strerror or error}); choose another "
            "address with serve.host, or another port with serve.port"
        ) from error
