"""Somebody who does what the documents say: runs commands and code in small, in one folder.

What needs a cluster, the network or real data is checked instead: its options must be accepted.
"""

import re
import runpy
import shlex
import shutil
import sys
import tomllib
from pathlib import Path

from documents import ROOT, Block, Document
from shown_logs import LOGS, USERS

from greatmeta_dist.cli import main
from greatmeta_dist.options.checks import check_words
from greatmeta_dist.options.compose import compose_config, compose_job
from greatmeta_dist.options.job_words import jobs_words, submitted_words
from greatmeta_dist.options.sweep_words import SweepWords

SMALL_DATA = ["data.users=200", "data.items=270"]
"""Added to ``prepare data=synthetic``."""
SMALL_TRAINING = [
    "train.steps=4",
    "train.valid_every=2",
    "train.log_every=2",
    "priors.bayesian_mf.num_starts=1",
    "priors.content.tree_iterations=5",
]
"""Added to every training that starts."""
SMALL_CODE = {r"\bsteps=\d+": "steps=4", r"\bvalid_every=\d+": "valid_every=2"}
"""What is replaced in Python code."""
ONLY_CHECKED = (
    "cluster=ray", "cluster.address=", "cluster.workers=", "run=s3://", "store=s3://",
    "sweep.budget=",
)  # fmt: skip
"""Options of commands that are not run here: ``tests/launch`` starts groups and services,
``tests/storage`` a server of objects, and ``tests/sweep`` searches."""
NOT_RUN = ("serve", "submit", "jobs")
"""Commands that are checked alone, for the same reason."""
OTHER_PROGRAMS = ("cd", "curl", "export", "git", "kill", "ray", "serve", "kubectl")
"""Programs of others that documents may show."""
STORES = {
    "stores/first": "data=synthetic",
    "stores/mine": "data=csv data.path=log.csv data.columns.user=uid data.columns.item=iid "
    "data.columns.rating=stars",
    "stores/ml-1m": "data=movielens_1m data.path=ml-1m",
    "stores/ml-100k": "data=recbole data.path=ml-100k data.split=ml-100k/split.tsv",
    "stores/ml-100k-grown": "data=recbole data.path=ml-100k data.split=ml-100k/split.tsv",
}
"""How the stores are prepared that a document names without showing it."""
RUNS = {"runs/first": "stores/first", "runs/synthetic": "stores/first"}
"""The stores of runs that a document names without showing their training."""


class Reader:
    """Reads each document once; works in the current folder."""

    def __init__(self) -> None:
        self._read: set[str] = set()

    def read(self, document: Document) -> None:
        """Run all commands and code of a document, in order."""
        if document.name in self._read:
            return
        self._read.add(document.name)
        variables = {"__name__": "__main__"}
        for block in document.blocks("sh", "python"):
            if block.language == "sh":
                for words in block.commands():
                    run_command(words)
            elif not block.module:
                _run_code(block, variables)


def run_command(words: list[str]) -> None:
    """Run one shell command in small, or check it."""
    program, *rest = in_folder(words, Path.cwd())
    if re.fullmatch(r"\w+=.*", program):
        return run_command(rest)
    program = program.removeprefix(".venv/bin/")
    if program == "torchrun":
        program, *rest = "python", *rest[rest.index("-m") :]
    if program == "greatmeta":
        _run_ours(rest)
    elif program == "python":
        _run_python(rest)
    elif program == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(rest) <= set(targets), f"the Makefile lacks one of {rest}"
    elif program == "tensorboard":
        folder = Path(rest[rest.index("--logdir") + 1])
        if folder.name == "tensorboard":
            _have_run(folder.parent)
        assert list(folder.rglob("events.*"))
    elif program == "pip":
        _check_pip(rest)
    else:
        assert program in OTHER_PROGRAMS, f"no way to check {program}"


def in_folder(words: list[str], folder: Path) -> list[str]:
    """The words as a shell in a folder would understand them."""
    return [word.replace("$PWD", str(folder)) for word in words]


