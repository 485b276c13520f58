"""What has been pre-computed: the releases that the embedder and the scorer serve, as their manifests tell it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from services.cli.roster import EMBEDDER, SCORER, Service
from services.core.errors import ReleaseDamaged
from services.core.releases import ReleaseStore
from services.core.settings import CommonSettings

STORED: Final = (EMBEDDER, SCORER)
"""The services that serve releases."""


@dataclass(frozen=True)
class Holdings:
    """What a service's current release holds."""

    release: str = ""
    """The release's id; empty where there is none."""
    created: str = ""
    """When it was published: ISO 8601, UTC."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """References by advisor."""
    skipped: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    """Files left out by advisor, each with file_name, reason and sentence."""
    damage: str = ""
    """A sentence where the release cannot be served; else empty."""


def store_of(settings: CommonSettings, service: Service) -> ReleaseStore:
    """Returns the store of a service's releases."""
    return ReleaseStore(settings.data_dir / service.name)


def utc(created: str) -> str:
    """Returns a time of a manifest, ISO 8601, as people write it: 2026-01-31 09:00:00."""
    return created[:19].replace("T", " ")


def nothing_in(settings: CommonSettings) -> str:
    """Returns a sentence for where nothing has been pre-computed: which folder was looked into, and how to begin."""
    folder = settings.data_dir.absolute()
    return (
        f"Nothing has been pre-computed in {folder}; begin with `mondrian precompute --samples`, "
        "or name another folder in MONDRIAN_DATA_DIR."
    )


def advisors_in(settings: CommonSettings, service: Service) -> list[str]:
    """Returns the ids of the advisors in a service's current release by name, as its manifest tells it, unverified."""
    current = (info.counts for info in store_of(settings, service).releases() if info.current)
    return sorted(next(current, {}))


def holdings(settings: CommonSettings, service: Service) -> Holdings:
    """Returns what a service's current release holds, every byte of it verified."""
    try:
        release = store_of(settings, service).current()
    except ReleaseDamaged as error:
        return Holdings(damage=str(error))
    if release is None:
        return Holdings()
    manifest = release.manifest
    release.close()
    skipped = manifest.extra.get("skipped", {})
    return Holdings(
        release=release.id,
        created=manifest.created,
        counts=manifest.counts,
        skipped=skipped if isinstance(skipped, dict) else {},
    )
