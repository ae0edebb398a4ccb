"""Whether a Ray cluster answers, and takes our token: asked before Ray is imported.

Ray itself tries for many seconds and writes a line at each try. It also decides when it is imported
whether it sends tokens at all, so this file imports nothing of Ray.
"""

import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from greatmeta_dist.config import ClusterConfig
from greatmeta_dist.errors import InputError, require
from greatmeta_dist.options.checks import OF_A_JOB
from greatmeta_dist.processors import available_processors

CONNECT_S = 10.0
"""How long a cluster may take to answer."""
QUESTION = "/ray.rpc.NodeInfoGcsService/GetClusterId"
"""A question that every cluster answers, to whoever may ask."""
HOW_TO_TOKEN = "set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to a file that holds it"


@dataclass(frozen=True)
class Token:
    """What a cluster lets us in for."""

    value: str
    source: str
    """Where it was found."""


def find_token() -> Token | None:
    """The token that Ray would take, looked for where Ray looks for it."""
    value = os.environ.get("RAY_AUTH_TOKEN", "").strip()
    if value:
        return Token(value, "RAY_AUTH_TOKEN")
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    try:
        value = path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
    return Token(value, str(path)) if value else None


def address_to_join(cluster: ClusterConfig) -> str | None:
    """The address of the cluster to join; None where a local Ray is to be started.

    In a job, that is the cluster that the job runs on.
    """
    if cluster.address is None and OF_A_JOB in os.environ:
        return os.environ.get("RAY_ADDRESS", "auto")
    return cluster.address


def prepare_to_join(cluster: ClusterConfig) -> None:
    """Ask the cluster for an answer, and have Ray send our token where the cluster wants one.

    Writes ``RAY_AUTH_MODE`` in the environment, which Ray reads when it is imported. Raises
    ``InputError`` where nothing answers, or the token is missing or wrong. Where a local Ray is to
    be started, raises it where this machine has too little for it.
    """
    address = address_to_join(cluster)
    if address is None:
        _require_room_here(cluster)
        return
    require(
        not address.startswith(("http://", "https://")),
        f"cluster.address={address} is where jobs are submitted; submit this one: "
        f"greatmeta submit cluster.address={address} -- …, or name the cluster's own HOST:PORT",
    )
    require(
        not address.startswith("ray://"),
        f"cluster.address={address} is of Ray's client, which has no part in a cluster; name the "
        "cluster's own HOST:PORT on one of its nodes, or submit the command: greatmeta submit",
    )
    is_auto = address == "auto"
    address = _of_this_machine() if is_auto else address
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        return  # Ray knows what it is
    try:
        _require_port(address, host, int(port))
        _require_entry(address)
    except _NoAnswer:
        if not is_auto:
            raise
        # The cluster that was started last is gone; Ray looks whether another one runs.


def _require_room_here(cluster: ClusterConfig) -> None:
    """Raise ``InputError`` where a Ray of this machine alone can never have what is asked."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        return  # that one is used, whatever it is
    workers = cluster.fewest_workers
    needed = {"CPU": workers * cluster.threads, "GPU": workers * (cluster.gpus_per_worker or 0)}
    present = {"CPU": available_processors(), "GPU": _num_gpus() if needed["GPU"] else 0}
    for kind, total in needed.items():
        require(
            total <= present[kind],
            f"a Ray on this machine can never have that: "
            f"{'1 worker needs' if workers == 1 else f'{workers} workers need'} {total:g} {kind}, "
            f"and it has {present[kind]}; ask for less, or name a larger cluster with "
            "cluster.address",
        )


def _num_gpus() -> int:
    import torch  # it is imported by whatever computes on a GPU, and not by what prepares

    return torch.cuda.device_count()


def _require_entry(address: str) -> None:
    """Raise ``InputError`` unless the cluster lets us in; has Ray send our token if it asks."""
    if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
        return  # what it says needs a certificate, which Ray finds
    token = find_token()
    if not _accepts(address, None):
        require(
            token is not None,
            f"the Ray cluster at cluster.address={address} asks for a token; {HOW_TO_TOKEN}",
        )
        assert token is not None
        require(
            _accepts(address, token),
            f"the Ray cluster at cluster.address={address} refuses the token in {token.source}; "
            "take that cluster's own",
        )
        _send_tokens(address)


class _NoAnswer(InputError):
    """No cluster answers at an address."""


def no_answer(address: str | None, reason: str) -> InputError:
    """What to do where no cluster answers."""
    return _NoAnswer(
        f"no Ray cluster answers at cluster.address={address} ({reason}); start one there with: "
        "ray start --head, or leave cluster.address out"
    )


def _of_this_machine() -> str:
    """The address of the cluster that was last started here, as Ray notes it; empty if none was."""
    if os.environ.get("RAY_ADDRESS", "auto") != "auto":
        return os.environ["RAY_ADDRESS"]
    note = Path(os.environ.get("RAY_TMPDIR") or "/tmp", "ray", "ray_current_cluster")
    try:
        return note.read_text().strip()
    except OSError:
        return ""


def _require_port(address: str, host: str, port: int) -> None:
    try:
        socket.create_connection((host, port), timeout=CONNECT_S).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise no_answer(address, str(error)) from error


def _accepts(address: str, token: Token | None) -> bool:
    """Whether a cluster answers a question with this token; raises where it is no cluster."""
    import grpc

    metadata = [("authorization", f"Bearer {token.value}")] if token else []
    options = [("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(address, options=options) as channel:
        try:
            channel.unary_unary(QUESTION)(b"", timeout=CONNECT_S, metadata=metadata)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAUTHENTICATED:
                return False
            if error.code() == grpc.StatusCode.UNAVAILABLE:
                raise no_answer(address, "what listens there is no Ray cluster") from error
            if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                raise no_answer(address, f"it says nothing for {CONNECT_S:g} s") from error
    return True


def _send_tokens(address: str) -> None:
    if os.environ.get("RAY_AUTH_MODE") == "token":
        return
    require(
        "ray" not in sys.modules,
        f"the Ray cluster at cluster.address={address} asks for a token, and Ray was imported "
        "before; set RAY_AUTH_MODE=token in the environment of this process",
    )
    os.environ["RAY_AUTH_MODE"] = "token"
