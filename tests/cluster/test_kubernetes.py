"""The shared volume and the network policy, each with a file that has the mistake."""

import pytest
from edited_files import assert_says, said_of

STORAGE, POLICY = "kuberay/storage.yaml", "kuberay/network-policy.yaml"
LABEL = 'matchLabels:\n      ray.io/is-ray-node: "yes"'


@pytest.mark.parametrize(
    "name, old, new, expected",
    [
        (STORAGE, "ReadWriteMany", "ReadWriteOnce", "['ReadWriteOnce']; expected [ReadWriteMany]"),
        (
            STORAGE,
            "accessModes",
            "accessMode",
            "accessMode: no such key of a PersistentVolumeClaim",
        ),
        (STORAGE, "storage: 200Gi", "storage: 200", "200 is a number of bytes; expected a unit"),
        (STORAGE, "storage: 200Gi", "storage: 200GiB", "200GiB is no amount above zero"),
        (POLICY, LABEL, "{}", "it would close all pods of the namespace"),
        (POLICY, "policyTypes: [Ingress]", "policyTypes: [Egress]", "without it nothing is closed"),
        (POLICY, "ingress:", "ingres:", "ingres: no such key of a NetworkPolicy"),
        (POLICY, "- from:", "- form:", "names no sender, and so lets everybody in"),
        (POLICY, "- from:", "- from:\n        - {}", "names no sender, and so lets everybody in"),
        (
            POLICY,
            "- from:",
            "- from:\n        - ipBlock: {cidr: 0.0.0.0/0}",
            "lets every address in",
        ),
    ],
)
def test_a_volume_or_policy_that_would_not_do_is_found(name, old, new, expected, tmp_path):
    assert_says(said_of(name, old, new, tmp_path), expected)
