"""Help, versions and usage errors cost next to nothing: they import what they use."""

import os
import subprocess
import sys

import pytest

HEAVY = {
    "hydra",
    "numpy",
    "omegaconf",
    "polars",
    "pyarrow",
    "ray",
    "rich",
    "scipy",
    "sklearn",
    "tensorboard",
    "torch",
    "yaml",
}
ANSWERED_AT_ONCE = [
    (["--help"], 0),
    (["--version"], 0),
    (["prepare", "--help"], 0),
    (["train", "--help"], 0),
    (["help", "evaluate"], 0),
    (["trian"], 2),
    (["train", "train.stepz=3"], 2),
    (["train", "steps=100"], 2),
    (["train", "train.steps=many"], 2),
    (["train", "model.activation=sigmoid"], 2),
    (["train", "model=papr"], 2),
    (["train", "data.users=5"], 2),
    (["train", "model.label=rating"], 2),
    (["train", "--steps", "3"], 2),
    (["train", "run=nowhere"], 2),
    (["train", "run=nowhere", "store="], 2),
    (["prepare", "data=synthetic"], 2),
    (["evaluate"], 2),
    (["recommend", "--help"], 0),
    (["recommend", "run=a", "users=b"], 2),
    (["evaluate", "-m", "run=a,b"], 2),
    (["submit", "--help"], 0),
    (["submit", "train", "run=a"], 2),
    (["submit", "--", "train", "run=/a", "store=/b", "train.stepz=3"], 2),
    (["jobs", "stop"], 2),
]
MAX_RATIO = 20
"""Processor time of a start over that of an empty program; importing torch alone takes 50 times."""


def loaded_by(program: str) -> set[str]:
    """Top-level modules that a program imports."""
    program += "\nprint('\\n' + ' '.join(sorted({m.split('.')[0] for m in sys.modules})))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import sys\n{program}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return set(done.stdout.splitlines()[-1].split())


def processor_time(*words: str) -> float:
    """Least seconds, of three starts, that Python takes for these words."""
    seconds = []
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds.append(usage.ru_utime + usage.ru_stime)
    return min(seconds)


@pytest.mark.parametrize("words, code", ANSWERED_AT_ONCE)
def test_help_and_usage_errors_import_nothing_heavy(words, code):
    run = f"from greatmeta_dist.__main__ import main\nsys.argv[1:] = {words!r}\n"
    assert not HEAVY & loaded_by(f"{run}assert main() == {code}")


def test_importing_the_package_or_its_options_imports_nothing_heavy():
    assert not HEAVY & loaded_by("import greatmeta_dist, greatmeta_dist.config")


def test_errors_that_only_a_config_shows_import_nothing_that_computes():
    words = ["train", "run=x", "store=x", "train.steps=0"]
    found = loaded_by(f"from greatmeta_dist.cli import main\nassert main({words!r}) == 2")
    assert not {"numpy", "polars", "pyarrow", "ray", "rich", "sklearn", "torch"} & found


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["train", "steps=100"]])
def test_a_start_takes_little_more_than_that_of_python(words):
    ratio = processor_time("-m", "greatmeta_dist", *words) / processor_time("-c", "pass")
    assert ratio < MAX_RATIO


def test_importing_the_command_is_quick_and_silent():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "greatmeta_dist", "--version"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout.strip()


def test_the_package_offers_its_functions_when_they_are_asked_for():
    import greatmeta_dist
    from greatmeta_dist.commands.evaluate import evaluate_run
    from greatmeta_dist.data.prepare import prepare
    from greatmeta_dist.launch.local import launch

    assert greatmeta_dist.prepare is prepare
    assert greatmeta_dist.train is launch
    assert greatmeta_dist.evaluate is evaluate_run
    assert greatmeta_dist.__version__
    assert set(dir(greatmeta_dist)) >= {"Predictor", "evaluate", "prepare", "train"}
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = greatmeta_dist.trian
