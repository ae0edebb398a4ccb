"""What a pod of Ray needs, and what the schema lets pass; each with a file that has it."""

import pytest
from edited_files import assert_says, said_of

from cluster.checks.quantities import amount, fault

FILE = "kuberay/raycluster.yaml"
SHM = "- {name: shm, mountPath: /dev/shm}"
HEAD = 'requests: &head_resources {cpu: "4", memory: 16Gi}'
WORKER = 'requests: &worker_resources {cpu: "4", memory: 16Gi, nvidia.com/gpu: "1"}'


@pytest.mark.parametrize(
    "old, new, expected",
    [
        # Quantities
        ("sizeLimit: 2Gi", "sizeLimit: 2", "2 is a number of bytes; expected a unit, such as 2Gi"),
        (
            "sizeLimit: 2Gi",
            "sizeLimit: 2gb",
            "2gb is no amount above zero; expected one such as 2Gi",
        ),
        ("sizeLimit: 2Gi", "sizeLimit: 0", "0 is no amount above zero"),
        ("memory: 16Gi}", "memory: 16}", "limits.memory: 16 is a number of bytes"),
        ("memory: 16Gi}", "memory: 16GB}", "limits.memory: 16GB is no amount above zero"),
        ("memory: 16Gi}", "memory: 500m}", "limits.memory: 500m is a number of bytes"),
        (
            'nvidia.com/gpu: "1"',
            'nvidia.com/gpu: "0.5"',
            "0.5 is no whole number; pods cannot share",
        ),
        ('nvidia.com/gpu: "1"', "nvidia.com/gpu: 1000m", "1000m is no whole number"),
        # Requests and limits
        (
            "limits: *worker_resources",
            "limits: {cpu: 4, memory: 16Gi}",
            "gpu: 1, and the limit is None",
        ),
        (
            "limits: *head_resources",
            "limits: {cpu: 4, memory: 32Gi}",
            "16Gi, and the limit is 32Gi",
        ),
        ("limits: *head_resources", "limits: {cpu: 4}", "no memory; Ray reads there how much"),
        ("limits: *head_resources", "claims: []", "no cpu; Ray reads there how much it may use"),
        # Volumes
        (SHM, "- {name: shm, mountPath: /shm}", "nothing is mounted at /dev/shm"),
        (SHM, "- {name: shared, mountPath: /dev/shm}", "no emptyDir with medium: Memory"),
        ("medium: Memory", "medium: ''", "no emptyDir with medium: Memory and a sizeLimit"),
        ("sizeLimit: 2Gi", "sizeLimit: 12Gi", "/dev/shm may take 12Gi of 16Gi"),
        (
            "{name: shared, mountPath",
            "{name: share, mountPath",
            "share is no volume of this pod: shared",
        ),
        ("persistentVolumeClaim:\n              claimName: greatmeta-shared", "emptyDir: {}", ""),
        # Environment
        ('value: "120"', 'value: "3"', "RAY_JOB_STOP_WAIT_TIME_S is 3; a stopped job needs 30 s"),
        ('value: "120"', 'value: "2m"', "RAY_JOB_STOP_WAIT_TIME_S is 2m"),
        ("RAY_JOB_STOP_WAIT_TIME_S", "RAY_JOB_STOP_WAIT", "RAY_JOB_STOP_WAIT_TIME_S is not set"),
        ("RAY_USAGE_STATS_ENABLED", "RAY_JOB_STOP_WAIT_TIME_S", "comes twice"),
        ("RAY_USAGE_STATS_ENABLED", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN stands here for all to read"),
        (
            "PeriodSeconds: 90",
            "PeriodSeconds: 60",
            "60 s, and Ray drains for 60; expected 75 or more",
        ),
        (
            "terminationGracePeriodSeconds: 90",
            "",
            "30 s, and Ray drains for 60; expected 75 or more",
        ),
        # Rights
        ("runAsNonRoot: true", "runAsNonRoot: false", "the container may run as root"),
        ("runAsUser: 1000", "runAsUser: 0", "the container may run as root"),
        ("allowPrivilegeEscalation: false", "privileged: true", "the container is privileged"),
        ("allowPrivilegeEscalation: false", "procMount: Default", "set allowPrivilegeEscalation"),
        ("restartPolicy: Never", "hostNetwork: true", "opens the pod to the node; leave it out"),
        # Containers
        (
            "containers:\n          - name: ray-head",
            "initContainers:\n          - name: a",
            "no contai",
        ),
        (
            "image: &image REPLACE-REGISTRY/greatmeta:0.1.0-ray2.60.0-cuda",
            "image: &image ''",
            "no image",
        ),
    ],
)
def test_a_pod_that_would_fail_or_stand_open_fails_here(old, new, expected, tmp_path):
    said = said_of(FILE, old, new, tmp_path)
    assert said
    assert_says(said, expected or "head and workers share no volume")


@pytest.mark.parametrize(
    "quantity, value", [("500m", 0.5), ("2", 2), (2, 2), ("1.5Gi", 1.5 * 2**30), ("1k", 1000)]
)
def test_quantities_are_read_as_kubernetes_reads_them(quantity, value):
    assert amount(quantity) == value
    assert fault("cpu", quantity) is None


@pytest.mark.parametrize("quantity", ["", "Gi", "2 Gi", "2GI", "-1", None, "1e", "two"])
def test_what_is_no_quantity_is_known(quantity):
    assert amount(quantity) is None
