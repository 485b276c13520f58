"""Releases of two small files for the tests."""

from __future__ import annotations

from services.core.releases import Release, ReleaseStore, writing


def publish(store: ReleaseStore, content: str, **extra: object) -> Release:
    with writing(store) as writer, writer.stage() as folder:
        (folder / "catalogue.sqlite").write_text(content)
        (folder / "ansel.hnsw").write_bytes(content.encode() * 3)
        return writer.publish(folder, space_id="space", counts={"ansel": 2}, extra=extra)


def text_of(release: Release) -> str:
    return release.file("catalogue.sqlite").read_text()
