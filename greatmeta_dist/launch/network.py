"""Which network torch's messages between workers take: the one that Ray's take.

Left to itself, Gloo takes the address of the machine's name, which on many systems is a loopback
address that other machines cannot reach.
"""

import fcntl
import os
import socket
import struct
from dataclasses import dataclass
from typing import Any

from greatmeta_dist.launch.ray_cluster import ray  # isort: split

from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

from greatmeta_dist.launch.sigterm import note_sigterm

GET_ADDRESS = 0x8915
"""The system call's number, SIOCGIFADDR of Linux."""
CHOICE = "GLOO_SOCKET_IFNAME"


@dataclass
class TorchConfigOnRaysNetwork(TorchConfig):
    """torch's process group, by the interface that has the node's address in Ray."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _Backend


class _Backend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        worker_group.execute(choose_interface)
        worker_group.execute(note_sigterm)
        super().on_start(worker_group, backend_config)


def choose_interface() -> None:
    """Have Gloo take the interface of the node's address, unless the environment names one."""
    interface = interface_of(ray.util.get_node_ip_address())
    if interface is not None:
        os.environ.setdefault(CHOICE, interface)


def interface_of(address: str) -> str | None:
    """The name of the network interface that has an IPv4 address; None where none has it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe, GET_ADDRESS, struct.pack("256s", name.encode()))
            except OSError:
                continue  # it has no IPv4 address
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None
