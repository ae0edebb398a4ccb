"""Workers' messages take the interface that has the node's address."""

from greatmeta_dist.launch import network
from greatmeta_dist.launch.network import choose_interface, interface_of


def test_the_interface_of_an_address_is_found():
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("203.0.113.1") is None


def test_an_interface_that_the_environment_names_is_kept(monkeypatch):
    monkeypatch.setattr(network.ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib0")
    choose_interface()
    assert network.os.environ["GLOO_SOCKET_IFNAME"] == "ib0"
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    choose_interface()
    assert network.os.environ["GLOO_SOCKET_IFNAME"] == "lo"
