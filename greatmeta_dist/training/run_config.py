"""``RUN/config.yaml``: every option of a run, and in a comment what the run began with."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from greatmeta_dist.config import Config
from greatmeta_dist.errors import InputError, require
from greatmeta_dist.files import write_text_atomically
from greatmeta_dist.storage.local_copy import LocalCopy, absolute

CONFIG = "config.yaml"


def saved_config(run: Path) -> Config | None:
    """The config a run was started with; None where there is no run."""
    path = run / CONFIG
    content = _read_now(run)
    if content is None:
        return None
    try:
        saved = OmegaConf.create(content.decode())
        merged = OmegaConf.merge(OmegaConf.structured(Config), saved)
        missing = _missing_keys(_settings(Config()), OmegaConf.to_container(saved))
        # Defaults in place of what is missing would be another model.
        require(not missing, f"it lacks {', '.join(missing[:3])}")
        return OmegaConf.to_object(merged)  # type: ignore[return-value]
    except Exception as error:
        raise InputError(
            f"{path} is not a config of this version: {str(error).splitlines()[0]}; train anew "
            "with another run=DIR, or use the version that wrote it"
        ) from error


def write_config(run: Path, config: Config, *, note: str | None) -> None:
    """Write a run's config, below a ``note`` of one line if one is given."""
    settings = _settings(config)
    settings["store"] = absolute(config.store or "")
    comment = f"# {note}\n" if note else ""
    write_text_atomically(run / CONFIG, comment + OmegaConf.to_yaml(OmegaConf.create(settings)))


def saved_note(run: Path) -> str | None:
    """The note that a run's config was written with; None where there is none."""
    first = (_read_now(run) or b"").decode().partition("\n")[0]
    return first.removeprefix("# ") if first.startswith("# ") else None


def _read_now(run: Path) -> bytes | None:
    """A run's config as it is now: of a run on an object store, there."""
    copy = LocalCopy.of(run)
    try:
        return copy.origin.read(CONFIG) if copy else (run / CONFIG).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _settings(config: Config) -> dict[str, Any]:
    """What a run keeps of its config: how it was trained, and on which store."""
    settings = asdict(config)
    sections = [name for name, value in settings.items() if isinstance(value, dict)]
    others = ("data", "sweep", "evaluate", "serve", "submit")
    kept = ("store", "run", *(name for name in sections if name not in others))
    return {name: value for name, value in settings.items() if name in kept}


def _missing_keys(expected: dict[str, Any], saved: Any, prefix: str = "") -> list[str]:
    """The options that a saved config does not have."""
    if not isinstance(saved, dict):
        return [f"{prefix}{key}" for key in expected]
    missing = [f"{prefix}{key}" for key in expected if key not in saved]
    for key, value in expected.items():
        if isinstance(value, dict) and key in saved:
            missing += _missing_keys(value, saved[key], f"{prefix}{key}.")
    return missing
