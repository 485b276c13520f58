"""Following releases: readers never notice a change, and what is refused leaves the old one."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from services.core.errors import ConfigurationError, NoRelease, ReleaseDamaged
from services.core.releases import Release, ReleaseStore, ReleaseWatcher, collect
from services.core.telemetry.metrics import RELEASE_DAMAGED
from tests.unit.core.releases.stores import publish, text_of

T = TypeVar("T")


def loaded(release: Release) -> tuple[str, Release]:
    return text_of(release), release


@contextlib.asynccontextmanager
async def following(
    store: ReleaseStore, load: Callable[[Release], T], **settings: Any
) -> AsyncIterator[ReleaseWatcher[T]]:
    """A watcher that has started, and is stopped at the end."""
    watcher = ReleaseWatcher(store, load, **settings)
    await watcher.start()
    try:
        yield watcher
    finally:
        await watcher.stop()


async def test_a_watcher_has_nothing_until_the_first_release(store: ReleaseStore) -> None:
    async with following(store, loaded, poll_s=3600) as watcher:
        with pytest.raises(NoRelease, match="mondrian precompute"):
            _ = watcher.value
        published = publish(store, "one")
        assert await watcher.refresh()
        assert watcher.value[0] == "one"
        assert watcher.release_id == published.id
        assert not await watcher.refresh(), "what is served already is not loaded again"


async def test_a_watcher_notices_by_itself(store: ReleaseStore) -> None:
    swapped: asyncio.Queue[object] = asyncio.Queue()
    async with following(store, loaded, poll_s=0.01, on_swap=swapped.put_nowait) as watcher:
        publish(store, "one")
        assert await asyncio.wait_for(swapped.get(), 60) is None
        publish(store, "two")
        old = await asyncio.wait_for(swapped.get(), 60)
        assert isinstance(old, tuple)
        assert old[0] == "one"
        assert watcher.value[0] == "two"


async def test_a_store_that_cannot_be_read_ends_the_start_and_is_not_taken_for_an_empty_one(
    store: ReleaseStore,
) -> None:
    store.root.mkdir(parents=True, exist_ok=True)
    store.current_link.write_text("no link")
    with pytest.raises(ConfigurationError, match="not a symbolic link to a release"):
        await ReleaseWatcher(store, loaded, poll_s=3600).start()


async def test_what_becomes_of_the_store_later_is_said_once_and_the_value_stays(
    store: ReleaseStore, caplog: pytest.LogCaptureFixture
) -> None:
    publish(store, "one")
    async with following(store, loaded, poll_s=3600) as watcher:
        away = store.root.rename(store.root.with_name("away"))
        for _ in range(2):
            assert not await watcher.refresh()
        assert caplog.text.count("There is no release") == 1
        store.root.mkdir()
        store.current_link.mkdir()
        for _ in range(2):
            assert not await watcher.refresh()
        assert caplog.text.count("not a symbolic link") == 1
        store.current_link.rmdir()
        store.root.rmdir()
        away.rename(store.root)
        assert not await watcher.refresh(), "it is what is served already"
        assert watcher.value[0] == "one"
        publish(store, "two")
        assert await watcher.refresh()


async def test_a_refused_release_leaves_the_old_value_and_is_looked_at_again_when_mended(
    store: ReleaseStore, caplog: pytest.LogCaptureFixture
) -> None:
    publish(store, "one")
    async with following(store, loaded, poll_s=3600) as watcher:
        second = publish(store, "two")
        path = second.path / "catalogue.sqlite"
        path.chmod(0o644)
        path.write_text("twX")
        assert not await watcher.refresh()
        assert watcher.value[0] == "one"
        assert "catalogue.sqlite differs from its sha256" in caplog.text
        caplog.clear()
        assert not await watcher.refresh()
        assert caplog.text == "", "said once"
        # A file of its own, which the clock of the file system cannot make look like the one before.
        mended = path.with_name("mended")
        mended.write_text("two")
        mended.replace(path)
        assert await watcher.refresh()
        assert watcher.value[0] == "two"


class Flaky(ReleaseStore):
    """Cannot be opened while there is a fault; counts how often that was tried."""

    fault: Exception | None = None
    tries = 0

    def open(self, release_id: str, *, whole: bool = True) -> Release:
        self.tries += 1
        if self.fault is not None:
            raise self.fault
        return super().open(release_id, whole=whole)


@pytest.mark.parametrize(
    "fault", [ReleaseDamaged("catalogue.sqlite cannot be read (Input/output error)"), MemoryError()]
)
async def test_a_release_refused_for_what_passes_is_served_when_it_has_passed_and_looked_at_ever_less_often(
    store: ReleaseStore, caplog: pytest.LogCaptureFixture, fault: Exception
) -> None:
    now = [0.0]
    flaky = Flaky(store.root)
    publish(store, "one")
    async with following(flaky, loaded, poll_s=3600, clock=lambda: now[0]) as watcher:
        publish(store, "two")
        flaky.fault, flaky.tries = fault, 0
        for second in range(1201):
            now[0] = second
            assert not await watcher.refresh()
        assert 9 < flaky.tries < 14
        assert sum("the old one stays" in record.message for record in caplog.records) == 1, "said once"
        flaky.fault = None
        now[0] += 600
        assert await watcher.refresh()
        assert watcher.value[0] == "two"
        tries = flaky.tries
        now[0] += 3600
        assert not await watcher.refresh()
        assert flaky.tries == tries, "what is served is not read again"
        # What is published next is not made to wait.
        flaky.fault = fault
        publish(store, "three")
        assert not await watcher.refresh()
        flaky.fault = None
        publish(store, "four")
        assert await watcher.refresh()


class Verified(ReleaseStore):
    """Tells when it was asked to verify."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.asked = threading.Semaphore(0)

    def verify(self, release_id: str) -> list[str]:
        self.asked.release()
        return super().verify(release_id)


