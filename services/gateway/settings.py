"""The gateway's settings, read from MONDRIAN_GATEWAY_*."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from mondrian.gateway.v1 import gateway_pb2
from pydantic import Field, model_validator

from services.core.settings import ServiceSettings, read_from
from services.gateway.modes import Mode

# host, host:port, [v6]:port, or with a resolver in front: dns:///, ipv4:, ipv6:, unix:. Without one, dns:/// is meant.
_ADDRESS = r"^[A-Za-z0-9_.:\[\]/,-]+$"


class GatewaySettings(ServiceSettings):
    """Where the backends are, how long a mode may take, and how much is let in."""

    model_config = read_from("MONDRIAN_GATEWAY_")
    unread = frozenset({"profile", "data_dir", "models_dir"})
    # What the gateway's clients show it.
    read_elsewhere = frozenset({"tls_authority", "tls_client_certificate", "tls_client_key"})

    port: int = Field(default=50050, ge=0, le=65535)
    """The port to listen on; 0 takes a free one."""
    embedder: str = Field(default="127.0.0.1:50051", pattern=_ADDRESS)
    """The embedder's address, host:port; a name with several addresses is balanced over all of them."""
    critic: str = Field(default="127.0.0.1:50052", pattern=_ADDRESS)
    """The critic's address, host:port."""
    scorer: str = Field(default="127.0.0.1:50053", pattern=_ADDRESS)
    """The scorer's address, host:port."""

    backend_tls_authority: Path | None = None
    """A PEM file with the authority that signed the backends' certificates; set, the gateway calls them by TLS."""
    backend_tls_certificate: Path | None = None
    """A PEM file with the certificate that the gateway shows to backends that ask for one (mTLS)."""
    backend_tls_key: Path | None = None
    """A PEM file with that certificate's private key."""
    backend_tokens_file: Path | None = None
    """A file whose first line is the bearer token that the gateway sends to the backends."""

    clip_deadline_s: float = Field(default=15.0, gt=0)
    """Seconds that CLIP may take where the client sets no deadline."""
    lora_deadline_s: float = Field(default=90.0, gt=0)
    """Seconds that LORA may take where the client sets no deadline."""
    dimensional_deadline_s: float = Field(default=30.0, gt=0)
    """Seconds that DIMENSIONAL may take where the client sets no deadline."""
    combined_deadline_s: float = Field(default=90.0, gt=0)
    """Seconds that COMBINED may take where the client sets no deadline."""

    max_in_flight: int = Field(default=256, ge=1)
    """The greatest number of Analyze and StreamAnalyze calls answered at once; one more is refused at once."""
    max_batches: int = Field(default=32, ge=1)
    """The greatest number of AnalyzeBatch calls answered at once; one more is refused at once."""
    batch_in_flight: int = Field(default=32, ge=1)
    """The greatest number of photographs in flight in one AnalyzeBatch call; the next is read when one is done."""
    max_batch_in_flight: int = Field(default=128, ge=1)
    """The greatest number of photographs in flight in all AnalyzeBatch calls together; more wait for their turn."""
    start_gate_s: float = Field(default=20.0, ge=0)
    """Seconds that the start waits for the backends; after them the gateway serves what it can reach."""
    connect_s: float = Field(default=5.0, gt=0)
    """Seconds after which an attempt to connect to a backend is given up."""

    @model_validator(mode="after")
    def _shows_itself_whole(self) -> Self:
        if (self.backend_tls_certificate is None) != (self.backend_tls_key is None):
            raise ValueError("backend_tls_certificate and backend_tls_key are set together or not at all")
        if self.backend_tls_certificate is not None and self.backend_tls_authority is None:
            raise ValueError("backend_tls_certificate needs backend_tls_authority")
        return self

    def deadline_s(self, mode: Mode) -> float:
        """Returns the seconds that a mode may take where the client sets no deadline."""
        seconds: dict[Mode, float] = {
            gateway_pb2.MODE_CLIP: self.clip_deadline_s,
            gateway_pb2.MODE_LORA: self.lora_deadline_s,
            gateway_pb2.MODE_DIMENSIONAL: self.dimensional_deadline_s,
        }
        return seconds.get(mode, self.combined_deadline_s)
