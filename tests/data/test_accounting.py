"""Nothing is lost and nothing invented, in generated logs with every kind of fault.

The generator and the plain reader are those of ``python -m benchmarks.fuzz``.
"""

import pytest

from benchmarks.fuzz.cases import OPTIONS, Case, cases, form_cases
from benchmarks.fuzz.compare import expect
from benchmarks.fuzz.reader import read_log
from greatmeta_dist.data import scan

CASES = [*cases(num_rows=7_000), *form_cases(num_rows=5_000)]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_every_row_is_kept_merged_left_out_or_rejected_as_a_plain_reader_has_it(tmp_path, case):
    report = case.check(tmp_path)
    assert min(report.rejected, report.repeats + report.unrated) > 0


@pytest.mark.parametrize("name", ["latest", "implicit"])
def test_the_same_in_many_buckets(tmp_path, monkeypatch, name):
    monkeypatch.setattr(scan, "BUCKET_BYTES", 3000)
    Case(name, "csv", 5, 600, 40, 60, OPTIONS[name]).check(tmp_path)


def test_a_log_of_one_user(tmp_path):
    options = {"test_fraction": 0.0, "valid_fraction": 0.0}
    Case("one user", "parquet", 2, 300, 1, 80, options).check(tmp_path)


def test_the_generated_logs_have_every_fault(tmp_path):
    config = Case("", "csv", 0, 20_000, 500, 500, {**OPTIONS["latest"]}).write(tmp_path)
    log = read_log(tmp_path / "log.csv", config)
    assert log.reasons.keys() == {
        "blank line",
        "expected 4 fields, found 1",
        "expected 4 fields, found 2",
        "expected 4 fields, found 5",
        "malformed quotes",
        "no item",
        "no user",
        "not valid utf-8",
        "rating is beyond 1e+15",
        "rating is not a number",
        "rating is outside 0 to 5",
        "timestamp is no time (a number, or ISO 8601) after 1900",
    }
    assert expect(log, config).num_repeats > 1000
