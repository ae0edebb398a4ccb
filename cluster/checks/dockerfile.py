"""Rules for the Dockerfile: it builds from this repository, and its node is closed."""

import re
import shlex
from collections.abc import Iterator
from fnmatch import fnmatch
from typing import NamedTuple

from cluster.checks.problem import ROOT, Problem, Problems

PACKAGES = {
    "tini": "Ray's leftovers would stay as dead processes",
    "rsync": "ray up copies files with it",
    "openssh-client": "the head of ray up reaches workers with it",
}
VARIABLES = {
    "HOME": "ray up would take /root for the home folder",
    "RAY_AUTH_MODE": "a node would start without a token",
}


class Instruction(NamedTuple):
    """One instruction of a Dockerfile; lines that go on are joined."""

    line: int
    name: str
    words: str


def instructions(text: str) -> Iterator[Instruction]:
    """The instructions in order, without comments."""
    start = 0
    parts: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#") or not (line.strip() or parts):
            continue
        start = start if parts else number
        parts.append(line.rstrip("\\").strip())
        if not line.endswith("\\"):
            name, _, words = " ".join(parts).partition(" ")
            yield Instruction(start, name.upper(), words)
            parts = []


def dockerfile_problems(text: str) -> Problems:
    """All rules."""
    steps = list(instructions(text))
    arguments = dict(s.words.partition("=")[::2] for s in steps if s.name == "ARG")
    last = max((k for k, s in enumerate(steps) if s.name == "FROM"), default=0)
    for step in steps:
        where = f"line {step.line}"
        if step.name == "FROM":
            yield from _base_problems(where, step.words, arguments)
        elif step.name == "COPY" and "--from=" not in step.words:
            yield from _copy_problems(where, step.words)
        elif step.name == "RUN":
            yield from _pip_problems(where, step.words)
    yield from _final_problems(steps[last:])


def is_in_context(path: str) -> bool:
    """Whether .dockerignore lets a path of the repository into the build."""
    is_in = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        if line and not line.startswith("#"):
            under = any(fnmatch(path, p) for p in (pattern, f"{pattern}/*"))
            is_in = line.startswith("!") if under else is_in
    return is_in


def _base_problems(where: str, words: str, arguments: dict[str, str]) -> Problems:
    image = words.split()[0]
    name = re.fullmatch(r"\$\{?(\w+)\}?", image)
    image = arguments.get(name[1], "") if name else image
    tag = image.rpartition("/")[2].partition(":")[2]
    if tag in ("", "latest") and "@sha256:" not in image:
        yield Problem(where, f"{image or words} is another image tomorrow; name a tag that stays")


def _copy_problems(where: str, words: str) -> Problems:
    for source in shlex.split(words)[:-1]:
        if source.startswith("--"):
            continue
        if not (ROOT / source).exists():
            yield Problem(where, f"{source} does not exist in this repository")
        elif not is_in_context(source):
            yield Problem(where, f"{source} is kept out of the build by .dockerignore")


def _pip_problems(where: str, words: str) -> Problems:
    for command in re.split(r"&&|;", words):
        if re.search(r"\bpip install\b", command) and "--no-index" not in command:
            if "--constraint" not in command:
                yield Problem(where, "pip without --constraint: versions that nobody has tested")
            if re.search(r"https?://", command):
                yield Problem(where, "the address of an index belongs into an ARG")
        if re.search(r"\b(RAY_AUTH_TOKEN|PASSWORD)\b", command):
            yield Problem(where, "a secret stays in the image's layers for all to read")


def _final_problems(steps: list[Instruction]) -> Problems:
    text = {name: [s.words for s in steps if s.name == name] for name in ("USER", "ENV", "RUN")}
    user = (text["USER"] or ["root"])[-1]
    arguments = dict(s.words.partition("=")[::2] for s in steps if s.name == "ARG")
    number = arguments.get(user.strip("${}"), user)
    if not number.isdigit() or int(number) == 0:
        yield Problem("USER", f"{user}; expected a number above 0: Kubernetes must see it")
    for name, reason in VARIABLES.items():
        if not re.search(rf"\b{name}=", " ".join(text["ENV"])):
            yield Problem("ENV", f"no {name}: {reason}")
    for name, reason in PACKAGES.items():
        if not re.search(rf"apt-get install[^&;]*\b{name}\b", " ".join(text["RUN"])):
            yield Problem("RUN", f"no {name}: {reason}")
    if not any(s.name == "ENTRYPOINT" and "tini" in s.words for s in steps):
        yield Problem("ENTRYPOINT", f"expected tini: {PACKAGES['tini']}")
