"""cluster/README.md: its commands are accepted, its files exist, and no file is left out."""

import re
import shlex

import yaml
from documents import Document
from edited_files import CLUSTER
from reader import check_options

from cluster.check import file_problems
from cluster.checks.problem import PLACEHOLDER, ROOT, pinned_ray

README = Document("cluster/README.md")
COMMANDS = [words for block in README.blocks("sh") for words in block.commands()]
OTHER_PROGRAMS = {
    "docker", "kubectl", "mkdir", "pip", "python", "ray", "sbatch", "scancel", "tensorboard",
    "export", "greatmeta", "python3", "/shared/venv/bin/pip", "/shared/venv/bin/greatmeta",
}  # fmt: skip


def ours() -> list[list[str]]:
    """The words of every greatmeta command, also of those that others start."""
    texts = [shlex.join(words) for words in COMMANDS]
    texts += [yaml.safe_load(block.code)["entrypoint"] for block in README.blocks("yaml")]
    found = []
    for text in texts:
        words = [word for part in shlex.split(text) for word in shlex.split(part)]
        found += [
            words[k + 1 :]
            for k, word in enumerate(words[:-1])
            if word.rpartition("/")[2] == "greatmeta" and not words[k + 1].startswith("-")
        ]
    return found


def test_the_commands_of_greatmeta_are_accepted():
    commands = ours()
    assert {words[0] for words in commands} == {"prepare", "submit", "jobs"}
    assert len(commands) == 6
    for command, *options in commands:
        check_options(command, options)


def test_the_job_that_prepares_a_store_has_no_problem(tmp_path):
    (block,) = README.blocks("yaml")
    entrypoint = yaml.safe_load(block.code)["entrypoint"]
    job = yaml.safe_load((CLUSTER / "kuberay/rayjob.yaml").read_text())
    job["spec"]["entrypoint"] = entrypoint
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    assert list(file_problems(tmp_path / "job.yaml", schemas=None, is_template=True)) == []


def test_commands_are_of_known_programs_and_their_files_exist():
    for words in COMMANDS:
        assert words[0] in OTHER_PROGRAMS, words
        for word in words:
            name = word.removeprefix("./")
            if name.startswith("cluster/") or name == "constraints.txt":
                assert (ROOT / name).exists(), words
            elif name.startswith("my-"):  # a reader's copy of a file of ours
                assert list(CLUSTER.glob(f"*/{name.removeprefix('my-')}")), words


def test_every_file_is_shown_to_the_reader():
    for path in [*CLUSTER.glob("*/*.yaml"), *CLUSTER.glob("*/*.sh")]:
        assert f"`{path.relative_to(CLUSTER)}`" in README.text, path
    assert "cluster/Dockerfile" in README.text


def test_image_tags_name_the_pinned_ray():
    texts = [README.text, *(p.read_text() for p in CLUSTER.glob("*/*.yaml"))]
    texts.append((CLUSTER / "Dockerfile").read_text())
    tags = {version for text in texts for version in re.findall(r"ray(\d+\.\d+\.\d+)-", text)}
    assert tags == {pinned_ray()}


def test_build_arguments_are_those_of_the_dockerfile():
    said = set(re.findall(r"^\| `(\w+)` \|", README.text, re.MULTILINE))
    assert said == set(
        re.findall(r"^ARG (\w+)", (CLUSTER / "Dockerfile").read_text(), re.MULTILINE)
    )


def test_what_a_reader_must_replace_starts_with_one_word():
    for path in CLUSTER.glob("*/*.yaml"):
        for line in path.read_text().splitlines():
            value = line.partition("#")[0]
            assert not re.search(r"<[a-z]|TODO|XXX|CHANGEME", value), line
            assert PLACEHOLDER.search(value) or not re.search(r"\bREPLACE\b", value), line


def test_make_lint_checks_the_script_and_the_dockerfile():
    makefile = (ROOT / "Makefile").read_text()
    assert "$(BIN)/hadolint cluster/Dockerfile" in makefile
    assert "$(BIN)/shellcheck cluster/slurm/*.sh" in makefile
