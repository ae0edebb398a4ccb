"""The benchmark of prepare writes the logs it says, and measures what ran."""

import os
import sys

import polars as pl
import pytest

from benchmarks.prepare.logs import SHAPES, log_chunks, write_log
from benchmarks.prepare.measure import measure


@pytest.mark.parametrize("shape", SHAPES)
def test_a_log_has_the_rows_asked_for(tmp_path, shape):
    path = write_log(tmp_path, 20_000, "parquet", shape)
    assert write_log(tmp_path, 20_000, "parquet", shape) == path
    log = pl.read_parquet(path / "*.parquet" if path.is_dir() else path)
    assert len(log) == 20_000
    assert log.equals(pl.from_arrow(next(log_chunks(20_000, shape))))


def test_both_forms_hold_the_same_rows(tmp_path):
    parquet = pl.read_parquet(write_log(tmp_path, 1000, "parquet"))
    text = pl.read_csv(write_log(tmp_path, 1000, "csv"), schema=parquet.schema)
    assert text.equals(parquet)


def run(tmp_path, code, **limits):
    return measure(
        [sys.executable, "-S", "-c", code],
        environ=os.environ,
        cwd=tmp_path,
        log=tmp_path / "log",
        **{"limit_s": 60, "limit_mib": 10_000, **limits},
    )


def test_memory_is_that_of_the_program_alone(tmp_path):
    held = run(tmp_path, "x = bytearray(100 << 20)")
    assert held.failure is None
    assert 100 <= held.peak_mib < 150


def test_what_does_not_end_is_stopped_and_named(tmp_path):
    assert run(tmp_path, "while True: pass", limit_s=0.3).failure == "stopped after 0.3 s"
    many = run(tmp_path, "x = bytearray(300 << 20)\nwhile True: pass", limit_mib=200)
    assert many.failure == "stopped at 0.2 GiB"
    assert "ended with 3" in run(tmp_path, "raise SystemExit(3)").failure
