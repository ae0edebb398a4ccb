"""The Dockerfile builds from what is in the repository, and its node is closed."""

import subprocess
import sys
import tomllib

import pytest
from edited_files import CLUSTER, assert_says, said_of

from cluster.checks.dockerfile import instructions, is_in_context
from cluster.checks.problem import ROOT, pinned_ray
from cluster.dependencies import dependencies

FILE = "Dockerfile"
PYPROJECT = ROOT / "pyproject.toml"


@pytest.mark.parametrize(
    "old, new, expected",
    [
        ("=python:3.11-slim-bookworm", "=python", "python is another image tomorrow"),
        (
            "FROM ${PYTHON_IMAGE} AS",
            "FROM python:latest AS",
            "python:latest is another image tomorrow",
        ),
        ("COPY configs configs", "COPY config configs", "config does not exist in this repository"),
        (
            "COPY configs configs",
            "COPY docs docs",
            "docs is kept out of the build by .dockerignore",
        ),
        (
            "--no-cache-dir --constraint constraints.txt",
            "--no-cache-dir",
            "pip without --constraint",
        ),
        ('--index-url "${TORCH_INDEX}"', "--index-url https://index", "belongs into an ARG"),
        ("USER ${USER_ID}", "USER ray", "ray; expected a number above 0"),
        ("USER ${USER_ID}", "", "root; expected a number above 0"),
        ("USER_ID=1000", "USER_ID=0", "expected a number above 0"),
        ("ENV HOME=", "ENV HOUSE=", "no HOME: ray up would take /root"),
        ("RAY_AUTH_MODE=token", "RAY_AUTH=token", "no RAY_AUTH_MODE: a node would start without"),
        ("rsync tini", "tini", "no rsync: ray up copies files with it"),
        ("openssh-client ", "", "no openssh-client: the head of ray up reaches workers"),
        ("rsync tini", "rsync", "no tini: Ray's leftovers would stay"),
        ('["tini", "--"]', '["bash"]', "expected tini: Ray's leftovers would stay"),
        (
            "RUN useradd",
            "RUN export RAY_AUTH_TOKEN=a; useradd",
            "a secret stays in the image's layers",
        ),
    ],
)
def test_a_dockerfile_that_would_not_build_or_stand_open_fails_here(old, new, expected, tmp_path):
    assert_says(said_of(FILE, old, new, tmp_path), expected)


@pytest.mark.parametrize(
    "path, is_in",
    [
        ("greatmeta_dist/engine/lanes.py", True),
        ("pyproject.toml", True),
        ("cluster/dependencies.py", True),
        ("stores/first/manifest.json", False),
        (".git/config", False),
        (".venv/bin/python", False),
        ("cluster/kuberay/rayjob.yaml", False),
    ],
)
def test_only_what_the_image_needs_goes_to_the_builder(path, is_in):
    assert is_in_context(path) is is_in


def test_the_image_gets_what_pyproject_names_and_the_dashboard_of_the_pinned_ray():
    done = subprocess.run(
        [sys.executable, CLUSTER / "dependencies.py", PYPROJECT, "cluster"],
        capture_output=True,
        text=True,
        check=True,
    )
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    assert set(project["dependencies"]) < set(done.stdout.splitlines())
    assert "ray[default]>=2.60" in done.stdout.splitlines()
    assert pinned_ray() == "2.60.0"
    with pytest.raises(KeyError):
        dependencies(PYPROJECT, "clusters")


def test_all_that_the_image_installs_is_of_tested_versions():
    pinned = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    for requirement in dependencies(PYPROJECT, "cluster"):
        name = requirement.partition(">=")[0].partition("[")[0].lower().replace("_", "-")
        assert name in pinned, requirement


def test_every_kind_of_instruction_is_read_whole():
    steps = list(instructions((CLUSTER / FILE).read_text()))
    assert {s.name for s in steps} == {
        "ARG", "FROM", "WORKDIR", "COPY", "RUN", "USER", "ENV", "ENTRYPOINT", "CMD",
    }  # fmt: skip
    assert all("\\" not in s.words for s in steps)
