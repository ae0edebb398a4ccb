"""The documents hold what they say: commands and code run; options, files and links exist.

Blocks that are marked ``sh`` or ``python`` run, in one temporary folder with small logs under the
names they have in the documents (``reader.py`` says what is made shorter, and what is only
checked). Options and files that the text names between backticks must exist.
"""

import json
import os
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from importlib import invalidate_caches
from pathlib import Path

import pytest
from documents import ROOT, Document, documents
from reader import Reader, check_options, run_script
from shown_logs import write_shown_logs

from greatmeta_dist.evaluation.metrics import registered_metrics
from greatmeta_dist.extensions import METRICS, PRIORS, SOURCES, WEIGHTINGS
from greatmeta_dist.options.checks import check_words
from greatmeta_dist.options.hints import RENAMED, owners
from greatmeta_dist.options.names import SECTIONS, all_options

README, CONTRIBUTING = Document("README.md"), Document("CONTRIBUTING.md")
GUIDES = [README, CONTRIBUTING, *(d for d in documents() if d.name.startswith("docs/"))]
SUFFIXES = ("arrow", "csv", "json", "parquet", "py", "svg", "toml", "tsv", "yaml")
OPTION = re.compile(rf"((?:{'|'.join(SECTIONS)})\.[\w.]+(?:\.\*)?)(=.*)?")
PATH = re.compile(r"([\w-]+)(?:/[\w.-]+)*(?:\.py|\.svg|/)")
ROOTS = (ROOT, ROOT / "greatmeta_dist")
FOLDERS = {path.name for root in ROOTS for path in root.iterdir() if path.is_dir()}
OLD_NAMES = ("docs/training.md", "docs/decisions.md")
"""Documents that may name options of earlier versions."""
each_guide = pytest.mark.parametrize("document", GUIDES, ids=lambda d: d.name)


