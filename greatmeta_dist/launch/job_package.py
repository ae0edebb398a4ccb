"""What a job needs from here, in one small file: its config and, if asked for, this package.

Unpacked on the cluster, it is the folder in which the job starts.
"""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from greatmeta_dist.errors import InputError, require

JOB_FILE = "greatmeta_job.json"
PACKAGE = "greatmeta_dist/__init__.py"
CHECKED = "greatmeta: the cluster has what this job needs"
"""How the line begins that a job prints when it has passed its checks."""
MAX_BYTES = 100 << 20
"""The Jobs API refuses a package of this size."""


@dataclass(frozen=True)
class JobSpec:
    """What a job is to do."""

    version: str
    """Of the package that checked it."""
    command: str
    words: list[str]
    """The options, as they were typed."""
    config: str
    """All options, in YAML."""
    may_wait: bool
    """Whether the cluster may lack what is asked for, and the job shall wait for it."""


def write_package(path: Path, spec: JobSpec, wheel: Path | None) -> int:
    """Write the job's file, and a wheel's content beside it, as a zip; returns its bytes.

    Raises ``InputError`` where the wheel is none of this package, or the whole is too large.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as package:
        # A fixed time, so that the same job is the same file and is uploaded once.
        entry = zipfile.ZipInfo(JOB_FILE, (1980, 1, 1, 0, 0, 0))
        package.writestr(entry, json.dumps(spec.__dict__, indent=1))
        if wheel is not None:
            _copy_wheel(wheel, package)
    num_bytes = path.stat().st_size
    require(
        num_bytes < MAX_BYTES,
        f"the job needs an upload of {num_bytes / 2**20:.0f} MiB, and the Jobs API takes less than "
        f"{MAX_BYTES >> 20}; install the package in the nodes' image and leave submit.wheel out",
    )
    return num_bytes


def read_job_spec(folder: Path) -> JobSpec:
    """What the job that starts in a folder is to do; raises ``InputError``."""
    try:
        content: dict[str, Any] = json.loads((folder / JOB_FILE).read_text())
        return JobSpec(**content)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{folder / JOB_FILE} is no job of this version ({error}); greatmeta submit writes it"
        ) from error


def _copy_wheel(wheel: Path, package: zipfile.ZipFile) -> None:
    """Add a wheel's files, as installing it would place them."""
    how = "make one in a clone of the repository: pip wheel --no-deps --wheel-dir dist ."
    try:
        with zipfile.ZipFile(wheel) as source:
            names = source.namelist()
            require(
                PACKAGE in names,
                f"submit.wheel={wheel} is no wheel of greatmeta_dist: it has no {PACKAGE}; {how}",
            )
            for name in names:
                package.writestr(source.getinfo(name), source.read(name))
    except (OSError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"submit.wheel={wheel} cannot be read ({reason}); {how}") from error
