"""What stores that no test can reach do is one line, too, and takes no quarter of an hour."""

import pyarrow
import pytest

from greatmeta_dist.storage.objects import URI_OPTIONS, ObjectFolder


@pytest.mark.parametrize("scheme, has_address", [("s3", True), ("abfs", False)])
def test_any_error_of_pyarrow_is_an_os_error_in_one_line(monkeypatch, scheme, has_address):
    class Failing:
        def get_file_info(self, path):
            raise pyarrow.ArrowException("Unknown error: no\n token")  # as Azure's

    folder = ObjectFolder(f"{scheme}://bucket/a")
    monkeypatch.setitem(folder.__dict__, "system", (Failing(), "bucket/a"))
    with pytest.raises(OSError, match=r"Unknown error: no token; check .*the bucket") as caught:
        folder.exists()
    assert ("AWS_ENDPOINT_URL" in str(caught.value)) == has_address


@pytest.mark.parametrize("scheme", ["gs", "gcs"])
def test_pyarrow_takes_the_options_for_google_cloud_storage(scheme):
    assert "retry_limit_seconds" in URI_OPTIONS[scheme]
    assert ObjectFolder(f"{scheme}://bucket/a").system[1] == "bucket/a"