@pytest.fixture(scope="module")
def users_package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The package that CONTRIBUTING shows, as pip would install it."""
    site = tmp_path_factory.mktemp("site")
    for block in CONTRIBUTING.blocks("python"):
        assert block.module, f"{block} does not start with the name of its file"
        path = site / block.module
        path.parent.mkdir(exist_ok=True)
        path.write_text(block.code)
    info = site / "my_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (table,) = CONTRIBUTING.blocks("toml")
    groups = tomllib.loads(table.code)["project"]["entry-points"]
    lines = [f"[{group}]\n{n} = {v}\n" for group, names in groups.items() for n, v in names.items()]
    (info / "entry_points.txt").write_text("".join(lines))
    sys.path.insert(0, str(site))
    invalidate_caches()
    registered_metrics.cache_clear()
    yield
    sys.path.remove(str(site))
    invalidate_caches()
    registered_metrics.cache_clear()


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory, users_package: None) -> Iterator[Reader]:
    """A reader, in a folder with small logs, who has installed the package of CONTRIBUTING."""
    folder, before = tmp_path_factory.mktemp("reader"), Path.cwd()
    write_shown_logs(folder)
    os.chdir(folder)
    yield Reader()
    os.chdir(before)


@each_guide
def test_commands_and_code_run(document, reader):
    reader.read(document)


def test_the_readme_leads_to_a_run_its_scores_and_its_curves(reader):
    reader.read(README)
    evaluation = json.loads(Path("runs/first/evaluation.json").read_text())
    assert evaluation["scenarios"]["user_cold"]["users"] > 0
    assert Path("docs/training.svg").read_text().startswith("<?xml")


def test_a_users_package_adds_one_of_each_as_contributing_shows(reader):
    for registry, name in (
        (WEIGHTINGS, "worst_half"),
        (PRIORS, "item_offsets"),
        (SOURCES, "sentences"),
        (METRICS, "within_half"),
    ):
        assert registry.names()[-1] == name
        assert registry.get(name).__module__ == f"my_package.{name}"
    reader.read(CONTRIBUTING)
    store, run = Path("stores/mine"), Path("runs/mine")
    assert json.loads((store / "manifest.json").read_text())["splits"]["train"] > 0
    assert "kind: worst_half" in (run / "config.yaml").read_text()
    assert (run / "model/priors/item_offsets.safetensors").stat().st_size > 0
    evaluation = json.loads((run / "evaluation.json").read_text())
    for scores in evaluation["scenarios"]["user_cold"]["models"].values():
        assert 0 < scores["within_half"] < 1


def test_examples_run(reader, capsys):
    for script in sorted((ROOT / "examples").glob("*.py")):
        assert len(script.read_text().splitlines()) < 40, script
        assert f"python examples/{script.name}" in script.read_text(), script
    run_script("examples/train.py", "--steps", "4")
    run_script("examples/train.py", "--steps", "6")
    assert json.loads(Path("runs/from-python/run/metrics.json").read_text())["step"] == 6
    run_script("examples/own_csv.py", "--steps", "4")
    assert Path("runs/own-csv/run/evaluation.json").exists()
    run_script("examples/plot_run.py", "runs/own-csv/run", "--out", "curves.png")
    assert Path("curves.png").stat().st_size > 0
    capsys.readouterr()
    run_script("examples/one_user.py", "runs/own-csv/run", "i3=5", "i7=1")
    lines = capsys.readouterr().out.splitlines()
    scores = [float(line.split()[1]) for line in lines]
    assert len(scores) == 10
    assert scores == sorted(scores, reverse=True)
    assert not {"i3", "i7"} & {line.split()[0] for line in lines}


@each_guide
def test_options_and_commands_in_the_text_are_accepted(document):
    options = all_options()
    for code in document.inline_code():
        option = OPTION.fullmatch(code)
        if code.startswith("greatmeta ") and not set(code) & set("<…"):
            command, *words = shlex.split(code)[1:]
            if "--help" not in words:
                check_options(command, words)
        elif option and option[1].endswith(".*"):
            assert any(name.startswith(option[1][:-1]) for name in options), code
        elif option and option[1].rpartition(".")[2] not in SUFFIXES:
            name, value = option.groups()
            is_old = name in RENAMED and document.name in OLD_NAMES
            assert name in options or is_old, f"{document.name}: no option {code}"
            if value and name in options and not set(value) & set("<…"):
                is_sweep = name.startswith("sweep.")
                check_words(owners(name)[0], [name + value], is_sweep=is_sweep)


@each_guide
def test_files_in_the_text_exist(document):
    for code in document.inline_code():
        path = PATH.fullmatch(code)
        if path and path[1] in FOLDERS:
            assert any((root / code).exists() for root in ROOTS), f"{document.name}: no {code}"


@pytest.mark.parametrize("document", documents(), ids=lambda d: d.name)
def test_links_lead_somewhere(document):
    for link in document.links():
        name, _, anchor = link.partition("#")
        target = (ROOT / document.name).parent / name if name else ROOT / document.name
        assert target.exists(), f"{document.name} links to {link}"
        if anchor:
            linked = Document(str(target.resolve().relative_to(ROOT)))
            assert anchor in linked.anchors(), f"{document.name} links to {link}"


@each_guide
def test_commands_stand_in_blocks_that_run(document):
    for block in document.blocks():
        if block.language not in ("sh", "python"):
            shown = re.search(r"^(greatmeta|make|pip) ", block.code, re.MULTILINE)
            assert shown is None, f"{block} shows a command; mark it sh"


def test_the_makefile_s_commands_are_accepted():
    makefile = (ROOT / "Makefile").read_text()
    lines = re.findall(r"^\t\$\(BIN\)/greatmeta (.+)$", makefile, re.MULTILINE)
    assert len(lines) == 3
    for line in lines:
        command, *options = shlex.split(re.sub(r"\$\(\w+\)", "x", line))
        check_options(command, options)


def test_the_readme_is_an_introduction():
    lines = README.text.splitlines()
    assert len(lines) < 150
    assert sum(line.lstrip().startswith("|") for line in lines) <= 20
