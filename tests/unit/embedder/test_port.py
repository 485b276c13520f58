"""Another engine behind the port: what is served through it is what our own indexes serve."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from services.core.images.reading import sha256
from services.embedder.encoder import Matrix, Vector
from services.embedder.index import Hit
from services.embedder.references import Neighbor, References
from services.embedder.selection import Filter
from tests.pictures import photograph
from tests.unit.embedder.test_index import brute
from tests.unit.embedder.test_precompute import Shelf


class Engine:
    """Stands for an engine elsewhere: it knows vectors and labels, and nothing of this project but the port."""

    def __init__(self, vectors: Matrix) -> None:
        self._vectors = vectors
        self.asked = 0

    @property
    def count(self) -> int:
        """See ReferenceIndex."""
        return len(self._vectors)

    def search(self, query: Vector, top_k: int) -> list[Hit]:
        """See ReferenceIndex."""
        return self.search_among(query, top_k, np.arange(self.count))

    def search_among(self, query: Vector, top_k: int, labels: npt.NDArray[np.int64]) -> list[Hit]:
        """See ReferenceIndex."""
        self.asked += 1
        found = [int(labels[place]) for place in brute(self._vectors[labels], query, top_k)]
        # In double precision, as a photograph of two advisors must be equally near in both.
        exact = self._vectors[found].astype(np.float64) @ query.astype(np.float64)
        return [Hit(label, round(float(similarity), 6)) for label, similarity in zip(found, exact, strict=True)]


def same(ours: list[Neighbor], theirs: list[Neighbor]) -> bool:
    return [one.reference for one in ours] == [one.reference for one in theirs] and np.allclose(
        [one.similarity for one in ours], [one.similarity for one in theirs], atol=1e-5
    )


def test_references_are_served_through_another_engine(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    for advisor, seeds in (("ansel", range(30)), ("okeefe", range(25, 45))):
        folder = shelf.folder(advisor, seeds)
        tags = "".join(f"{seed:03d}.png: {{tags: [snow]}}\n" for seed in list(seeds)[::3])
        (folder / "metadata.yaml").write_text(tags)
        shelf.run(advisor)
    ours = shelf.references()
    engines = {one.id: Engine(ours.catalogue.matrix(one.id)) for one in ours.advisors}
    theirs = References(None, ours.release_id, ours.catalogue, dict(engines))
    snow = Filter.of(None, None, ["snow"])
    for seed in range(0, 60, 7):
        query = shelf.embedding(photograph(seed))
        for advisor in ("", "ansel", "okeefe"):
            for only in (None, snow):
                for diversity in (0.0, 0.6):
                    wanted = ours.nearest(query, 5, advisor=advisor, diversity=diversity, only=only)
                    got = theirs.nearest(query, 5, advisor=advisor, diversity=diversity, only=only)
                    assert same(got, wanted)
        without = sha256(photograph(26))
        assert same(theirs.nearest(query, 4, without=without), ours.nearest(query, 4, without=without))
    assert all(engine.asked > 10 for engine in engines.values())
