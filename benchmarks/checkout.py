"""The program of another commit, beside the one that this benchmark stands in."""

import io
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.environment import ROOT

BEFORE = "d9985ce"
"""The last commit before the house was redrawn: what benchmarks compare with."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Program:
    """A version of ``greatmeta``, run by this Python."""

    name: str
    folder: Path
    """The checkout it runs from."""
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))

    def start(self, *words: str, log: Path) -> subprocess.Popen[bytes]:
        """Start a command in a process group of its own; what it prints is added to ``log``."""
        command = [sys.executable, "-m", "greatmeta_dist", *words]
        # A checkout comes before whatever this Python has installed.
        environ = {**self.environ, "PYTHONPATH": str(self.folder)}
        with log.open("ab") as out:
            return subprocess.Popen(
                command,
                cwd=self.folder,
                env=environ,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def run(self, *words: str, log: Path) -> float:
        """Run a command to its end; its seconds. Raises ``RuntimeError`` where it fails."""
        start = time.monotonic()
        process = self.start(*words, log=log)
        try:
            code = process.wait()
        except BaseException:  # Ctrl-C does not reach another session
            kill_group(process)
            raise
        if code:
            raise RuntimeError(
                f"{self.name}: greatmeta {' '.join(words)} ended with {code}: "
                f"{log.read_text()[-2000:]}"
            )
        return time.monotonic() - start


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """End a started command, and whatever it started in its group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def this_program(environ: Mapping[str, str] | None = None) -> Program:
    """The version that this benchmark stands in."""
    return Program("new", ROOT, dict(os.environ) if environ is None else environ)


def check_out(commit: str, folder: Path, environ: Mapping[str, str] | None = None) -> Program:
    """Write the program of a commit into a new folder. The repository is left as it is.

    Raises ``CalledProcessError`` where there is no such commit, or it cannot be compiled.
    """
    command = [
        "git",
        "-C",
        str(ROOT),
        "archive",
        "--format=tar",
        commit,
        "pyproject.toml",
        "README.md",
        "greatmeta_dist",
        "configs",
    ]
    archive = subprocess.run(command, check=True, capture_output=True).stdout
    folder.mkdir(parents=True)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
    # ``greatmeta_dist.configs`` is this folder by a line of pyproject.toml alone: without the link
    # Python would find the configs of the version that is installed.
    (folder / "greatmeta_dist" / "configs").symlink_to("../configs")
    if (folder / "greatmeta_dist" / "meta" / "native").exists():
        build = "from setuptools import setup; setup()"
        command = [sys.executable, "-c", build, "-q", "build_ext", "--inplace"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return Program(commit, folder, dict(os.environ) if environ is None else environ)


def without_thread_variables() -> dict[str, str]:
    """This process's environment as a user's is, where nobody has chosen numbers of threads."""
    return {name: value for name, value in os.environ.items() if name not in THREAD_VARIABLES}