async def test_a_byte_that_changes_under_a_served_release_is_noticed_and_the_value_stays(
    store: ReleaseStore, caplog: pytest.LogCaptureFixture
) -> None:
    published = publish(store, "one")
    watched = Verified(store.root)
    watcher = ReleaseWatcher(watched, loaded, poll_s=0.01, verify_s=0.01)
    assert await watcher.verify() == []
    await watcher.start()
    try:
        assert await watcher.verify() == []
        assert next(iter(RELEASE_DAMAGED.collect())).samples[0].value == 0
        path = published.path / "ansel.hnsw"
        path.chmod(0o644)
        path.write_bytes(b"twO" * 3)
        # By itself: the second question after the change began after it.
        for _ in range(3):
            assert await asyncio.to_thread(watched.asked.acquire, timeout=30)
        (problem,) = await watcher.verify()
        assert "ansel.hnsw differs from its sha256" in problem
        assert problem in caplog.text
        assert next(iter(RELEASE_DAMAGED.collect())).samples[0].value == 1
        assert watcher.value[0] == "one"
    finally:
        await watcher.stop()
        RELEASE_DAMAGED.set(0)


async def test_what_load_refuses_or_breaks_on_is_not_served(store: ReleaseStore) -> None:
    def picky(release: Release) -> str:
        text = text_of(release)
        if text == "other space":
            raise ConfigurationError("It was computed in another space.")
        if text == "broken":
            raise RuntimeError("not foreseen")
        return text

    publish(store, "other space")
    with pytest.raises(ConfigurationError, match="another space"):
        await ReleaseWatcher(store, picky).start()
    publish(store, "one")
    async with following(store, picky, poll_s=3600) as watcher:
        for text in ("other space", "broken"):
            publish(store, text)
            assert not await watcher.refresh()
            assert watcher.value == "one"
        publish(store, "two")
        assert await watcher.refresh()
        assert watcher.value == "two"


async def test_a_reader_keeps_its_release_through_swaps_and_collections(store: ReleaseStore) -> None:
    publish(store, "0").close()
    async with following(store, loaded, poll_s=3600) as watcher:
        text, release = watcher.value
        for number in range(1, 21):
            publish(store, str(number)).close()
            assert await watcher.refresh()
            collect(store, keep=0)
        # A thread holds what it loaded until it waits for more work.
        await asyncio.get_running_loop().shutdown_default_executor()
        collect(store, keep=0)
        assert text_of(release) == text == "0"
        assert watcher.value[0] == "20"
        assert {info.id for info in store.releases()} == {release.id, watcher.release_id}
        del release
        collect(store, keep=0)
        assert [info.id for info in store.releases()] == [watcher.release_id]
