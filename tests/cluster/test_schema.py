"""KubeRay's published schemas find wrong types, and we find the keys that they let pass."""

import pytest
from edited_files import assert_says, said_of

from cluster.checks.schema import published_schema
from greatmeta_dist.errors import InputError

pytestmark = pytest.mark.kuberay
JOB, CLUSTER = "kuberay/rayjob.yaml", "kuberay/raycluster.yaml"


@pytest.mark.parametrize("name", [JOB, CLUSTER])
def test_a_shipped_manifest_has_the_published_form(name, kuberay, tmp_path):
    assert said_of(name, "ray.io/v1", "ray.io/v1", tmp_path, kuberay) == []


@pytest.mark.parametrize(
    "name, old, new, expected",
    [
        (JOB, "shutdownAfterJobFinishes:", "shutdownAfterJobFinish:", "did you mean shutdownAfter"),
        (JOB, "ttlSecondsAfterFinished:", "ttlSecondAfterFinished:", "ttlSecondAfterFinished: no"),
        (JOB, "metadata:", "metdata:", "metdata: no such key: did you mean metadata?"),
        (JOB, "  name: greatmeta-train", "  nme: greatmeta-train", "metadata.nme: no such key"),
        (JOB, "claimName:", "claim:", "persistentVolumeClaim"),
        (JOB, "mountPath: /shared", "mountpath: /shared", "did you mean mountPath?"),
        (
            JOB,
            "sizeLimit:",
            "sizelimit:",
            "emptyDir.sizelimit: no such key: did you mean sizeLimit",
        ),
        (JOB, "runAsNonRoot:", "runAsNotRoot:", "securityContext.runAsNotRoot: no such key"),
        (JOB, 'num-cpus: "0"', "num-cpus: 0", "rayStartParams.num-cpus: 0 is not of type 'string'"),
        (JOB, 'value: "120"', "value: 120", "120 is not of type 'string'"),
        (JOB, "mode: token", "mode: tokens", "'tokens' is not one of ['disabled', 'token']"),
        (
            JOB,
            "backoffLimit: 2",
            "backoffLimit: two",
            "backoffLimit: 'two' is not of type 'integer'",
        ),
        (
            JOB,
            "preRunningDeadlineSeconds: 3600",
            "preRunningDeadlineSeconds: 0",
            "less than the min",
        ),
        (JOB, "sizeLimit: 2Gi", "sizeLimit: 2 Gi", "sizeLimit"),
        (
            CLUSTER,
            "maxReplicas: 8",
            "maxReplica: 8",
            "maxReplica: no such key: did you mean maxRep",
        ),
        (CLUSTER, "upscalingMode: Default", "upscalingMode: Slow", "'Slow' is not one of"),
        (CLUSTER, "groupName: gpu", "group: gpu", "'groupName' is a required property"),
    ],
)
def test_a_wrong_key_or_type_is_found(name, old, new, expected, kuberay, tmp_path):
    assert_says(said_of(name, old, new, tmp_path, kuberay), expected)


def test_a_folder_without_schemas_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"ray\.io_rayjobs\.yaml does not exist; expected"):
        published_schema("RayJob", tmp_path)
