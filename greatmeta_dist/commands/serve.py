"""``greatmeta serve``: a run that recommends over HTTP."""

from importlib.util import find_spec
from pathlib import Path

from greatmeta_dist.config import Config
from greatmeta_dist.display import Display
from greatmeta_dist.errors import require

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
    from greatmeta_dist.launch.serve_here import serve_here

    serve_here(Path(config.run or ""), config.serve, Display())
