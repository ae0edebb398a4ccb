"""What is uploaded with a job: its config, a wheel's content if asked for, and nothing else."""

import random
import zipfile
from pathlib import Path

import pytest

from greatmeta_dist.errors import InputError
from greatmeta_dist.launch import job_package
from greatmeta_dist.launch.job_package import JobSpec, read_job_spec, write_package

SPEC = JobSpec("0.1.0", "train", ["run=/a", "store=/b"], "run: /a\n", may_wait=False)


def wheel(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, name)
    return path


def unpacked(package: Path, folder: Path) -> set[str]:
    with zipfile.ZipFile(package) as file:
        file.extractall(folder)
        return set(file.namelist())


def test_a_job_is_read_as_it_was_written_and_is_one_file(tmp_path):
    num_bytes = write_package(tmp_path / "job.zip", SPEC, None)
    assert num_bytes == (tmp_path / "job.zip").stat().st_size
    assert unpacked(tmp_path / "job.zip", tmp_path / "job") == {"greatmeta_job.json"}
    assert read_job_spec(tmp_path / "job") == SPEC


def test_the_same_job_is_the_same_file(tmp_path):
    for name in ("a.zip", "b.zip"):
        write_package(tmp_path / name, SPEC, None)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_a_wheel_lies_beside_the_job_so_that_it_can_be_imported(tmp_path):
    names = ("greatmeta_dist/__init__.py", "greatmeta_dist-0.1.0.dist-info/METADATA")
    made = wheel(tmp_path / "greatmeta_dist-0.1.0-py3-none-any.whl", *names)
    write_package(tmp_path / "job.zip", SPEC, made)
    assert unpacked(tmp_path / "job.zip", tmp_path / "job") == {"greatmeta_job.json", *names}


def test_a_wheel_of_something_else_or_none_at_all_is_refused(tmp_path):
    other = wheel(tmp_path / "other.whl", "other/__init__.py")
    (tmp_path / "text.whl").write_text("no zip")
    for path, reason in (
        (other, "is no wheel of greatmeta_dist: it has no"),
        (tmp_path / "text.whl", "cannot be read"),
        (tmp_path / "nowhere.whl", r"cannot be read \(No such file or directory\); make one"),
    ):
        with pytest.raises(InputError, match=reason):
            write_package(tmp_path / "job.zip", SPEC, path)


def test_more_than_the_api_takes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(job_package, "MAX_BYTES", 1 << 20)
    made = tmp_path / "large.whl"
    with zipfile.ZipFile(made, "w") as file:
        file.writestr("greatmeta_dist/__init__.py", random.Random(0).randbytes(3 << 20))
    with pytest.raises(InputError, match="an upload of 3 MiB, and the Jobs API takes less than 1"):
        write_package(tmp_path / "job.zip", SPEC, made)


def test_a_folder_without_a_job_is_bad_input(tmp_path):
    with pytest.raises(InputError, match="is no job of this version"):
        read_job_spec(tmp_path)