def _run_ours(words: list[str]) -> None:
    """Run ``greatmeta`` in small, in folders that suit."""
    command, *options = words or ["--help"]
    if "--help" in words:
        assert main(words) == 0
        return
    check_options(command, options)
    named = dict(word.split("=", 1) for word in options if "=" in word)
    goes_on = command == "train" and "-m" in options and "store" not in named
    is_checked_alone = any(word.startswith(ONLY_CHECKED) for word in options)
    if command in NOT_RUN or goes_on or is_checked_alone:
        return
    if command == "prepare":
        assert named.get("data.path", "log.csv") in LOGS, f"no small log for {words}"
        shutil.rmtree(named["store"], ignore_errors=True)
        if "data.from" in named:
            _have_store(named["data.from"])
        options += SMALL_DATA if named.get("data") == "synthetic" else []
    elif command == "inspect":
        assert named["data.path"] in LOGS, f"no small log for {words}"
    elif command == "train" and "store" in named:
        _have_store(named["store"])
        shutil.rmtree(named["run"], ignore_errors=True)
        options = (_first_job(options) if "-m" in options else options) + SMALL_TRAINING
    elif command == "train":  # goes on with a run
        _have_run(named["run"])
        options = ["train.steps=6" if w.startswith("train.steps=") else w for w in options]
    else:
        _have_run(named["run"])
        if command == "recommend":
            assert named["users"] in USERS, f"no small log for {words}"
            shutil.rmtree(named["out"], ignore_errors=True)
            Path(named["out"]).unlink(missing_ok=True)
        if "store" in named and not Path(named["store"]).exists():
            shutil.copytree(_store_of(named["run"]), named["store"])
    assert main([command, *options]) == 0, f"greatmeta {command} {' '.join(options)}"


def check_options(command: str, options: list[str]) -> None:
    """Check that a command takes such options; raises ``InputError``."""
    if command == "submit":
        own, inner, inner_words = submitted_words(options)
        check_options(inner, inner_words)
        options = own
    if command == "jobs":
        *_, options = jobs_words(options)
    words = [word for word in options if word not in ("-m", "--multirun")]
    is_sweep = len(words) < len(options)
    check_words(command, words, is_sweep=is_sweep)
    if not is_sweep:
        compose_config(words)
        return
    own = [word for word in words if word.startswith("sweep.")]
    is_search = compose_config(own).sweep.budget is not None
    parsed = SweepWords.parse([w for w in words if w not in own], is_search=is_search)
    assert is_search or not parsed.ranges
    for values in parsed.combinations():
        compose_job(parsed.words(values))


def _first_job(options: list[str]) -> list[str]:
    """The words of a sweep with the first value alone of each option."""
    parsed = SweepWords.parse([word for word in options if word != "-m"], is_search=False)
    first = {key: f"choice({texts[0]})" for key, texts in parsed.values.items()}
    return ["-m", *parsed.words(first)]


def _run_python(words: list[str]) -> None:
    """Run a script or our command; check a benchmark's options, for it takes minutes."""
    if words[:2] == ["-m", "greatmeta_dist"]:
        _run_ours(words[2:])
    elif words[0] == "-m":
        module = ROOT / f"{words[1].replace('.', '/')}.py"
        for option in (word for word in words[2:] if word.startswith("--")):
            assert f'"{option}"' in module.read_text(), f"{words[1]} has no {option}"
    else:
        for path in (Path(word) for word in words if "/" in word):
            if path.parts[0] == "runs":
                _have_run(path)
            path.parent.mkdir(exist_ok=True)
        run_script(*words)


def run_script(script: str, *arguments: str) -> None:
    """Run a script of the repository as ``python SCRIPT ARGUMENTS`` does."""
    before = sys.argv
    sys.argv = [script, *arguments]
    try:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    finally:
        sys.argv = before


def _run_code(block: Block, variables: dict[str, object]) -> None:
    """Run Python code with what the document's code before it defined; runs and stores are new."""
    code = block.code
    for pattern, small in SMALL_CODE.items():
        code = re.sub(pattern, small, code)
    for folder in re.findall(r'"((?:stores|runs)/[^"]+)"', code):
        writer, have = {"stores": ("prepare(", _have_store), "runs": ("train(", _have_run)}[
            folder.split("/")[0]
        ]
        if writer in code:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            have(folder)
    exec(compile(code, str(block), "exec"), variables)


def _check_pip(words: list[str]) -> None:
    """Check that the extras and files which pip is given are there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for word in words:
        extra = re.fullmatch(r"\.\[(\w+)\]", word)
        assert not extra or extra[1] in project["optional-dependencies"]
        assert not word.endswith(".txt") or (ROOT / word).exists()


def _have_store(store: str) -> None:
    """Prepare a store unless it is there."""
    if not Path(store).exists():
        _run_ours(["prepare", *shlex.split(STORES[store]), f"store={store}"])


def _have_run(run: str | Path) -> None:
    """Train a run unless it is there."""
    if not Path(run).exists():
        _run_ours(["train", f"store={RUNS[str(run)]}", f"run={run}"])


def _store_of(run: str) -> str:
    """The store that a run was trained on."""
    config = (Path(run) / "config.yaml").read_text()
    return re.findall(r"^store: (.+)$", config, re.MULTILINE)[0]
