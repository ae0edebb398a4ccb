"""What KubeRay's schema lets pass in a RayJob, each with a file that has it."""

import pytest
from edited_files import CLUSTER as FOLDER
from edited_files import assert_says, plain, said_of

from cluster.check import document_problems, file_problems

JOB = "kuberay/rayjob.yaml"
MODE = "submissionMode: K8sJobMode"
SHUT = "shutdownAfterJobFinishes: true"
TTL = "ttlSecondsAfterFinished: 600"
CLUSTER = "rayClusterSpec:"
RULES = "deletionStrategy: {deletionRules: [{policy: DeleteSelf, condition: {jobStatus: FAILED}}]}"


@pytest.mark.parametrize(
    "old, new, expected",
    [
        # Names
        ("apiVersion: ray.io/v1", "apiVersion: ray.io/v1alpha1", "expected ray.io/v1"),
        ("name: greatmeta-train", "name: Greatmeta", "'Greatmeta'; expected a-z"),
        ("name: greatmeta-train", "name: 1st", "'1st'; expected a-z"),
        ("name: greatmeta-train", f"name: {'a' * 48}", "47 characters at most"),
        ("name: greatmeta-train", "labels: {}", "''; expected a-z"),
        # How it is submitted
        (MODE, "submissionMode: K8sMode", "K8sMode; expected one of K8sJobMode"),
        (MODE, "", "None; expected one of K8sJobMode"),
        (
            "entrypoint: >-",
            "metadata: {}\n  x: >-",
            "no entrypoint: the cluster would start and do",
        ),
        (MODE, "submissionMode: InteractiveMode", "leave the entrypoint out"),
        (MODE, "submissionMode: InteractiveMode", "InteractiveMode allows no retries"),
        (
            MODE,
            "submissionMode: SidecarMode",
            "submitterPodTemplate: SidecarMode does not allow it",
        ),
        # How it ends
        (SHUT, "", "the cluster would stay, and cost GPUs, for ever"),
        (SHUT, "shutdownAfterJobFinishes: false", "does nothing without shutdownAfterJobFinishes"),
        (TTL, f"{TTL}\n  {RULES}", "deletionRules do not go with shutdownAfterJobFinishes"),
        (f"{SHUT}\n  {TTL}", "suspend: true", "only a job with shutdownAfterJobFinishes can be"),
        (TTL, "ttlSecondsAfterFinished: -1", "-1; expected 0 or more"),
        ("backoffLimit: 2", "backoffLimit: -1", "-1; expected 0 or more"),
        ("backoffLimit: 2", "activeDeadlineSeconds: 0", "0; expected 1 or more"),
        (TTL, f"{TTL}\n  runtimeEnvYAML: 'a: ['", "spec.runtimeEnvYAML: this is no YAML"),
        # Which cluster
        (CLUSTER, "rayClusterSpecs:", "expected either rayClusterSpec or clusterSelector"),
        (CLUSTER, f"clusterSelector: {{ray.io/cluster: a}}\n  {CLUSTER}", "cannot be retried"),
        (CLUSTER, f"clusterSelector: {{ray.io/cluster: a}}\n  {CLUSTER}", "expected either"),
        ("mode: token", "mode: token\n      enableK8sTokenAuth: true", "not for a RayJob"),
        # The submitter
        (
            "runAsNonRoot: true",
            "runAsNonRoot: false",
            "spec.submitterPodTemplate.spec.containers[0]",
        ),
        ("greatmeta:0.1.0-ray2.60.0-cuda", "greatmeta", "is another image tomorrow"),
        # The command
        (
            "greatmeta train",
            "greatmeta trian",
            "is no command; expected greatmeta inspect|prepare|",
        ),
        (
            "greatmeta train",
            "python train.py",
            "is no command; expected greatmeta inspect|prepare|",
        ),
        ("run=/shared/runs/first", "run='/shared", "has quotes that do not close"),
        ("cluster.workers=", "cluster.worker=", "no option 'cluster.worker'; did you mean"),
        ("cluster=ray", "cluster=spark", "no preset cluster=spark"),
        ("workers=[2,4]", "workers=[2,3]", "expected a power of two"),
        (
            "workers=[2,4]",
            "workers=[2,8]",
            "8 workers with 1 GPU each never fit; the pods have room",
        ),
        ("run=/shared/runs/first", "run=runs/first", "run=runs/first is not on a volume that all"),
        ("store=/shared/stores", "store=/data/stores", "is not on a volume that all nodes mount"),
        ("run=/shared/runs/first", "", "run=DIR is not set"),
        ("cluster=ray cluster.address=auto", "cluster=ray", "would start a Ray of its own inside"),
        (" cluster.gpus_per_worker=1", "", "cluster.gpus_per_worker is left out"),
    ],
)
def test_a_ray_job_that_would_fail_in_the_cluster_fails_here(old, new, expected, tmp_path):
    assert_says(said_of(JOB, old, new, tmp_path), expected)


def test_the_reason_for_the_submission_mode_stands_beside_it():
    lines = (FOLDER / JOB).read_text().splitlines()
    mode = next(k for k, line in enumerate(lines) if MODE in line)
    reason = " ".join(line.strip("# ") for line in lines[mode - 8 : mode])
    assert "Why K8sJobMode" in reason
    for other in ("SidecarMode", "HTTPMode", "InteractiveMode"):
        assert other in reason


def test_a_sidecar_needs_a_head_that_is_not_restarted(tmp_path):
    job = plain(FOLDER / JOB)
    spec = job["spec"]
    spec["submissionMode"] = "SidecarMode"
    del spec["submitterPodTemplate"]
    assert list(document_problems(job, schemas=None)) == []
    spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["restartPolicy"] = "Always"
    (problem,) = document_problems(job, schemas=None)
    assert problem.text == "SidecarMode: restartPolicy Never"


@pytest.mark.parametrize(
    "option, expected",
    [("cluster.workers=2", None), ("cluster.worker=2", "no option 'cluster.worker'")],
)
def test_a_job_for_a_cluster_that_stays_is_checked(option, expected, tmp_path):
    (tmp_path / "job.yaml").write_text(
        "apiVersion: ray.io/v1\nkind: RayJob\nmetadata: {name: again}\nspec:\n"
        "  submissionMode: K8sJobMode\n  clusterSelector: {ray.io/cluster: greatmeta}\n"
        "  entrypoint: greatmeta train store=/shared/s run=/shared/r cluster=ray "
        f"cluster.address=auto {option}\n"
    )
    problems = list(file_problems(tmp_path / "job.yaml", schemas=None))
    if expected is None:
        assert problems == []
    else:
        assert_says([problem.text for problem in problems], expected)
