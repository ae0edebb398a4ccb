"""What ``ray up`` refuses, and what it lets pass and should not; each with a file that has it."""

import pytest
from edited_files import assert_says, said_of

AWS, GCP = "ray-up/aws.yaml", "ray-up/gcp.yaml"
IMAGE = "image: REPLACE-REGISTRY/greatmeta:0.1.0-ray2.60.0-cuda"
TOKEN = "    - -e RAY_AUTH_MODE=token"
CPU, GPU = "resources: {CPU: 0}", "resources: {CPU: 4, GPU: 1}"
WAIT = "RAY_JOB_STOP_WAIT_TIME_S=120"


@pytest.mark.parametrize(
    "name, old, new, expected",
    [
        # Ray's own check
        (AWS, "max_workers: 8", "max_worker: 8", "ray up refuses this file: ValidationError"),
        (
            AWS,
            "container_name: greatmeta",
            "",
            "ray up refuses this file: AssertionError: Must pro",
        ),
        (
            AWS,
            GPU,
            "resources: {CPU: 4, GPU: 0.5}",
            "ray up refuses this file: ValidationError: 0.5",
        ),
        (AWS, "head_node_type: head", "head_node_type: heads", "`head_node_type` must be one of"),
        (
            GCP,
            "    min_workers: 0\n    max_workers: 8",
            "    min_workers: 9\n    max_workers: 9",
            "sum of",
        ),
        (GCP, "ssh_user: ubuntu", "ssh_usr: ubuntu", "ray up refuses this file: ValidationError"),
        # Sizes
        (AWS, "\nmax_workers: 8", "", "max_workers: None; Ray takes 2 where it is left out"),
        (
            AWS,
            "min_workers: 0\n    max_workers: 8",
            "min_workers: 8\n    max_workers: 4",
            "8 is above max",
        ),
        (
            AWS,
            "    max_workers: 8",
            "    max_workers: 16",
            "16 is above the cluster's max_workers 8",
        ),
        (AWS, "    max_workers: 8", "", "set min_workers and max_workers"),
        (AWS, "    max_workers: 0", "    max_workers: 1", "started again as a worker"),
        (AWS, CPU, "resources: {CPU: 2}", "workers would run beside the drivers"),
        (GCP, GPU, "resources: {CPU: 4, GPU: '1'}", "1; expected a whole number"),
        # Provider and network
        (AWS, "type: aws", "type: azure", "azure; rules are known for aws, gcp"),
        (AWS, "cache_stopped_nodes:", "cache_stoped_nodes:", "Ray knows no such key for aws"),
        (GCP, "project_id:", "project:", "provider.project: Ray knows no such key for gcp"),
        (AWS, "SecurityGroupIds:", "SecurityGroups:", "the group that Ray makes lets ssh in from"),
        (GCP, "networkInterfaces:", "networks:", "the default network lets ssh in from everywhere"),
        (GCP, "onHostMaintenance: TERMINATE, ", "", "a node with GPUs cannot be moved"),
        # Container and token
        (AWS, IMAGE, "image: greatmeta:latest", "is another image tomorrow"),
        (AWS, "ray2.60.0", "ray2.50.0", "has Ray 2.50.0, and the cluster says 2.60.0"),
        (AWS, IMAGE, "", "set image and container_name"),
        (AWS, "- --shm-size=2g", "", "no --shm-size"),
        (AWS, "- -v /shared:/shared", "", "store and runs must lie on a shared folder"),
        (AWS, TOKEN, "", "the cluster would be open"),
        (
            AWS,
            TOKEN,
            f"{TOKEN}\n    - -e RAY_AUTH_TOKEN=abc",
            "the token stands here for all to read",
        ),
        (AWS, TOKEN, f"{TOKEN}\n    - -p 8265:8265", "opens the container"),
        (AWS, "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_PATH", "nodes have no token"),
        (
            AWS,
            "/home/ray/auth: ~",
            "/home/ray/other: ~",
            "nothing brings the token to /home/ray/auth/",
        ),
        # Commands
        (GCP, "--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0", "listens on 0.0.0.0"),
        (GCP, "--dashboard-host=127.0.0.1", "--dashboard-host ::", "listens on ::"),
        (GCP, "--dashboard-host=127.0.0.1", "", "no --dashboard-host=127.0.0.1"),
        (GCP, "head_start_ray_commands:", "metadata:\n  x:", "Ray's defaults are open"),
        (GCP, "--autoscaling-config=~/ray_bootstrap_config.yaml", "", "no worker would start"),
        (
            GCP,
            WAIT,
            "RAY_JOB_STOP_WAIT_TIME_S=3",
            "RAY_JOB_STOP_WAIT_TIME_S is 3; a stopped job needs",
        ),
        (GCP, WAIT, "RAY_JOB_STOP=120", "RAY_JOB_STOP_WAIT_TIME_S is not set"),
        (GCP, "$RAY_HEAD_IP:6379", "$RAY_HEAD_IP:6380", "expected --address=$RAY_HEAD_IP:6379"),
        (GCP, "setup_commands: []", "metadata: {}", "left out, and Ray's defaults would install"),
    ],
)
def test_a_file_that_would_fail_or_stand_open_on_paid_nodes_fails_here(
    name, old, new, expected, tmp_path
):
    assert_says(said_of(name, old, new, tmp_path), expected)


def test_ray_s_own_check_alone_lets_too_few_nodes_pass(tmp_path):
    said = said_of(
        AWS, "min_workers: 0\n    max_workers: 8", "min_workers: 8\n    max_workers: 4", tmp_path
    )
    assert said == ["available_node_types.gpu: min_workers 8 is above max_workers 4"]
