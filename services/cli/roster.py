"""The four services as `mondrian up` starts them: command, port, environment, health name."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import Field

from services.core.errors import ConfigurationError
from services.core.settings import MINI_DIR, CommonSettings, Profile, reachable, read_from

# glibc gives every large message back to the kernel and asks for it again; kept, a 2 MB request costs a third as much.
# With an arena for every thread each one gives back and asks for itself: two let the threads use each other's.
# Read by the C library before the process starts, so it can be set nowhere but here.
MALLOC: Final = {
    "MALLOC_MMAP_THRESHOLD_": str(64 * 1024 * 1024),
    "MALLOC_TRIM_THRESHOLD_": str(256 * 1024 * 1024),
    "MALLOC_TOP_PAD_": str(16 * 1024 * 1024),
    "MALLOC_ARENA_MAX": "2",
}


@dataclass(frozen=True, eq=False)
class Service:
    """What is fixed about a service."""

    name: str
    default_port: int
    colour: str
    model: Mapping[Profile, str]
    """The folder of its weights by profile, below deploy/mini/models or models_dir; empty where it has none."""

    @property
    def prefix(self) -> str:
        """The prefix of its environment variables."""
        return f"MONDRIAN_{self.name.upper()}_"

    @property
    def health_name(self) -> str:
        """The name that its health is asked by."""
        return f"mondrian.{self.name}.v1.{self.name.capitalize()}Service"


GATEWAY: Final = Service("gateway", 50050, "cyan", {})
EMBEDDER: Final = Service("embedder", 50051, "yellow", {"mini": "clip", "full": "ViT-B-32"})
CRITIC: Final = Service("critic", 50052, "magenta", {"mini": "vlm", "full": "Qwen3-VL-4B-Instruct"})
SCORER: Final = Service("scorer", 50053, "green", {})
BACKENDS: Final = (EMBEDDER, CRITIC, SCORER)
SERVICES: Final = (GATEWAY, *BACKENDS)


class Endpoint(CommonSettings):
    """What `up` reads of a service's own settings."""

    host: str = "127.0.0.1"
    """Where it listens."""
    port: int | None = Field(default=None, ge=0, le=65535)
    """The port; unset takes the service's own default, 0 a free one."""
    model_path: Path | None = None
    """The folder of its weights, where it is not the profile's."""
    adapters_dir: Path | None = None
    """The folder of its adapters, where it is not the profile's; only the critic has one."""
    tls_certificate: Path | None = None
    """Set, its port speaks TLS, and its health is asked at health_port."""
    health_port: int = Field(default=0, ge=0, le=65535)
    """The port that answers health checks alone."""


@dataclass(frozen=True)
class Plan:
    """A service as it is about to be started."""

    service: Service
    host: str
    port: int
    command: tuple[str, ...]
    environment: Mapping[str, str]
    health_port: int

    @property
    def address(self) -> str:
        """Where a client on this machine reaches it."""
        return f"{reachable(self.host)}:{self.port}"

    @property
    def health_address(self) -> str:
        """Where its health is asked, in plaintext."""
        return f"{reachable(self.host)}:{self.health_port}"


def plan_services(
    common: CommonSettings, *, free_ports: bool = False, gateway_port: int | None = None
) -> tuple[Plan, ...]:
    """Returns the four plans, the gateway first, with ports that are free now.

    Raises:
        ConfigurationError: a port is in use or taken twice, or a model's folder is missing.
    """
    endpoints = {service: endpoint_of(service) for service in SERVICES}
    ports: dict[Service, int] = {}
    for service, endpoint in endpoints.items():
        wanted = service.default_port if endpoint.port is None else endpoint.port
        if service is GATEWAY and gateway_port is not None:
            wanted = gateway_port
        if free_ports:
            wanted = 0
        ports[service] = claim_port(service, endpoint.host, wanted, taken=tuple(ports.values()))
    taken = list(ports.values())
    health_ports = dict(ports)
    for service, endpoint in endpoints.items():
        if endpoint.tls_certificate is not None:
            health_ports[service] = claim_port(service, endpoint.host, endpoint.health_port, taken, "HEALTH_PORT")
            taken.append(health_ports[service])
    for service in BACKENDS:
        require_model(service, common, endpoints[service].model_path)
    addresses = {service: f"{reachable(endpoints[service].host)}:{ports[service]}" for service in BACKENDS}
    return tuple(
        Plan(
            service=service,
            host=endpoints[service].host,
            port=ports[service],
            command=(sys.executable, "-m", "services.cli.leash", str(os.getpid()), f"services.{service.name}"),
            environment=_environment(service, common, ports[service], health_ports[service], addresses),
            health_port=health_ports[service],
        )
        for service in SERVICES
    )


