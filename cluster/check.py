"""Check cluster files before a cluster does: ``python -m cluster.check [--template] FILE…``.

It says what is wrong in one line each, and ends with 1 if anything is. Files are known by what is
in them: a RayJob, a RayCluster, the YAML of ``ray up``, a script for Slurm, a Dockerfile.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from cluster.checks.dockerfile import dockerfile_problems
from cluster.checks.kubernetes import claim_problems, policy_problems
from cluster.checks.problem import (
    Problem,
    Problems,
    mapping,
    pinned_ray,
    placeholders,
    read_yaml,
)
from cluster.checks.ray_cluster import ray_cluster_problems
from cluster.checks.ray_job import ray_job_problems
from cluster.checks.ray_up import ray_up_problems
from cluster.checks.schema import FILES, published_schema, schema_problems
from cluster.checks.slurm import slurm_problems
from greatmeta_dist.errors import InputError, require

SCHEMAS = "GREATMETA_KUBERAY"
"""The environment variable that names the folder of KubeRay's schemas."""


def file_problems(path: Path, *, schemas: Path | None, is_template: bool = False) -> Problems:
    """All that is wrong with a file; raises ``InputError`` where it cannot be read as one of ours.

    Without ``schemas``, keys and types of KubeRay's manifests are not looked at. A template may
    hold values that are still to be replaced.
    """
    require(path.is_file(), f"{path} is no file; name one of cluster/, or a copy of it")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text: {error}") from error
    if path.name.startswith("Dockerfile"):
        yield from dockerfile_problems(text)
    elif path.suffix in (".sh", ".sbatch"):
        yield from slurm_problems(text)
        if not is_template:
            yield from placeholders(text.splitlines())
    else:
        documents = read_yaml(text)
        require(bool(documents), f"{path} is empty")
        for document in documents:
            yield from document_problems(document, schemas=schemas)
            if not is_template:
                yield from placeholders(document)


def document_problems(document: Any, *, schemas: Path | None) -> Problems:
    """All that is wrong with one YAML document; raises ``InputError`` where its kind is unknown."""
    content = mapping(document)
    kind = str(content.get("kind", "ray up" if "provider" in content else None))
    rules: dict[str, Callable[[dict[str, Any]], Problems]] = {
        "RayJob": partial(ray_job_problems, tested=pinned_ray()),
        "RayCluster": partial(ray_cluster_problems, tested=pinned_ray()),
        "PersistentVolumeClaim": claim_problems,
        "NetworkPolicy": policy_problems,
        "ray up": partial(ray_up_problems, tested=pinned_ray()),
    }
    require(kind in rules, f"kind: {kind} is unknown here; known are {', '.join(rules)}")
    if kind in FILES and schemas is not None:
        yield from schema_problems(document, published_schema(kind, schemas))
    yield from rules[kind](content)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m cluster.check", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument(
        "--schemas",
        type=Path,
        default=os.environ.get(SCHEMAS),
        metavar="FOLDER",
        help=f"folder with KubeRay's {' and '.join(FILES.values())}; ${SCHEMAS} if left out",
    )
    parser.add_argument(
        "--template", action="store_true", help="values that start with REPLACE- are not reported"
    )
    return parser.parse_args()


def _all_problems(arguments: argparse.Namespace) -> Iterator[tuple[Path, Problem]]:
    for path in arguments.files:
        schemas = None if arguments.schemas is None else Path(arguments.schemas)
        try:
            for problem in file_problems(path, schemas=schemas, is_template=arguments.template):
                yield path, problem
        except InputError as error:
            yield path, Problem("", str(error))


def main() -> int:
    """Print every problem; 1 if there is any."""
    arguments = _arguments()
    if arguments.schemas is None:
        print(
            f"keys and types of Kubernetes files are not checked: name a folder with KubeRay's "
            f"{' and '.join(FILES.values())} by --schemas",
            file=sys.stderr,
        )
    count = 0
    for path, problem in _all_problems(arguments):
        print(": ".join(filter(None, (str(path), problem.where, problem.text))))
        count += 1
    if not count:
        print(f"no problem in {', '.join(map(str, arguments.files))}")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
