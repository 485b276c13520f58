"""Certificates for tests, made by openssl: an authority, and what it signs for 127.0.0.1 and localhost."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_KEY: Final = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as PEM files."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Authority:
    """Signs certificates; made anew, it is another one of the same name."""

    folder: Path
    name: str = "authority"

    def __post_init__(self) -> None:
        _openssl("req", "-x509", *_KEY, "-days", "1", "-subj", f"/CN={self.name}", *self._pair(self.name))

    @property
    def certificate(self) -> Path:
        """Returns the certificate that others trust."""
        return self.folder / f"{self.name}.crt"

    def issue(self, name: str) -> Pair:
        """Returns a certificate of `name` that it signs, in place of an older one."""
        signer = ("-CA", str(self.certificate), "-CAkey", str(self.folder / f"{self.name}.key"))
        hosts = ("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
        _openssl("req", "-x509", *_KEY, "-days", "1", "-subj", f"/CN={name}", *hosts, *signer, *self._pair(name))
        return Pair(self.folder / f"{name}.crt", self.folder / f"{name}.key")

    def _pair(self, name: str) -> tuple[str, ...]:
        return "-out", str(self.folder / f"{name}.crt"), "-keyout", str(self.folder / f"{name}.key")


def _openssl(*words: str) -> None:
    subprocess.run(("openssl", *words), check=True, capture_output=True)
