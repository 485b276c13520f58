"""The manifests promise what a cluster will be asked for; each promise is checked in the base and in every overlay."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.verify.manifests import Object, applied_folders, containers, pod_specs, settings_of, written
from tests.unit.deploy.conftest import (
    K8S,
    MODEL_SERVICES,
    SERVICES,
    default_port,
    health_name,
    known_variables,
    load_with,
    project_version,
)

OVERLAYS = ("overlays/cpu", "overlays/gpu", "overlays/gpu-mig")
JOBS = ("jobs/precompute", "jobs/precompute-full", "jobs/precompute-samples", "jobs/model-pull")


def deployment(objects: list[Object], service: str) -> Object:
    (found,) = (entry for entry in objects if entry["kind"] == "Deployment" and entry["metadata"]["name"] == service)
    return found


def pod_of(objects: list[Object], service: str) -> Object:
    pod: Object = deployment(objects, service)["spec"]["template"]["spec"]
    return pod


def gpu_claims(objects: list[Object], service: str) -> dict[str, object]:
    (container,) = pod_of(objects, service)["containers"]
    limits = container["resources"]["limits"]
    return {name: count for name, count in limits.items() if name.startswith("nvidia.com/")}


def test_every_folder_to_apply_is_tested() -> None:
    assert {folder.relative_to(K8S).as_posix() for folder in applied_folders()} == {*OVERLAYS, *JOBS}


@pytest.mark.parametrize("service", SERVICES)
def test_probes_ask_the_right_names_on_the_right_port(manifests: list[Object], service: str) -> None:
    (container,) = pod_of(manifests, service)["containers"]
    ready = {"port": default_port(service), "service": health_name(service)}
    assert container["startupProbe"]["grpc"] == ready
    assert container["readinessProbe"]["grpc"] == ready
    assert container["livenessProbe"]["grpc"] == {"port": default_port(service), "service": "liveness"}
    # A busy pod is not a dead one.
    liveness = container["livenessProbe"]
    assert liveness["timeoutSeconds"] >= 5
    assert liveness["failureThreshold"] >= 6


@pytest.mark.parametrize("service", SERVICES)
def test_ports_are_the_defaults_of_the_settings(manifests: list[Object], service: str) -> None:
    (container,) = pod_of(manifests, service)["containers"]
    assert {"name": "grpc", "containerPort": default_port(service)} in container["ports"]
    (entry,) = (entry for entry in manifests if entry["kind"] == "Service" and entry["metadata"]["name"] == service)
    assert entry["spec"]["clusterIP"] == "None"
    assert [port["port"] for port in entry["spec"]["ports"]] == [default_port(service)]


def test_every_pod_is_restricted(manifests: list[Object]) -> None:
    specs = list(pod_specs(manifests))
    assert len(specs) == len(SERVICES)
    for name, pod in specs:
        assert_restricted(name, pod)


def assert_restricted(name: str, pod: Object) -> None:
    context = pod["securityContext"]
    assert context["runAsNonRoot"] is True, name
    assert context["runAsUser"] >= 10_000, name
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name
    assert pod["automountServiceAccountToken"] is False, name
    # A Service called embedder would otherwise put EMBEDDER_PORT=tcp://... into every pod's environment.
    assert pod["enableServiceLinks"] is False, name
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(), name
    for container in containers(pod):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, name
        assert "memory" in container["resources"]["limits"], name
        assert "cpu" not in container["resources"]["limits"], name
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), name


@pytest.mark.parametrize("service", SERVICES)
def test_each_service_has_its_account_budget_and_policy(manifests: list[Object], service: str) -> None:
    named = {entry["kind"]: entry for entry in manifests if entry["metadata"]["name"] == service}
    assert {"Deployment", "Service", "ServiceAccount", "PodDisruptionBudget", "NetworkPolicy"} <= named.keys()
    assert pod_of(manifests, service)["serviceAccountName"] == service
    assert named["ServiceAccount"]["automountServiceAccountToken"] is False
    assert named["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1
    selector = {"app.kubernetes.io/name": service}
    template = deployment(manifests, service)["spec"]["template"]["metadata"]["labels"]
    assert selector.items() <= template.items()
    assert named["Service"]["spec"]["selector"] == selector
    assert named["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == selector
    assert named["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == selector


def test_model_services_call_nobody_and_only_the_gateway_calls_them(manifests: list[Object]) -> None:
    policies = {entry["metadata"]["name"]: entry["spec"] for entry in manifests if entry["kind"] == "NetworkPolicy"}
    assert policies["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for service in MODEL_SERVICES:
        policy = policies[service]
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        assert "egress" not in policy
        callers = [rule["from"] for rule in policy["ingress"] if {"port": "grpc"} in rule["ports"]]
        assert callers == [[{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "gateway"}}}]]
    reached = {port["port"] for rule in policies["gateway"]["egress"] for port in rule["ports"]}
    assert reached == {53, *(default_port(service) for service in MODEL_SERVICES)}


def test_images_carry_the_project_version_and_no_registry(manifests: list[Object]) -> None:
    for name, pod in pod_specs(manifests):
        for container in containers(pod):
            repository, _, tag = container["image"].partition(":")
            assert repository == f"mondrian/{name}"
            assert tag == project_version() or tag.startswith(f"{project_version()}-"), container["image"]


def test_serving_pods_write_nothing_but_their_scratch_folder(manifests: list[Object]) -> None:
    for name, pod in pod_specs(manifests):
        kinds = {volume["name"]: volume.keys() - {"name"} for volume in pod["volumes"]}
        for container in containers(pod):
            for mount in container["volumeMounts"]:
                if "persistentVolumeClaim" in kinds[mount["name"]]:
                    assert mount.get("readOnly") is True, f"{name} {mount['name']}"


@pytest.mark.parametrize("service", SERVICES)
def test_settings_exist_and_load(
    manifests: list[Object], service: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environment = settings_of(pod_of(manifests, service), manifests)
    mondrian = {name for name in environment if name.startswith("MONDRIAN_")}
    assert mondrian
    assert mondrian <= known_variables(service)
    # It would overrule what the device plugin assigned.
    assert "CUDA_VISIBLE_DEVICES" not in environment
    settings = load_with(service, environment, monkeypatch, tmp_path)
    assert settings.port == default_port(service)
    assert settings.host == "0.0.0.0"
    assert settings.metrics_port == 9090


@pytest.mark.parametrize("service", SERVICES)
def test_a_pod_is_given_the_time_that_its_drain_takes(
    manifests: list[Object], service: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pod = pod_of(manifests, service)
    settings = load_with(service, settings_of(pod, manifests), monkeypatch, tmp_path)
    before = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > before + settings.lame_duck_s + settings.drain_s


def test_a_drain_outlasts_the_longest_call(
    manifests: list[Object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from services.gateway.settings import GatewaySettings

    loaded = {
        service: load_with(service, settings_of(pod_of(manifests, service), manifests), monkeypatch, tmp_path)
        for service in SERVICES
    }
    gateway = loaded["gateway"]
    assert isinstance(gateway, GatewaySettings)
    assert gateway.drain_s >= max(gateway.combined_deadline_s, gateway.lora_deadline_s)
    assert loaded["critic"].drain_s >= gateway.lora_deadline_s
    assert loaded["embedder"].drain_s >= gateway.clip_deadline_s
    assert loaded["scorer"].drain_s >= gateway.dimensional_deadline_s


def test_gateway_names_its_backends(manifests: list[Object]) -> None:
    environment = settings_of(pod_of(manifests, "gateway"), manifests)
    for service in MODEL_SERVICES:
        assert environment[f"MONDRIAN_GATEWAY_{service.upper()}"] == f"dns:///{service}:{default_port(service)}"


def test_cpu_overlay_claims_no_gpu(rendered: Callable[[str], list[Object]]) -> None:
    objects = rendered("overlays/cpu")
    assert all(gpu_claims(objects, service) == {} for service in SERVICES)


def test_gpu_overlay_gives_each_model_service_one_gpu_of_its_own(rendered: Callable[[str], list[Object]]) -> None:
    objects = rendered("overlays/gpu")
    assert gpu_claims(objects, "gateway") == {}
    for service in MODEL_SERVICES:
        assert gpu_claims(objects, service) == {"nvidia.com/gpu": 1}
        environment = settings_of(pod_of(objects, service), objects)
        assert environment["MONDRIAN_PROFILE"] == "full"
        # Not "auto": a pod whose GPU is missing must say so instead of serving from the CPU.
        assert environment[f"MONDRIAN_{service.upper()}_DEVICE"] == "cuda"
        # The default surge would wait for ever for a spare GPU.
        rolling = deployment(objects, service)["spec"]["strategy"]["rollingUpdate"]
        assert rolling == {"maxSurge": 0, "maxUnavailable": 1}


def test_mig_overlay_gives_each_model_service_one_slice(rendered: Callable[[str], list[Object]]) -> None:
    objects = rendered("overlays/gpu-mig")
    assert gpu_claims(objects, "gateway") == {}
    for service in MODEL_SERVICES:
        (claim,) = gpu_claims(objects, service).items()
        assert claim[0].startswith("nvidia.com/mig-")
        assert claim[1] == 1


def test_gpu_claims_as_written_without_kustomize() -> None:
    patches = [entry for entry in written(K8S / "overlays" / "gpu") if entry["metadata"]["name"] in SERVICES]
    assert {entry["metadata"]["name"] for entry in patches} == set(MODEL_SERVICES)
    for service in MODEL_SERVICES:
        assert gpu_claims(patches, service) == {"nvidia.com/gpu": 1}


@pytest.mark.parametrize("job", JOBS)
def test_jobs_are_restricted_and_name_settings_that_exist(rendered: Callable[[str], list[Object]], job: str) -> None:
    objects = rendered(job)
    ((name, pod),) = pod_specs(objects)
    assert_restricted(name, pod)
    environment = settings_of(pod, objects)
    services = {container["image"].partition(":")[0].removeprefix("mondrian/") for container in containers(pod)}
    if job == "jobs/model-pull":
        assert services == {"cli"}
        assert environment["HF_HUB_OFFLINE"] == "0"
        return
    assert services == {"embedder", "scorer"}
    variables = set().union(*(known_variables(service) for service in services))
    assert {variable for variable in environment if variable.startswith("MONDRIAN_")} <= variables
    for container in containers(pod):
        service = container["image"].partition(":")[0].removeprefix("mondrian/")
        assert container["command"] == ["python", "-m", f"services.{service}.precompute"]


@pytest.mark.parametrize(
    ("overlay", "job"),
    [
        ("overlays/cpu", "jobs/precompute-samples"),
        ("overlays/cpu", "jobs/precompute"),
        ("overlays/gpu", "jobs/precompute-full"),
        ("overlays/gpu-mig", "jobs/precompute-full"),
    ],
)
def test_a_release_is_made_in_the_arithmetic_that_serves_it(
    rendered: Callable[[str], list[Object]], overlay: str, job: str
) -> None:
    served, made = rendered(overlay), rendered(job)
    ((_, pod),) = pod_specs(made)
    serving, making = settings_of(pod_of(served, "embedder"), served), settings_of(pod, made)
    for name in ("MONDRIAN_PROFILE", "MONDRIAN_EMBEDDER_DTYPE"):
        assert serving[name] == making[name]
