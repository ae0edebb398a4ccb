"""What KubeRay's schema lets pass in a RayCluster, each with a file that has it."""

import pytest
from edited_files import assert_says, said_of

CLUSTER, JOB = "kuberay/raycluster.yaml", "kuberay/rayjob.yaml"
LIMITS = "limits: *head_resources"


@pytest.mark.parametrize(
    "old, new, expected",
    [
        ("name: greatmeta", f"name: {'a' * 54}", "53 characters at most"),
        # Versions and tokens
        ("rayVersion: 2.60.0", "rayVersion: 2.59.0", "2.59.0; the image has Ray 2.60.0"),
        ("rayVersion: 2.60.0", "rayVersion: 2.51.0", "2.51.0; tokens need Ray 2.52 or later"),
        ("rayVersion: 2.60.0", "", "None; the image has Ray 2.60.0"),
        ("ray2.60.0-cuda", "ray2.59.1-cuda", "has Ray 2.59.1, and the cluster says 2.60.0"),
        ("greatmeta:0.1.0-ray2.60.0-cuda", "greatmeta:latest", "is another image tomorrow"),
        ("mode: token", "mode: disabled", "disabled; expected token"),
        ("authOptions:", "authOption:", "None; expected token"),
        # Doors
        ("serviceType: ClusterIP", "serviceType: LoadBalancer", "opens the head to outside"),
        ("serviceType: ClusterIP", "enableIngress: true", "opens the head to outside"),
        ("enableInTree", "networkPolicy: {}\n  enableInTree", "refuses it unless its feature is"),
        # Numbers of pods
        (
            "minReplicas: 0",
            "minReplicas: 9",
            "minReplicas 9, replicas 0, maxReplicas 8; expected 0",
        ),
        ("replicas: 0", "replicas: 12", "replicas 12, maxReplicas 8"),
        ("minReplicas: 0", "minReplicas: -1", "minReplicas -1"),
        ("maxReplicas: 8", "", "minReplicas and maxReplicas must both be set"),
        ("enableInTreeAutoscaling: true", "", "nothing would ever change the number"),
        ("enableInTreeAutoscaling: true", "", "the autoscaler is off; leave them out"),
        ("version: v2", "version: v1\n    x: &x 1", ""),
        (
            "restartPolicy: Never",
            "restartPolicy: Always",
            "every pod's restartPolicy must be Never",
        ),
        ("groupName: gpu", "groupName: GPU", "GPU is no name"),
        ("workerGroupSpecs:", "workerGroups:", "no workers: nothing would train"),
        ("maxReplicas: 8", "maxReplicas: 8\n      resources: {GPU: '1'}", ""),
        (
            "serviceType:",
            "resources: {CPU: '0'}\n    serviceType:",
            "resources stand beside rayStart",
        ),
        ('num-cpus: "0"', 'num-gpus: "0"', "workers would run beside the driver"),
    ],
)
def test_a_cluster_that_would_fail_or_stand_open_fails_here(old, new, expected, tmp_path):
    said = said_of(CLUSTER, old, new, tmp_path)
    if expected:
        assert_says(said, expected)
    else:
        assert said == []


def test_a_group_s_own_timeout_needs_the_second_autoscaler(tmp_path):
    old = "maxReplicas: 4"
    assert_says(
        said_of(JOB, old, f"{old}\n        idleTimeoutSeconds: 60", tmp_path),
        "idleTimeoutSeconds of a group needs autoscalerOptions.version: v2",
    )


def test_two_groups_of_one_name_are_found(tmp_path):
    new = "workerGroupSpecs:\n    - {groupName: gpu, minReplicas: 0, replicas: 0, maxReplicas: 1}"
    assert_says(said_of(CLUSTER, "workerGroupSpecs:", new, tmp_path), "gpu comes twice")
