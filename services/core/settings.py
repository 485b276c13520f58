"""Settings that every service has; each service adds its own.

A setting is read once, at start-up, from the environment: the service's prefix and the setting's name in upper case
(MONDRIAN_SCORER_PORT). What is not set for one service falls back to the common prefix (MONDRIAN_DATA_DIR).
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Final, Literal, Self

from pydantic import ByteSize, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings.sources import EnvSettingsSource

from services.core.errors import ConfigurationError

COMMON_PREFIX: Final = "MONDRIAN_"
MINI_DIR: Final = Path(__file__).resolve().parents[2] / "deploy" / "mini"
"""The embedded default: small models and sample advisors."""

MOST: Final = 1_000_000
"""The greatest value of a setting that is no whole number."""

Profile = Literal["mini", "full"]


def read_from(prefix: str) -> SettingsConfigDict:
    """Returns the `model_config` of a settings class that reads variables behind `prefix` first, and MONDRIAN_ next."""
    return SettingsConfigDict(
        env_prefix=prefix, frozen=True, extra="ignore", use_attribute_docstrings=True, env_ignore_empty=True
    )


class CommonSettings(BaseSettings):
    """What services and command line share."""

    model_config = read_from(COMMON_PREFIX)
    read_elsewhere: ClassVar[frozenset[str]] = frozenset()
    """Names behind the same prefix that others read."""
    unread: ClassVar[frozenset[str]] = frozenset()
    """Names of common settings that this service has no use for."""

    profile: Profile = "mini"
    """Which models are served: `mini` (embedded, small) or `full` (ViT-B-32 and Qwen3-VL-4B from models_dir)."""
    data_dir: Path = Path(".mondrian")
    """The folder of the releases; precompute writes it, serving reads it."""
    models_dir: Path = Path(".mondrian/models")
    """The folder of the weights of profile `full`."""

    @field_validator("*")
    @classmethod
    def _within_reach(cls, value: object) -> object:
        # Eleven days in seconds: the libraries that take them count milliseconds in 32 bits.
        if isinstance(value, float) and value > MOST:
            raise ValueError(f"must be {MOST:,} or less")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Returns the sources in order: arguments, the service's own variables, the common ones."""
        common = EnvSettingsSource(settings_cls, env_prefix=COMMON_PREFIX, env_ignore_empty=True)
        return init_settings, env_settings, common

    @classmethod
    def prefix(cls) -> str:
        """Returns what the names of the service's own variables begin with: MONDRIAN_SCORER_."""
        return str(cls.model_config.get("env_prefix"))

    @classmethod
    def service(cls) -> str:
        """Returns the service's name: scorer."""
        return cls.prefix().removeprefix(COMMON_PREFIX).rstrip("_").lower()

    @classmethod
    def load(cls, **overrides: object) -> Self:
        """Returns the settings of this process.

        Raises:
            ConfigurationError: a value is out of range; the sentence names the variable.
        """
        try:
            return cls(**overrides)  # type: ignore[arg-type]
        except ValidationError as error:
            faults = "; ".join(_sentence(cls.prefix(), fault["loc"], fault["msg"]) for fault in error.errors())
            raise ConfigurationError(f"The settings do not fit: {faults}.") from error


def _sentence(prefix: str, place: tuple[int | str, ...], message: str) -> str:
    """Returns a fault with its variable in front; one that concerns several variables names them itself."""
    words = message.removeprefix("Value error, ")
    return f"{prefix}{'_'.join(str(part) for part in place).upper()}: {words}" if place else words