def endpoint_of(service: Service) -> Endpoint:
    """Returns what the environment says of a service's address and model."""
    name, config = f"{service.name.capitalize()}Endpoint", read_from(service.prefix)
    kind: type[Endpoint] = type(name, (Endpoint,), {"model_config": config})
    return kind.load()


def model_folder(service: Service, common: CommonSettings, model_path: Path | None = None) -> Path | None:
    """Returns where a service's weights must lie; None where it has none."""
    if model_path is not None:
        return model_path
    name = service.model.get(common.profile)
    if name is None:
        return None
    return (MINI_DIR / "models" if common.profile == "mini" else common.models_dir) / name


def require_model(service: Service, common: CommonSettings, model_path: Path | None = None) -> None:
    """Checks that a service's weights are there.

    Raises:
        ConfigurationError: the folder is missing or holds no safetensors file.
    """
    folder = model_folder(service, common, model_path)
    if folder is None or any(folder.glob("*.safetensors")):
        return
    mend = (
        "fetch the weights with `mondrian models pull`"
        if common.profile == "full" and model_path is None
        else "restore it from the repository, or make the models anew with `make mini`"
        if model_path is None
        else f"set {service.prefix}MODEL_PATH to the folder that has them"
    )
    fault = "holds no .safetensors file" if folder.is_dir() else "does not exist"
    raise ConfigurationError(f"The {service.name}'s model folder {folder} {fault}; {mend}.")


def malloc_environment() -> dict[str, str]:
    """Returns the malloc settings that are not set already; they take effect in a process that is started with them."""
    return {name: value for name, value in MALLOC.items() if name not in os.environ}


def _environment(
    service: Service, common: CommonSettings, port: int, health_port: int, addresses: Mapping[Service, str]
) -> dict[str, str]:
    environment = {
        **os.environ,
        **malloc_environment(),
        "PYTHONUNBUFFERED": "1",
        "MONDRIAN_PROFILE": common.profile,
        "MONDRIAN_DATA_DIR": str(common.data_dir),
        "MONDRIAN_MODELS_DIR": str(common.models_dir),
        f"{service.prefix}PORT": str(port),
    }
    if health_port != port:
        environment[f"{service.prefix}HEALTH_PORT"] = str(health_port)
    if service is GATEWAY:
        environment |= {f"MONDRIAN_GATEWAY_{backend.name.upper()}": addresses[backend] for backend in BACKENDS}
    return environment


def claim_port(service: Service, host: str, port: int, taken: Sequence[int], variable: str = "PORT") -> int:
    """Returns a port that can be listened on: `port`, or a free one where it is 0; `variable` is what names it."""
    change = f"set {service.prefix}{variable} to another port, or let `mondrian up --free-ports` choose"
    if port and port in taken:
        raise ConfigurationError(f"Two services are to listen on port {port}; {change}.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As the server does: a port in TIME_WAIT counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), port))
        except OSError as error:
            raise ConfigurationError(
                f"The {service.name} cannot listen on {host}:{port} ({(error.strerror or 'unknown').lower()});"
                f" stop the process that has the port, {change}."
            ) from error
        return int(probe.getsockname()[1])
