"""The shipped files have no problem, and the command says so in one line each."""

import subprocess
import sys

import pytest
from edited_files import CLUSTER

from cluster.check import file_problems
from cluster.checks.problem import PLACEHOLDER, ROOT
from greatmeta_dist.errors import InputError

SHIPPED = [
    CLUSTER / "Dockerfile",
    *sorted(CLUSTER.glob("*/*.yaml")),
    *sorted(CLUSTER.glob("*/*.sh")),
]
each_file = pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.name)


def check(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cluster.check", *words],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin"} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@each_file
def test_a_shipped_file_has_no_problem_but_its_placeholders(path):
    assert list(file_problems(path, schemas=None, is_template=True)) == []
    named = [p.text for p in file_problems(path, schemas=None)]
    assert len(named) == path.read_text().replace(f"{PLACEHOLDER}…", "").count(PLACEHOLDER) or (
        path.suffix == ".yaml" and named  # an anchor is reported wherever it is used
    )


def test_every_file_for_a_cluster_is_checked():
    others = {"README.md", "__init__.py", "check.py", "dependencies.py"}
    files = [p for p in CLUSTER.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    assert {p for p in files if p.name not in others and p.parent.name != "checks"} == set(SHIPPED)


@pytest.mark.kuberay
def test_the_command_checks_all_shipped_files(kuberay):
    files = [str(path.relative_to(ROOT)) for path in SHIPPED]
    done = check("--template", *files, GREATMETA_KUBERAY=str(kuberay))
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith("no problem in cluster/Dockerfile, ")
    assert done.stderr == ""


def test_the_command_says_each_problem_in_one_line_and_fails():
    done = check("cluster/kuberay/storage.yaml", "nowhere.yaml")
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "cluster/kuberay/storage.yaml: spec.storageClassName: "
        "REPLACE-CLASS is still to be replaced by a value of yours",
        "nowhere.yaml: nowhere.yaml does not exist",
    ]
    assert "name a folder with KubeRay's ray.io_rayjobs.yaml" in done.stderr


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", "is empty"),
        ("kind: RayJobs", "kind: RayJobs is unknown here; known are RayJob, RayCluster"),
        ("a: 1", "kind: None is unknown here"),
        ("- 1", "kind: None is unknown here"),
        ("a: [1", "this is no YAML"),
        ("kind: RayJob\nspec: {a: 1, b: 2, a: 3}", "line 2: the key a comes twice"),
    ],
)
def test_a_file_that_is_none_of_ours_is_refused(text, expected, tmp_path):
    (tmp_path / "file.yaml").write_text(text)
    with pytest.raises(InputError) as refusal:
        list(file_problems(tmp_path / "file.yaml", schemas=None))
    assert expected in str(refusal.value)
    assert "\n" not in str(refusal.value)
