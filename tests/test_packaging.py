"""``pip install .`` brings every module and every preset, and needs no more than it names."""

import sysconfig
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]


def folders(top: str) -> dict[str, Path]:
    """Folders that hold files of ours, by the package that they are installed as."""
    files = [f for f in (ROOT / top).rglob("*") if f.is_file() and "__pycache__" not in f.parts]
    places = {f.parent for f in files}
    prefix = "" if top == "greatmeta_dist" else "greatmeta_dist."
    return {prefix + ".".join(p.relative_to(ROOT).parts): p for p in places}


def test_every_folder_of_the_package_and_of_the_presets_is_installed():
    found = folders("greatmeta_dist") | folders("configs")
    assert sorted(SETUPTOOLS["packages"]) == sorted(found)
    assert SETUPTOOLS["package-dir"] == {"greatmeta_dist.configs": "configs"}


def test_every_folder_is_a_package():
    for folder in (folders("greatmeta_dist") | folders("configs")).values():
        assert (folder / "__init__.py").exists(), folder


def test_every_file_of_the_package_is_installed():
    suffixes = {pattern.removeprefix("*") for pattern in SETUPTOOLS["package-data"]["*"]}
    suffixes.add(sysconfig.get_config_var("EXT_SUFFIX"))  # built in place by an editable install
    (compiled,) = SETUPTOOLS["ext-modules"]
    sources = {ROOT / path for path in [*compiled["sources"], *compiled["depends"]]}
    for folder in (folders("greatmeta_dist") | folders("configs")).values():
        for path in folder.iterdir():
            if path.is_file() and path not in sources:
                assert path.name.endswith((".py", *suffixes)), path
