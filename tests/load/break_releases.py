"""Breaks releases by force, and looks whether anything broken is ever served, or anything intact is lost.

    python -m tests.load.break_releases

flips     every byte of a small release is changed in turn: the release is refused in one sentence.
served    every byte of a catalogue is changed in turn while it is being read: each answer is the true one or a refusal.
salvage   every so many bytes of the only release are changed in turn: precompute goes on, computes what was damaged and
          nothing else, and publishes what an undisturbed run publishes.
disk      the disk is full after every so many bytes: one sentence, and the old release serves on.
writers   several processes pre-compute into one store at once, some are killed: who is told that it is done is served.

The encoder is the tests' fake one. hnswlib is real; a crash in it ends the run.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import select
import signal
import sys
import tempfile
from pathlib import Path

from services.core.errors import ReleaseDamaged
from services.core.releases import ReleaseStore
from services.embedder.catalogue import FILE_NAME, Catalogue
from tests.fakes.encoder import FakeEncoder
from tests.load.shop import ADVISORS, Broken, Shop, answers_of, flipped, require_sentence, vectors_of
from tests.pictures import advisor_folder


def flips(shop: Shop, every: int = 1) -> int:
    """Returns how many bytes of the release were changed, each refused."""
    release = shop.store.current()
    if release is None:
        raise Broken("there is no release")
    changed = 0
    for name in ("manifest.json", *release.manifest.files):
        for _ in flipped(release.path / name, every):
            changed += 1
            try:
                shop.store.current()
            except ReleaseDamaged as refused:
                require_sentence(str(refused))
                if name not in str(refused):
                    raise Broken(f"{refused} does not name {name}") from refused
            else:
                raise Broken(f"{name} is served with another byte in it")
    return changed


def served(shop: Shop, every: int = 1) -> tuple[int, int]:
    """Returns how many bytes of a catalogue were changed while it was read, and how many of them a reader noticed."""
    whole = shop.references()
    path = shop.store.path_of(whole.release_id) / FILE_NAME
    true = answers_of(whole)
    changed = noticed = 0
    for _ in flipped(path, every):
        # A reader that has read nothing of the file yet, and verified it before the byte changed.
        with_it = Catalogue(path, FakeEncoder().dimensions, sealed=True)
        whole.catalogue = with_it
        answers = answers_of(whole)
        with_it.close()
        changed += 1
        noticed += answers != true
        for question, answer in answers.items():
            if answer is not None and answer != true[question]:
                raise Broken(f"{question} is answered by {answer}, and by {true[question]} before")
    return changed, noticed


def salvage(shop: Shop, every: int = 997) -> tuple[int, int]:
    """Returns how many damaged releases were built anew, and how many photographs had to be computed again in all."""
    release_id = shop.store.current_id()
    if not release_id:
        raise Broken("there is no release")
    folder = shop.store.path_of(release_id)
    wanted = vectors_of(shop)
    rebuilt = computed = 0
    for path in sorted(folder.iterdir()):
        for _ in flipped(path, every):
            again: list[int] = []
            for advisor in ADVISORS:
                code, said = shop.run(advisor)
                if code:
                    raise Broken(f"precompute ended with {code}: {said}")
                again.append(int(said.split(" references, ")[1].split()[0]))
            rebuilt += 1
            computed += sum(again)
            if path.name not in ("manifest.json", FILE_NAME) and any(again):
                raise Broken(f"{path.name} was damaged, and {again} photographs were computed again")
            if (got := vectors_of(shop)) != wanted:
                raise Broken(f"after damage to {path.name} the release holds {len(got)} references of {len(wanted)}")
            _restore(shop, release_id)
    return rebuilt, computed


def disk(shop: Shop, folder: Path, step: int = 4096) -> tuple[int, int]:
    """Returns how many runs met a full disk, and how many had enough."""
    data = folder / "disk"
    code, said = shop.run("ansel", data)
    store = ReleaseStore(data / "embedder")
    before = store.current_id()
    full = done = 0
    limit = 0
    while not done:

        def narrow(limit: int = limit) -> None:
            # No file may grow beyond: the next write fails, as it does on a full disk.
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        code, said = shop.run("okeefe", data, narrow)
        current = store.current()
        if code == 0:
            done += 1
        else:
            full += 1
            if code != 2 or "full" not in said:
                raise Broken(f"precompute ended with {code}: {said}")
            require_sentence(said)
            if current is None or current.id != before:
                raise Broken("a run that failed has changed what is served")
        limit += step
    code, said = shop.run("okeefe", data)
    current = store.current()
    if code or current is None or set(current.manifest.counts) != set(ADVISORS):
        raise Broken(f"with enough room again, precompute ended with {code}: {said}")
    return full, done


def writers(shop: Shop, rounds: int = 20, seed: int = 0) -> tuple[int, int, int]:
    """Returns how many runs were served, were told to wait, and were killed."""
    choice = random.Random(seed)
    folder = shop.folder / "many"
    many = Shop(folder)
    names = [f"writer-{number}" for number in range(4)]
    for number, name in enumerate(names):
        advisor_folder(folder / name, range(10 * number, 10 * number + 6))
    finished, busy, killed = set(), 0, 0
    served_runs = 0
    for _ in range(rounds):
        children = {name: many.start(name) for name in names}
        victim = choice.choice(names)
        ended = os.pidfd_open(children[victim][0])
        if not select.select([ended], [], [], choice.uniform(0.0, 0.2))[0]:
            os.kill(children[victim][0], signal.SIGKILL)
        os.close(ended)
        for name, (child, said) in children.items():
            _, status = os.waitpid(child, 0)
            with open(said, encoding="utf-8") as written:
                words = written.read()
            code = os.waitstatus_to_exitcode(status)
            if code == 0:
                finished.add(name)
                served_runs += 1
            elif code == -signal.SIGKILL:
                killed += 1
            elif code == 2 and "Another precompute" in words:
                require_sentence(words)
                busy += 1
            else:
                raise Broken(f"precompute ended with {code}: {words}")
        counts = dict(current.manifest.counts) if (current := many.store.current()) else {}
        if not finished <= set(counts):
            raise Broken(f"{finished - set(counts)} were told that they are done, and are not served")
    return served_runs, busy, killed


def _restore(shop: Shop, release_id: str) -> None:
    """Makes the release that was set aside the only one again; its byte is put right by whoever changed it."""
    store = shop.store
    for info in store.releases():
        if info.id != release_id:
            for name in os.listdir(store.path_of(info.id)):
                (store.path_of(info.id) / name).unlink()
            store.path_of(info.id).rmdir()
    os.rename(store.damaged / release_id, store.path_of(release_id))
    store.current_link.unlink()
    store.current_link.symlink_to(f"releases/{release_id}")


def main() -> int:
    """Runs the command of the module; 1 when something broke."""
    parser = argparse.ArgumentParser(prog="python -m tests.load.break_releases", description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=1, help="change every n-th byte only (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=50, help="of four writers at once (default %(default)s)")
    options = parser.parse_args()
    # The processes are forked, which threads would forbid.
    os.environ.update(MONDRIAN_EMBEDDER_DECODE_THREADS="1", MONDRIAN_EMBEDDER_INDEX="hnsw")
    with tempfile.TemporaryDirectory() as name:
        shop = Shop(Path(name))
        try:
            shop.fill()
            print(f"{flips(shop, options.every):,} changed bytes, each refused in one sentence.", flush=True)
            changed, noticed = served(shop, options.every)
            print(
                f"{changed:,} bytes changed in a catalogue that was being served: {noticed:,} met a reader and were "
                "refused, and no answer was another than the true one.",
                flush=True,
            )
            rebuilt, computed = salvage(shop, 97 * options.every)
            print(f"{rebuilt:,} damaged only releases built anew, {computed:,} photographs computed again.", flush=True)
            full, _ = disk(shop, Path(name))
            print(f"{full:,} runs met a full disk: one sentence each, and the old release served on.", flush=True)
            done, busy, killed = writers(shop, options.rounds)
            print(f"{done} runs of four writers at once were served, {busy} were told to wait, {killed} were killed.")
        except Broken as broken:
            print(f"BROKEN: {broken}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
