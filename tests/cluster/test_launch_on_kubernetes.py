"""`cluster/kuberay/`, checked against KubeRay's own schemas, strictly."""

import json
import shlex
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_schema
import pytest
import yaml
from launching import (
    HEALTH_ENVIRONMENT,
    LOOPBACK,
    ROOT,
    Resources,
    assert_every_actor_has_its_place,
    config_of,
    run_in_guide,
    start_options,
)

RAYCLUSTER = ROOT / "cluster" / "kuberay" / "raycluster.yaml"
RAYJOB = ROOT / "cluster" / "kuberay" / "rayjob.yaml"
NETWORK_POLICY = ROOT / "cluster" / "kuberay" / "network-policy.yaml"


def spec_of(manifest: Path) -> dict[str, Any]:
    """The cluster that the manifest describes."""
    spec = kubernetes_schema.read(manifest)["spec"]
    return spec.get("rayClusterSpec", spec)


def container_of(group: dict[str, Any]) -> dict[str, Any]:
    [container] = group["template"]["spec"]["containers"]
    return container


def pods_of(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def node_of(group: dict[str, Any]) -> Resources:
    """The resources that KubeRay tells Ray of for a pod of this group."""
    limits = container_of(group)["resources"]["limits"]
    custom = {name: float(amount) for name, amount in group["resources"].items()}
    return {"CPU": float(limits["cpu"]), "GPU": float(limits.get("nvidia.com/gpu", 0)), **custom}


@pytest.fixture(scope="module")
def schemas() -> dict[str, dict[str, Any]]:
    return {
        "RayCluster": kubernetes_schema.schema("rayclusters"),
        "RayJob": kubernetes_schema.schema("rayjobs"),
    }


@pytest.mark.parametrize("manifest", [RAYCLUSTER, RAYJOB], ids=lambda path: path.stem)
def test_kuberay_accepts_the_manifest(manifest, schemas):
    tree = kubernetes_schema.read(manifest)
    assert tree["apiVersion"] == "ray.io/v1"
    assert kubernetes_schema.errors(tree, schemas[tree["kind"]]) == []


@pytest.mark.parametrize(
    ("place", "key", "value"),
    [
        ((), "specs", {}),
        (("metadata",), "label", {}),
        (("spec",), "authOption", {"mode": "token"}),
        (("spec", "authOptions"), "mode", "tokens"),
        (("spec", "headGroupSpec", "template", "spec"), "restartpolicy", "Never"),
        (("spec", "workerGroupSpecs", 0), "minReplicas", "1"),
        (("spec", "workerGroupSpecs", 0, "template", "spec", "containers", 0), "images", "x"),
    ],
)
def test_the_check_refuses_what_the_schema_does_not_declare(place, key, value, schemas):
    tree = json.loads(json.dumps(kubernetes_schema.read(RAYCLUSTER)))  # without shared parts
    within = tree
    for step in place:
        within = within[step]
    within[key] = value
    [error] = kubernetes_schema.errors(tree, schemas["RayCluster"])
    assert key in error


def test_the_check_refuses_a_key_that_stands_twice(tmp_path):
    (tmp_path / "twice.yaml").write_text("spec: {suspend: true, suspend: false}")
    with pytest.raises(yaml.YAMLError, match=r"\['suspend'\] twice"):
        kubernetes_schema.read(tmp_path / "twice.yaml")


@pytest.mark.parametrize("manifest", [RAYCLUSTER, RAYJOB], ids=lambda path: path.stem)
def test_kuberay_turns_token_authentication_on_for_the_version_of_ray_that_is_pinned(manifest):
    cluster = spec_of(manifest)
    assert cluster["authOptions"] == {"mode": "token"}
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert f"ray[default]=={cluster['rayVersion']}" in extras["train"]


@pytest.mark.parametrize("manifest", [RAYCLUSTER, RAYJOB], ids=lambda path: path.stem)
def test_kuberay_starts_a_head_without_tasks_and_a_group_for_each_kind_of_actor(manifest):
    cluster = spec_of(manifest)
    head = cluster["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert "nvidia.com/gpu" not in container_of(head)["resources"]["limits"]
    groups = {group["groupName"]: group["resources"] for group in cluster["workerGroupSpecs"]}
    assert groups == {
        "learner": {"learner_node": "1"},
        "rollout": {"rollout_node": "1"},
        "cpu": {"cpu_node": "1"},
    }


@pytest.mark.parametrize("manifest", [RAYCLUSTER, RAYJOB], ids=lambda path: path.stem)
def test_the_head_on_kubernetes_notices_a_frozen_node_soon(manifest):
    head = container_of(spec_of(manifest)["headGroupSpec"])
    environment = {variable["name"]: variable["value"] for variable in head["env"]}
    assert environment.items() >= HEALTH_ENVIRONMENT.items()


@pytest.mark.parametrize("manifest", [RAYCLUSTER, RAYJOB], ids=lambda path: path.stem)
def test_the_head_on_kubernetes_is_started_with_options_that_ray_knows(manifest):
    given = spec_of(manifest)["headGroupSpec"]["rayStartParams"]
    start_options(["--head", *(f"--{name}={value}" for name, value in given.items())])


def test_only_the_dashboard_of_a_job_which_the_operator_reads_is_not_on_loopback():
    cluster, job = spec_of(RAYCLUSTER), spec_of(RAYJOB)
    assert cluster["headGroupSpec"]["rayStartParams"].pop("dashboard-host") == LOOPBACK
    assert job["headGroupSpec"]["rayStartParams"].pop("dashboard-host") == "0.0.0.0"
    assert cluster == job


def test_from_outside_only_the_operator_reaches_ray_and_only_the_dashboard():
    policy = kubernetes_schema.read(NETWORK_POLICY)["spec"]
    ray_pods = {"matchLabels": {"app.kubernetes.io/created-by": "kuberay-operator"}}
    assert policy["podSelector"] == ray_pods
    assert policy["policyTypes"] == ["Ingress"]
    each_other, operator = policy["ingress"]
    assert each_other == {"from": [{"podSelector": ray_pods}]}
    assert operator["ports"] == [{"protocol": "TCP", "port": 8265}]


def test_the_rules_of_the_network_policy_are_ones_that_kubernetes_knows(schemas):
    options = schemas["RayCluster"]["properties"]["spec"]["properties"]["networkPolicy"]
    rules = options["properties"]["head"]["properties"]["ingressRules"]
    policy = kubernetes_schema.read(NETWORK_POLICY)["spec"]
    assert kubernetes_schema.errors(policy["ingress"], rules) == []


def test_a_retried_job_continues_the_run_on_storage_that_outlives_its_cluster():
    spec = kubernetes_schema.read(RAYJOB)["spec"]
    config = config_of(shlex.split(spec["entrypoint"]))
    assert spec["backoffLimit"] > 0
    assert config.resume == "auto"
    assert config.checkpoint.storage is None  # so checkpoints are in the run's folder,
    assert config.folder.parts[:2] == ("/", "runs")
    for pod in pods_of(spec["rayClusterSpec"]):  # which is on a claim in every pod
        [volume], [mount] = pod["volumes"], pod["containers"][0]["volumeMounts"]
        assert volume["persistentVolumeClaim"] == {"claimName": "dps-ray-runs"}
        assert mount == {"name": volume["name"], "mountPath": "/runs"}


def test_the_job_fits_its_cluster():
    spec = kubernetes_schema.read(RAYJOB)["spec"]
    nodes = [node_of(group) for group in spec["rayClusterSpec"]["workerGroupSpecs"]]
    assert_every_actor_has_its_place(config_of(shlex.split(spec["entrypoint"])), nodes)


def test_the_run_in_the_guide_fits_the_cluster_on_kubernetes():
    nodes = [node_of(group) for group in spec_of(RAYCLUSTER)["workerGroupSpecs"]]
    assert_every_actor_has_its_place(run_in_guide("Kubernetes: KubeRay"), nodes)
