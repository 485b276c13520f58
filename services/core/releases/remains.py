"""What is still sound in a store whose current release is damaged, for the next release to be built from."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from services.core.errors import ReleaseDamaged
from services.core.releases.manifest import damage_of
from services.core.releases.release import Release
from services.core.releases.store import ReleaseStore
from services.core.releases.writer import Writer


@dataclass(frozen=True)
class Remains:
    """A damaged store."""

    problem: str
    """What is wrong: the beginning of a sentence."""
    release_id: str
    """The damaged release; empty where `current` names none."""
    path: Path | None
    """Its folder; None where there is none."""
    releases: tuple[Release, ...]
    """What can be built upon, best first: the damaged release where its manifest is sound, with no file in it but the
    sound ones, and then every older release that is sound."""

    @property
    def named(self) -> dict[str, int]:
        """What the damaged release held, by its manifest; empty where that is damaged too."""
        best = self.releases[0] if self.releases else None
        return dict(best.manifest.counts) if best is not None and best.id == self.release_id else {}


def current_or_remains(store: ReleaseStore) -> tuple[Release | None, Remains | None]:
    """Returns the current release, None before the first; or, where it is damaged, None and what is left."""
    try:
        return store.current(), None
    except ReleaseDamaged as damage:
        return None, _remains(store, damage)


def replaced(writer: Writer, remains: Remains, advisor: str, origin: Mapping[str, Release]) -> list[str]:
    """Sets the damaged release aside, once another is current, and returns what became of it, in sentences.

    `advisor` was pre-computed in this run, and `origin` says which release each of the others was taken from.
    """
    damaged = remains.release_id
    for release in remains.releases:
        # Read to the end, and not to be mistaken for what a service reads.
        release.close()
    place = writer.set_aside(damaged) if damaged else None
    where = f"lies in {place} and may be removed" if place else "stays as long as a service reads it"
    lines = [f"{remains.problem}, and is replaced{f'; it {where}' if damaged else ''}."]
    for release in remains.releases:
        names = ", ".join(sorted(one for one, its in origin.items() if its is release and one != advisor))
        if names and release.id == damaged:
            lines.append(f"Intact in it, and kept: {names}.")
        elif names:
            lines.append(
                f"Kept as in release {release.id[:12]} of {release.manifest.created[:19]}: {names}; pre-compute what "
                "has changed since."
            )
    lost = ", ".join(sorted(set(remains.named) - set(origin) - {advisor}))
    if lost:
        lines.append(f"Not intact: {lost}; pre-compute again what is named here.")
    return lines


def _remains(store: ReleaseStore, damage: ReleaseDamaged) -> Remains:
    # Without what it says to do about it: that is being done.
    problem = str(damage).partition(";")[0]
    release_id, path = "", None
    with contextlib.suppress(ReleaseDamaged):
        release_id = store.current_id() or ""
        path = store.path_of(release_id)
    found: list[Release] = []
    created = ""
    if path is not None and path.is_dir():
        with contextlib.suppress(ReleaseDamaged):
            torn = store.open(release_id, whole=False)
            created = torn.manifest.created
            sound = {name: it for name, it in torn.manifest.files.items() if not damage_of(torn.path / name, it)}
            found.append(replace(torn, manifest=replace(torn.manifest, files=sound)))
    else:
        path = None
    for info in store.releases():
        # Newer ones were abandoned by a rollback, for reasons that are not known here.
        if info.id != release_id and (not created or info.created < created):
            with contextlib.suppress(ReleaseDamaged):
                found.append(store.open(info.id))
    return Remains(problem, release_id if path else "", path, tuple(found))
