"""Print what pyproject.toml says that the image needs, one requirement a line, for pip.

The Dockerfile installs these before it copies the code. A change of the code then rebuilds only
the last, small layer.
"""

import sys
import tomllib
from pathlib import Path


def dependencies(pyproject: Path, *extras: str) -> list[str]:
    """The requirements of the package and some extras; raises ``KeyError``."""
    project = tomllib.loads(pyproject.read_text())["project"]
    return project["dependencies"] + [
        requirement for extra in extras for requirement in project["optional-dependencies"][extra]
    ]


if __name__ == "__main__":
    print(*dependencies(Path(sys.argv[1]), *sys.argv[2:]), sep="\n")
