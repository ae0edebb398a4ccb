"""The shipped files have no problem, and the command says so in one line each."""

import contextlib
import copy
import json
import subprocess
import sys

import pytest
from edited_files import CLUSTER, plain

from cluster.check import document_problems, file_problems
from cluster.checks import ray_up
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
    code = "\n".join(line.partition("#")[0] for line in path.read_text().splitlines())
    named = [problem.text.split()[0] for problem in file_problems(path, schemas=None)]
    assert sorted(named) == sorted(set(PLACEHOLDER.findall(code)))


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
        "nowhere.yaml: nowhere.yaml is no file; name one of cluster/, or a copy of it",
    ]
    assert "name a folder with KubeRay's ray.io_rayjobs.yaml" in done.stderr


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "file.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"file\.yaml is no text"):
        list(file_problems(tmp_path / "file.yaml", schemas=None))


@pytest.mark.parametrize("wrong", [3, [1], {"a": [1]}], ids=["number", "list", "mapping"])
@pytest.mark.parametrize("path", sorted(CLUSTER.glob("*/*.yaml")), ids=lambda p: p.name)
def test_a_value_of_a_wrong_type_anywhere_is_survived(path, wrong, monkeypatch):
    monkeypatch.setattr(ray_up, "_rays_own_check", lambda document: None)  # it takes long
    document = json.loads(json.dumps(plain(path)))  # parts that anchors share become their own
    for keys in paths(document):
        changed = copy.deepcopy(document)
        inner = changed
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = wrong
        with contextlib.suppress(InputError):
            list(document_problems(changed, schemas=None))


def paths(value, keys=()):
    """The keys that lead to every value inside a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield (*keys, key)
        if isinstance(inner, (dict, list)):
            yield from paths(inner, (*keys, key))


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
