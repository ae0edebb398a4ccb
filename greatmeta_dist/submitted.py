"""``python -m greatmeta_dist.submitted``: what a submitted job runs, in the folder it starts in.

First it is checked what the cluster has, then the command runs with the config that was checked
where it was submitted.
"""

import os
import sys
from pathlib import Path
from typing import Any

import greatmeta_dist
from greatmeta_dist.__main__ import main
from greatmeta_dist.config import Config
from greatmeta_dist.errors import InputError, require
from greatmeta_dist.launch.access import prepare_to_join
from greatmeta_dist.launch.job_package import CHECKED, JobSpec, read_job_spec

MAIN_FILES = {"run": ("config.yaml",), "store": ("manifest.json",)}
"""The file by which a run, or a store, is known."""
READ = {
    "prepare": ("data.path",),
    "train": ("store",),
    "evaluate": ("run", "users", "against"),
    "recommend": ("run", "users", "candidates", "items", "ratings"),
    "export": ("run",),
}
"""Options that name what a command reads."""
WRITTEN = {"prepare": ("store",), "train": ("run",), "recommend": ("out",), "export": ("out",)}
"""The option that names what a command makes."""
PATTERN = set("*?[,")
"""What a path of several files has."""


def run_job() -> None:
    """Check the cluster, then run the command. Raises ``InputError`` where a check fails."""
    spec = read_job_spec(Path.cwd())
    # Ray may delete that folder while the job runs, where nodes share a machine, and torch's
    # libraries do not load in a folder that is gone. All paths of a job are whole ones.
    os.chdir("/")
    here = greatmeta_dist.__version__
    require(
        spec.version == here,
        f"this job is of greatmeta {spec.version}, and the cluster has {here}; install one version "
        "on both sides, or send yours along with submit.wheel",
    )
    config = _config(spec)
    prepare_to_join(config.cluster)  # before Ray is imported
    from greatmeta_dist.cli import RUN
    from greatmeta_dist.launch.preflight import Folders, checked_cluster

    folders = Folders(**_places(spec.command, config))
    with checked_cluster(spec.command, config.cluster, folders, may_wait=spec.may_wait) as found:
        print(f"{CHECKED}: {found}", flush=True)
        RUN[spec.command](config, spec.words)


def _config(spec: JobSpec) -> Config:
    """The config that the job was submitted with."""
    from omegaconf import OmegaConf

    try:
        merged = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.create(spec.config))
        return OmegaConf.to_object(merged)  # type: ignore[return-value]
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"the job's config is not of the cluster's version of greatmeta: {reason}; install one "
            "version on both sides, or send yours along with submit.wheel"
        ) from error


def _places(command: str, config: Config) -> dict[str, Any]:
    """What the command reads and writes, by option; patterns are left to the command itself."""
    read = {name: _value(config, name) for name in READ[command]}
    written = {name: _value(config, name) for name in WRITTEN.get(command, ())}
    patterns = [name for name, path in read.items() if path and PATTERN & set(path)]
    return {
        "read": {
            name: "/".join([path.rstrip("/"), *MAIN_FILES.get(name, ())])
            for name, path in read.items()
            if path and name not in patterns
        },
        "written": {name: path for name, path in written.items() if path},
        "left": tuple(patterns),
    }


def _value(config: Config, name: str) -> str | None:
    section, _, option = name.rpartition(".")
    value = getattr(getattr(config, section) if section else config, option)
    return None if value is None else str(value)


def _main() -> int:
    from greatmeta_dist.cli import exit_code

    return exit_code(run_job)


if __name__ == "__main__":
    sys.exit(main(_main))