class ServiceSettings(CommonSettings):
    """What every service has."""

    host: str = "127.0.0.1"
    """The address to listen on; loopback unless set. Containers set 0.0.0.0."""
    port: int = Field(default=0, ge=0, le=65535)
    """The port to listen on; 0 takes a free one."""
    allow_plaintext: bool = False
    """Whether an address beyond loopback may be served without TLS, as inside a cluster's network policy."""
    tls_certificate: Path | None = None
    """A PEM file with the server's certificate chain; with tls_key it turns on TLS."""
    tls_key: Path | None = None
    """A PEM file with the certificate's private key."""
    tls_client_ca: Path | None = None
    """A PEM file with the authority whose client certificates are required (mTLS); unset asks for none."""
    tokens_file: Path | None = None
    """A file with the bearer tokens that are accepted, one a line, read again when it changes; unset asks for none."""
    health_port: int = Field(default=0, ge=0, le=65535)
    """A port that answers health checks alone, in plaintext, for probes without a client certificate; 0 has none."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """How much is logged; photographs and critiques never are."""
    log_format: Literal["text", "json"] = "text"
    """One line of text, or one JSON object, a record."""
    metrics_port: int = Field(default=0, ge=0, le=65535)
    """The port of Prometheus metrics on the same host; 0 serves none."""
    max_bytes_in_flight: ByteSize = ByteSize(256 * 1024 * 1024)
    """The greatest total size of the requests answered at once, in bytes; one that does not fit beside the others is
    refused. The gateway's batches have as much room of their own, and wait for it."""
    max_connection_age_s: float = Field(default=60.0, gt=0)
    """Seconds after which a client's connection is renewed, so that new replicas get traffic."""
    drain_s: float = Field(default=30.0, ge=0)
    """Seconds that calls in flight are given after SIGTERM; longer than the longest deadline that clients set."""
    lame_duck_s: float = Field(default=0.0, ge=0)
    """Seconds between answering NOT_SERVING and refusing new calls, for clients to notice; 3 on Kubernetes."""

    @model_validator(mode="after")
    def _listens_safely(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key are set together or not at all")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("tls_client_ca needs tls_certificate and tls_key")
        if not (is_loopback(self.host) or self.tls_certificate or self.allow_plaintext):
            raise ValueError(
                f"listening on {self.host} without TLS needs allow_plaintext=true, or tls_certificate and tls_key"
            )
        return self


class ModelSettings(ServiceSettings):
    """What the services that own a model have."""

    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """Where the model runs: `auto` (the GPU where there is one), `cpu`, `cuda` or `cuda:0`."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """The arithmetic of the model; `auto` is bfloat16 where the hardware has it."""
    device_memory_fraction: float = Field(default=0.9, gt=0, le=1)
    """The share of the GPU's memory that this process may claim."""
    torch_threads: int = Field(default=0, ge=0)
    """Threads of the arithmetic on a CPU; 0 means as many as the process may use (its cgroup's quota)."""
    max_batch: int = Field(default=32, ge=1, le=1024)
    """The greatest number of items that the model runs at once."""
    max_queue: int = Field(default=256, ge=1)
    """The greatest number of items that wait; one more is refused with RESOURCE_EXHAUSTED."""
    max_image_bytes: ByteSize = ByteSize(15 * 1024 * 1024)
    """The greatest encoded photograph that is accepted, in bytes."""
    max_image_pixels: int = Field(default=100_000_000, ge=1)
    """The greatest number of pixels that a photograph's header may name."""


class ReferenceSettings(ModelSettings):
    """Settings of the services that pre-compute references and serve releases of them."""

    decode_threads: int = Field(default=0, ge=0)
    """Threads that decode photographs beside the model; 0 means one for each CPU the process may use."""
    cache_entries: int = Field(default=10_000, ge=0)
    """How many photographs and texts are remembered with what was computed of them: embeddings take about 2 KB each."""
    poll_s: float = Field(default=1.0, gt=0)
    """Seconds between two looks for a new release."""
    verify_s: float = Field(default=3600.0, ge=0)
    """Seconds between two comparisons of every byte of the served release with what was published; 0 for never."""
    keep_releases: int = Field(default=5, ge=0)
    """How many older releases precompute leaves to roll back to."""

    @property
    def releases_root(self) -> Path:
        """The root of the service's releases."""
        return self.data_dir / self.service()


def before_port(host: str) -> str:
    """Returns a host as it is written before a colon and a port: an IPv6 address in brackets."""
    try:
        return f"[{host}]" if ipaddress.ip_address(host).version == 6 else host
    except ValueError:
        return host


def is_loopback(host: str) -> bool:
    """Returns whether an address can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def reachable(host: str) -> str:
    """Returns the host by which a client on this machine reaches a server that listens on `host`."""
    host = before_port(host)
    return {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)


def available_cpus() -> int:
    """Returns the number of CPUs that this process may use: affinity, and the cgroup's quota rounded up; 1 and more."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cpus, *quotas()]))


def quotas(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> list[int]:
    """Returns the quotas that apply to this process, in CPUs rounded up: its cgroup's and those of the cgroups above.

    Version 2 (cpu.max) is read as far up as it can be seen; version 1 where a container sees its own, at the top.
    """
    found = []
    for quota, period in (*_version_2(root, own), *_version_1(root)):
        # "max", or -1 in version 1, is none.
        if quota.isdecimal() and period.isdecimal() and int(period):
            found.append(-(-int(quota) // int(period)))
    return found


def _version_2(root: Path, own: Path) -> Iterator[tuple[str, str]]:
    with contextlib.suppress(OSError):
        places = [line.partition("::")[2] for line in own.read_text().splitlines() if line.startswith("0::")]
        folders = {root, *(root / place.lstrip("/") for place in places)}
        around = {above for folder in folders for above in (folder, *folder.parents) if above.is_relative_to(root)}
        for folder in around:
            with contextlib.suppress(OSError):
                quota, _, period = (folder / "cpu.max").read_text().strip().partition(" ")
                yield quota, period


def _version_1(root: Path) -> Iterator[tuple[str, str]]:
    with contextlib.suppress(OSError):
        yield (
            (root / "cpu" / "cpu.cfs_quota_us").read_text().strip(),
            (root / "cpu" / "cpu.cfs_period_us").read_text().strip(),
        )
