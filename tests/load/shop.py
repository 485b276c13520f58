"""What is broken by force: two small advisors, their releases, and what a client is answered from them."""

from __future__ import annotations

import functools
import os
import random
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from services.core.errors import ConfigurationError, MondrianError
from services.core.images.reading import sha256
from services.core.releases import ReleaseStore, collect
from services.embedder import precompute
from services.embedder.encoder import Vector
from services.embedder.references import References, load_references
from tests.fakes.encoder import FakeEncoder
from tests.pictures import advisor_folder, photograph

_CRASHED = 70
ADVISORS = {"ansel": range(6), "okeefe": range(4, 9)}


class Broken(AssertionError):
    """Something broken is served, something intact is lost, or a refusal is no sentence."""


@dataclass(frozen=True)
class Shop:
    """A folder with two advisors and a store."""

    folder: Path

    @property
    def data(self) -> Path:
        """Where releases go."""
        return self.folder / "data"

    @property
    def store(self) -> ReleaseStore:
        """The releases."""
        return ReleaseStore(self.data / "embedder")

    def fill(self) -> None:
        """Publishes the advisors, searched by graphs, in one only release."""
        for advisor, seeds in ADVISORS.items():
            advisor_folder(self.folder / advisor, seeds)
            code, said = self.run(advisor)
            if code:
                raise Broken(said)
        collect(self.store, 0)

    def run(self, advisor: str, data: Path | None = None, prepare: Callable[[], None] | None = None) -> tuple[int, str]:
        """Returns the exit code of a run in a process of its own (negative: the signal), and what it wrote."""
        child, said = self.start(advisor, data, prepare)
        _, status = os.waitpid(child, 0)
        with open(said, encoding="utf-8") as written:
            return os.waitstatus_to_exitcode(status), written.read()

    def start(
        self, advisor: str, data: Path | None = None, prepare: Callable[[], None] | None = None
    ) -> tuple[int, int]:
        """Returns the process of a run, and the descriptor of what it writes."""
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            code = _CRASHED
            try:
                for stream in (sys.stdout, sys.stderr):
                    os.dup2(writing, stream.fileno())
                if prepare is not None:
                    prepare()
                where = ["--advisor-dir", str(self.folder / advisor), "--data-dir", str(data or self.data)]
                code = precompute.run([*where, "--quiet"], make_encoder=lambda settings: FakeEncoder())
                sys.stdout.flush()
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(writing)
        return child, reading

    def references(self) -> References:
        """Returns the current release as a server loads it."""
        release = self.store.current()
        if release is None:
            raise Broken("there is no release")
        fake = FakeEncoder()
        return load_references(release, space_id=fake.space_id, encoder_name=fake.name, dimensions=fake.dimensions)


def flipped(path: Path, every: int) -> Iterator[int]:
    """Yields every `every`-th place of a file, while the byte there is another; then it is put right."""
    path.chmod(0o644)
    bits = random.Random(0)
    for place in range(0, path.stat().st_size, every):
        with path.open("r+b", buffering=0) as file:
            byte = os.pread(file.fileno(), 1, place)
            os.pwrite(file.fileno(), bytes([byte[0] ^ (1 << bits.randrange(8))]), place)
            yield place
            os.pwrite(file.fileno(), byte, place)


def answers_of(references: References) -> dict[str, object]:
    """Returns the answer to every question that a client can ask; None where it is refused or there is none."""
    questions: dict[str, Callable[[], object]] = {}
    for seed, (identity, vector) in enumerate(_photographs()):
        questions[f"known {seed}"] = functools.partial(_embedding, references, identity)
        questions[f"thumbnail {seed}"] = functools.partial(references.catalogue.thumbnail, identity)
        questions[f"near {seed}"] = functools.partial(_neighbors, references, vector, "")
    for advisor in ADVISORS:
        questions[f"near {seed} of {advisor}"] = functools.partial(_neighbors, references, vector, advisor)
    answers: dict[str, object] = {}
    for question, ask in questions.items():
        try:
            answers[question] = ask() or None
        except (MondrianError, ConfigurationError) as refused:
            require_sentence(str(refused))
            answers[question] = None
    return answers


@functools.cache
def _photographs() -> list[tuple[str, Vector]]:
    """Returns every photograph of the advisors by id and embedding."""
    fake = FakeEncoder()
    seeds = sorted({seed for seeds in ADVISORS.values() for seed in seeds})
    vectors = fake.forward_images([fake.pixels(fake.photograph(photograph(seed))) for seed in seeds])
    return [(sha256(photograph(seed)), vector) for seed, vector in zip(seeds, vectors, strict=True)]


def _embedding(references: References, identity: str) -> bytes | None:
    vector = references.embedding_of(identity)
    return None if vector is None else vector.tobytes()


def _neighbors(references: References, vector: Vector, advisor: str) -> list[tuple[str, float]]:
    return [(repr(one.reference), one.similarity) for one in references.nearest(vector, 3, advisor=advisor)]


def vectors_of(shop: Shop) -> dict[tuple[str, str], bytes]:
    """Returns the embedding of every reference, by advisor and id."""
    references = shop.references()
    found = {}
    for advisor in references.advisors:
        for entry in references.catalogue.entries(advisor.id):
            found[advisor.id, entry.id] = references.stored(entry.id).tobytes()
    references.catalogue.close()
    return found


def require_sentence(said: str) -> None:
    if len(said.strip().splitlines()) != 1 or not said.strip().endswith(".") or "Traceback" in said:
        raise Broken(f"this is no sentence: {said!r}")
