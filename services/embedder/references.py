"""The references of one release, loaded: what a search reads from its beginning to its end."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from services.core.errors import AdvisorNotFound, ConfigurationError, NoRelease, ReferenceNotFound
from services.core.releases import Release
from services.embedder.catalogue import DAMAGED, FILE_NAME, Catalogue
from services.embedder.encoder import Vector
from services.embedder.index import Hit, ReferenceIndex
from services.embedder.indexing import IndexRecord, load_index
from services.embedder.records import AdvisorRecord, ReferenceRecord
from services.embedder.selection import Facets, Filter, diverse

# A reference's own embedding must come back as itself; equal photographs in one folder are stored once.
_CANARY = 0.9999
# How many times top_k references are looked at where those shown are to differ.
_CANDIDATES = 10


@dataclass(frozen=True)
class Neighbor:
    """A reference and how near it is."""

    reference: ReferenceRecord
    similarity: float
    """The cosine, -1 to 1."""


class References:
    """A release as it is served. It never changes; another release is another object."""

    def __init__(
        self,
        release: Release | None,
        release_id: str,
        catalogue: Catalogue,
        indexes: dict[str, ReferenceIndex],
    ) -> None:
        # Held so that the release is not collected while it is read.
        self._release = release
        self.release_id = release_id
        self.catalogue = catalogue
        self._indexes = indexes
        self.advisors: Sequence[AdvisorRecord] = catalogue.advisors()
        self._facets = {one.id: Facets(catalogue.facets(one.id)) for one in self.advisors}

    def embedding_of(self, photograph_id: str) -> Vector | None:
        """Returns the embedding of a photograph that is a reference; None where it is not, or is damaged: the encoder
        can tell it as well."""
        with contextlib.suppress(NoRelease):
            return self.catalogue.embedding(photograph_id)
        return None

    def nearest(
        self,
        query: Vector,
        top_k: int,
        *,
        advisor: str = "",
        without: str | None = None,
        diversity: float = 0.0,
        only: Filter | None = None,
    ) -> list[Neighbor]:
        """Returns `top_k` references near to a unit vector: nearest first, equal ones by id, then advisor.

        An empty `advisor` searches all. `without` is the id of a reference to leave out. `diversity` (0 to 1) above 0
        takes references that differ among the 10 x `top_k` nearest; `only` is what a reference must have.

        Raises:
            AdvisorNotFound: the release has no such advisor.
        """
        indexes = self._indexes if not advisor else {advisor: self._index(advisor)}
        left_out = {(one.advisor, one.label) for one in self.catalogue.references_of(without)} if without else set()
        candidates = top_k * _CANDIDATES if diversity else top_k
        hits: list[tuple[Hit, str]] = []
        for name, index in indexes.items():
            if only is None:
                # One more where its place will be free.
                found = index.search(query, min(candidates + bool(left_out), index.count))
            else:
                found = index.search_among(query, candidates + bool(left_out), self._facets[name].fitting(only))
            hits.extend((hit, name) for hit in found if (name, hit.label) not in left_out)
        if len(hits) > candidates:
            # Whoever is less similar than the last one wanted need not be looked up.
            least = sorted((hit.similarity for hit, _ in hits), reverse=True)[candidates - 1]
            hits = [(hit, name) for hit, name in hits if hit.similarity >= least]
        neighbors = [Neighbor(self._at(name, hit.label), hit.similarity) for hit, name in hits]
        neighbors.sort(key=lambda one: (-one.similarity, one.reference.entry.id, one.reference.advisor))
        if diversity and len(neighbors) > 1:
            vectors = np.stack([self.stored(one.reference.entry.id) for one in neighbors])
            places = diverse([one.similarity for one in neighbors], vectors, top_k, diversity)
            return [neighbors[place] for place in places]
        return neighbors[:top_k]

    def reference(self, reference_id: str, advisor: str = "") -> ReferenceRecord:
        """Returns a reference of an advisor, or of the first that has it by id.

        Raises:
            AdvisorNotFound: the release has no such advisor.
            ReferenceNotFound: the advisor has no such reference, or none has.
        """
        if advisor:
            self._index(advisor)
        for record in self.catalogue.references_of(reference_id):
            if advisor in ("", record.advisor):
                return record
        owner = f"the advisor {advisor}" if advisor else "any advisor"
        raise ReferenceNotFound(
            f"The reference {reference_id[:12]} is not among those of {owner}; search for it first.",
            metadata={"release": self.release_id},
        )

    def stored(self, reference_id: str) -> Vector:
        """Returns the embedding of a reference.

        Raises:
            ReferenceNotFound: no advisor has it.
        """
        vector = self.embedding_of(reference_id)
        if vector is None:
            self.reference(reference_id)
            raise NoRelease(DAMAGED)
        return vector

    def require_advisor(self, advisor: str) -> None:
        """Accepts the id of an advisor of the release, and the empty one, which means all.

        Raises:
            AdvisorNotFound: the release has no such advisor.
        """
        if advisor:
            self._index(advisor)

    def _at(self, advisor: str, label: int) -> ReferenceRecord:
        record = self.catalogue.reference(advisor, label)
        if record is None:
            # Both were verified together: the catalogue's file has changed since.
            raise NoRelease(DAMAGED)
        return record

    def _index(self, advisor: str) -> ReferenceIndex:
        if advisor not in self._indexes:
            raise AdvisorNotFound(
                f"There is no advisor {advisor[:64]!r}; ListAdvisors names those that have been pre-computed.",
                metadata={"advisor": advisor[:64], "release": self.release_id},
            )
        return self._indexes[advisor]


def load_references(release: Release, *, space_id: str, encoder_name: str, dimensions: int) -> References:
    """Returns a verified release ready to be searched, after a canary query on every index.

    Raises:
        ConfigurationError: it was computed in another space, or index and catalogue do not fit together.
    """
    if release.manifest.space_id != space_id:
        raise ConfigurationError(
            f"Release {release.id[:12]} was pre-computed in space {release.manifest.space_id or 'unknown'}, and the "
            f"encoder {encoder_name} has space {space_id}; pre-compute the advisors again with this encoder, or start "
            "the service with the other one."
        )
    catalogue = Catalogue(release.file(FILE_NAME), dimensions)
    try:
        described: dict[str, dict[str, Any]] = dict(release.manifest.extra.get("indexes", {}))
        indexes: dict[str, ReferenceIndex] = {}
        for advisor in catalogue.advisors():
            if advisor.id not in described:
                raise ConfigurationError(f"Release {release.id[:12]} has no index of {advisor.id}.")
            record = IndexRecord.from_json(described[advisor.id])
            if (record.dimensions, record.count) != (dimensions, advisor.reference_count):
                raise ConfigurationError(
                    f"Release {release.id[:12]} has {advisor.reference_count} references of {advisor.id} and an "
                    f"index of {record.count} x {record.dimensions}, where the encoder has {dimensions} dimensions."
                )
            graph = release.file(index_file(advisor.id)) if record.method == "hnsw" else None
            indexes[advisor.id] = load_index(record, graph, catalogue.matrix(advisor.id))
        references = References(release, release.id, catalogue, indexes)
        for advisor in references.advisors:
            _canary(references, advisor)
    except BaseException:
        catalogue.close()
        raise
    return references


def index_file(advisor: str) -> str:
    """Returns the name of an advisor's index in a release."""
    return f"{advisor}.hnsw"


def _canary(references: References, advisor: AdvisorRecord) -> None:
    """Searches for the first, a middle and the last reference: each must find itself."""
    for label in {0, advisor.reference_count // 2, advisor.reference_count - 1}:
        record = references.catalogue.reference(advisor.id, label)
        vector = references.catalogue.embedding(record.entry.id) if record is not None else None
        found = references.nearest(vector, 1, advisor=advisor.id) if vector is not None else []
        if not found or found[0].similarity < _CANARY:
            raise ConfigurationError(
                f"Release {references.release_id[:12]} does not find the references of {advisor.id} by themselves; "
                "pre-compute the advisor again."
            )
