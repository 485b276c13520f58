"""Names for sentences, and the refusal that names who is known."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
from mondrian.critic.v1 import critic_pb2
from mondrian.embedder.v1 import embedder_pb2

from services.core.errors import BackendUnavailable
from services.core.rpc.tokens import Metadata
from services.gateway.clients import CriticClient, EmbedderClient
from services.gateway.directory import Directory, advisor_not_found


class Embedder(EmbedderClient):
    """Answers without a channel."""

    def __init__(self) -> None:
        self.advisors = [embedder_pb2.Advisor(id="ansel", name="Ansel Sample"), embedder_pb2.Advisor(id="okeefe")]
        self.away = False
        self.asked = 0
        self.questioned = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def all_advisors(self, timeout: float, metadata: Metadata = ()) -> list[embedder_pb2.Advisor]:
        self.asked += 1
        self.questioned.set()
        await self.gate.wait()
        if self.away:
            raise BackendUnavailable("Away.")
        return self.advisors


class Critic(CriticClient):
    """Knows one adapter, or cannot be asked."""

    def __init__(self) -> None:
        self.away = False

    async def all_adapters(self, timeout: float, metadata: Metadata = ()) -> list[critic_pb2.Adapter]:
        if self.away:
            raise BackendUnavailable("Away.")
        return [critic_pb2.Adapter(name="ansel")]


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def test_a_name_is_asked_once_a_minute() -> None:
    embedder, clock = Embedder(), Clock()
    directory = Directory(embedder, Critic(), clock)
    assert [await directory.name("ansel") for _ in range(3)] == ["Ansel Sample"] * 3
    assert embedder.asked == 1
    embedder.advisors[0].name = "Renamed"
    clock.now += 61
    assert await directory.name("ansel") == "Renamed"
    assert embedder.asked == 2


async def test_an_id_stands_in_for_a_name_that_is_empty_or_not_known() -> None:
    directory = Directory(Embedder(), Critic(), Clock())
    assert await directory.name("okeefe") == "okeefe"
    assert await directory.name("weston") == "weston"


async def test_many_who_ask_at_once_are_one_question_and_one_who_leaves_does_not_stop_it() -> None:
    embedder = Embedder()
    embedder.gate.clear()
    directory = Directory(embedder, Critic(), Clock())
    asking = [asyncio.create_task(directory.name("ansel")) for _ in range(4)]
    await embedder.questioned.wait()
    asking[0].cancel()
    embedder.gate.set()
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert answers[1:] == ["Ansel Sample"] * 3
    assert embedder.asked == 1


async def test_an_embedder_that_is_away_is_not_asked_again_at_once_and_old_names_stay() -> None:
    embedder, clock = Embedder(), Clock()
    directory = Directory(embedder, Critic(), clock)
    await directory.name("ansel")
    clock.now += 61
    embedder.away = True
    assert [await directory.name("ansel") for _ in range(3)] == ["Ansel Sample"] * 3
    assert embedder.asked == 2
    clock.now += 6
    await directory.name("ansel")
    assert embedder.asked == 3


async def test_who_is_known_is_always_asked_anew() -> None:
    embedder, critic = Embedder(), Critic()
    directory = Directory(embedder, critic, Clock())
    assert await directory.known(1.0) == ["ansel", "okeefe"]
    embedder.away = True
    assert await directory.known(1.0) is None
    assert [await directory.has_adapter(advisor, 1.0) for advisor in ("ansel", "weston")] == [True, False]
    critic.away = True
    assert await directory.has_adapter("weston", 1.0)


async def test_closing_gives_up_an_open_question() -> None:
    embedder = Embedder()
    embedder.gate.clear()
    directory = Directory(embedder, Critic(), Clock())
    asking = asyncio.create_task(directory.name("ansel"))
    await embedder.questioned.wait()
    await directory.close()
    assert isinstance((await asyncio.gather(asking, return_exceptions=True))[0], asyncio.CancelledError)


def test_the_refusal_names_the_known_advisors_the_most_alike_first() -> None:
    assert (
        advisor_not_found("okeeffe", ["ansel", "okeefe"]).message
        == "There is no advisor 'okeeffe'. Known: okeefe, ansel."
    )
    many = [f"advisor-{number:02}" for number in range(40)] + ["weston"]
    assert advisor_not_found("westn", many).message == (
        "There is no advisor 'westn'. Known: weston, advisor-00, advisor-01, advisor-02, advisor-03, advisor-04, "
        "advisor-05, advisor-06, advisor-07, advisor-08 and 31 more."
    )
    assert advisor_not_found("ansel", None).message == "There is no advisor 'ansel'."
    assert "pre-computed yet" in advisor_not_found("ansel", []).message


def test_of_very_many_advisors_only_those_near_in_the_alphabet_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []

    def counted(word: str, possibilities: Sequence[str], n: int) -> list[str]:
        compared.append(len(possibilities))
        return difflib.get_close_matches(word, possibilities, n)

    monkeypatch.setattr("services.gateway.directory.difflib", SimpleNamespace(get_close_matches=counted))
    many = [f"{letter}dvisor-{number:04}" for number in range(5_000) for letter in "ab"]
    message = advisor_not_found("advisor-0031x", many).message
    assert message.startswith("There is no advisor 'advisor-0031x'. Known: advisor-0031, ")
    assert message.endswith("and 9990 more.")
    assert compared[0] < 1_000
