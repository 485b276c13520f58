"""JSON: valid whatever the model writes and wherever it is stopped, and nothing to the rows beside it."""

from __future__ import annotations

import asyncio
import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pydantic
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from services.core.errors import InvalidArgument
from services.core.settings import MINI_DIR
from services.critic import adapter_format
from services.critic import model as models
from services.critic.adapter_format import AdapterLimits
from services.critic.engine import Completed, Delta, Event, Finish, Generation
from services.critic.lora import AdapterWeights
from services.critic.model import VisionLanguageModel
from services.critic.sampling import Sampler, SamplingParams, choose
from services.critic.structured import SHORTEST, JsonGrammar, JsonGuide
from tests.fakes.critic import random_adapter
from tests.unit.critic import solo
from tests.unit.critic.running import events_of, last, running

CPU = torch.device("cpu")


class Stated(pydantic.BaseModel, strict=True, extra="forbid"):
    """The fields that the contract states."""

    overview: str
    strengths: list[str]
    to_try: list[str]
    voice: str


def check(text: str) -> Stated:
    """Returns the critique, read as strictly as can be: no control character raw or escaped, no lone surrogate."""
    text.encode()
    stated = Stated.model_validate(json.loads(text, strict=True))
    assert list(json.loads(text)) == list(Stated.model_fields)
    for string in (stated.overview, *stated.strengths, *stated.to_try, stated.voice):
        assert not [char for char in string if unicodedata.category(char) in ("Cc", "Cs")]
    return stated


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> VisionLanguageModel:
    """The tiny model, whose texts end at its special tokens alone, as those of a real one do.

    In float64: what is drawn lies at the border of two tokens sooner or later, where the last bit of a float32, which
    changes with the rows beside it, decides.
    """
    model = models.load(tiny_folder, device=CPU, dtype=torch.float64, max_image_tokens=32)
    model.end_ids = frozenset(model.tokenizer.added_tokens_decoder)
    return model


@pytest.fixture(scope="module")
def grammar(model: VisionLanguageModel) -> JsonGrammar:
    return JsonGrammar(model.tokenizer, model.network.config.text_config.vocab_size, model.end_ids)


ADVISORS = ("ansel", "okeefe")


@pytest.fixture(scope="module")
def adapters(model: VisionLanguageModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, AdapterWeights]:
    base = adapter_format.base_of(model.network, name=model.name, fingerprint=model.fingerprint)
    root = tmp_path_factory.mktemp("adapters")
    folders = [random_adapter(root / name, base, seed=seed) for seed, name in enumerate(ADVISORS)]
    return {folder.name: adapter_format.read(folder, base, AdapterLimits()).weights for folder in folders}


class Ask(NamedTuple):
    picture: int
    adapter: str | None
    params: SamplingParams


least = len(SHORTEST)  # the tiny tokenizer's tokens are bytes
json_params = st.builds(
    SamplingParams,
    max_tokens=st.integers(least, least + 120),
    temperature=st.sampled_from([0.0, 0.7, 2.0]),
    top_p=st.sampled_from([0.5, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.3, 2.0]),
    seed=st.integers(0, 2**32),
    json=st.just(True),
)
prose_params = st.builds(
    SamplingParams, st.integers(1, 24), temperature=st.sampled_from([0.0, 1.0]), seed=st.integers(0, 2**32)
)
asks = st.builds(
    Ask, st.integers(0, len(solo.SHAPES) - 1), st.sampled_from([None, *ADVISORS]), json_params | prose_params
)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(plan=st.lists(asks, min_size=1, max_size=8))
def test_json_is_valid_and_every_row_writes_what_it_writes_alone(
    model: VisionLanguageModel, adapters: dict[str, AdapterWeights], plan: list[Ask]
) -> None:
    """JSON and prose of several advisors share batches of four; each ask also runs by itself, one after another."""

    async def run() -> tuple[list[list[Event]], list[list[Event]]]:
        async with running(model) as engine:
            for name, weights in adapters.items():
                await engine.load_adapter(name, weights)

            def begin(ask: Ask) -> Generation:
                prompt = solo.prompt_of(model, ask.picture, 1)
                return engine.submit(prompt, ask.params, adapter=ask.adapter)

            together = [await events_of(stream) for stream in [begin(ask) for ask in plan]]
            return together, [await events_of(begin(ask)) for ask in plan]

    for ask, events, alone in zip(plan, *asyncio.run(run()), strict=True):
        assert last(events).tokens == last(alone).tokens
        assert last(events).finish is last(alone).finish
        assert len(last(events).tokens) <= ask.params.max_tokens
        if ask.params.json:
            check(text_of(events))


# Pieces that lead through every part of a critique, and what no critique may hold.
pieces = st.lists(
    st.sampled_from(
        ['"', '", ', "[", "]", "}", "{", ", ", '["', '", "', '"], "to_try": ["', "\\", "\\n", "\\u", "\x00", "\n", "é",
         "📷", "\x7f", "\u0085", "a light", " "]
    ).map(str.encode)
    | st.binary(min_size=1, max_size=3),
    max_size=60,
)  # fmt: skip


def led(grammar: JsonGrammar, limit: int, params: SamplingParams, rows: Iterator[torch.Tensor]) -> list[int]:
    """Returns what is written within `limit` tokens by a model whose logits are `rows`."""
    guide = grammar.guide(limit)
    sampler = Sampler(params, (), CPU, guide)
    written: list[int] = []
    while not guide.complete:
        written.append(sampler.settle(choose(next(rows), [sampler])[0]))
    assert len(written) <= limit
    assert not grammar.ends & set(written)
    return written


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(pieces=pieces, limit=st.integers(least, least + 80), start=st.sampled_from([0, 14, 17, 31, 45, 58]))
def test_any_bytes_and_any_limit_end_valid(
    model: VisionLanguageModel, grammar: JsonGrammar, pieces: list[bytes], limit: int, start: int
) -> None:
    """The model is a list of bytes that it insists on where it may, and ends when they are used up."""

    def rows() -> Iterator[torch.Tensor]:
        for byte in SHORTEST[:start].encode() + b"".join(pieces):
            yield wish(model, model.tokenizer.convert_tokens_to_ids(bytes_to_unicode()[byte]))
        while True:
            yield wish(model, min(grammar.ends))

    check(model.tokenizer.decode(led(grammar, limit, SamplingParams(limit, json=True), rows())))


def wish(model: VisionLanguageModel, token: int) -> torch.Tensor:
    logits = torch.zeros(1, model.network.config.text_config.vocab_size)
    logits[0, token] = 9.0
    return logits


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(limit=st.integers(0, 60), seed=st.integers(0, 2**32), eager=st.integers(0, 200), hot=st.sampled_from([0.0, 1.0]))
def test_tokens_of_many_characters_end_valid_too(
    words: Any, many: JsonGrammar, limit: int, seed: int, eager: int, hot: float
) -> None:
    """With the tokens of the mini model, most of which are words; the model would rather move on every few tokens."""
    draw = torch.Generator().manual_seed(seed)

    def rows() -> Iterator[torch.Tensor]:
        while True:
            logits = torch.randn(1, len(words), generator=draw)
            logits[0, sorted(many.punctuation)] += eager / 40
            yield logits

    params = SamplingParams(limit + many.least_tokens, temperature=hot, json=True)
    check(words.decode(led(many, params.max_tokens, params, rows())))


@pytest.fixture(scope="module")
def words() -> Any:
    return PreTrainedTokenizerFast.from_pretrained(MINI_DIR / "models" / "vlm")


@pytest.fixture(scope="module")
def many(words: Any) -> JsonGrammar:
    return JsonGrammar(words, len(words), [words.eos_token_id])


@pytest.mark.parametrize("value", [torch.nan, -torch.inf, torch.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_numbers_that_are_none_still_end_valid(
    model: VisionLanguageModel, grammar: JsonGrammar, value: float, temperature: float
) -> None:
    size = model.network.config.text_config.vocab_size
    params = SamplingParams(90, temperature=temperature, seed=1, json=True)
    check(model.tokenizer.decode(led(grammar, 90, params, (torch.full((1, size), value) for _ in range(90)))))


def test_the_model_fills_the_fields(grammar: JsonGrammar, model: VisionLanguageModel) -> None:
    text = '{"overview": "A \\"lake\\", 夜", "strengths": ["light", "calm"], "to_try": [], "voice": "Wait."}'
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    # Not one token more is needed than the critique has.
    guide = grammar.guide(len(ids))
    assert [guide.settle(token) for token in ids] == ids
    assert guide.complete
    assert not guide.cut
    assert check(text) == Stated(overview='A "lake", 夜', strengths=["light", "calm"], to_try=[], voice="Wait.")


def test_a_model_that_ends_early_leaves_the_rest_empty(grammar: JsonGrammar, model: VisionLanguageModel) -> None:
    ids = model.tokenizer('{"overview": "Calm.', add_special_tokens=False)["input_ids"]
    guide = grammar.guide(300)
    written = [guide.settle(token) for token in ids]
    while not guide.complete:
        written.append(guide.settle(min(model.end_ids)))
    assert check(model.tokenizer.decode(written)) == Stated(overview="Calm.", strengths=[], to_try=[], voice="")
    assert not guide.cut


@pytest.mark.parametrize(
    "character",
    ["\x00", "\n", "\t", "\x1f", "\x7f", "\x9f", "\\u0000", "\\ud800", "\\n", "\\t", "\\b", "\\x"],
)
def test_no_control_character_and_no_odd_escape_stands_in_a_string(grammar: JsonGrammar, character: str) -> None:
    matcher = grammar.guide(300).matcher
    assert matcher.accept_string('{"overview": "')
    assert not matcher.accept_string(character)


async def test_an_end_is_told_from_a_limit(model: VisionLanguageModel) -> None:
    async with running(model) as engine:
        ends = {}
        for seed in range(12):
            params = SamplingParams(120, temperature=2.0, seed=seed, json=True)
            done = last(await events_of(engine.submit(solo.prompt_of(model, 0, 0), params)))
            ends[done.finish] = len(done.tokens)
            assert done.tokens[-1] not in model.end_ids
        assert set(ends) == {Finish.STOP, Finish.LENGTH}
        shortest = last(await events_of(engine.submit(solo.prompt_of(model, 0, 0), SamplingParams(least, json=True))))
        assert model.tokenizer.decode(shortest.tokens) == SHORTEST
        assert shortest.finish is Finish.LENGTH


async def test_a_limit_that_holds_no_json_is_refused(model: VisionLanguageModel) -> None:
    async with running(model) as engine:
        prompt = solo.prompt_of(model, 0, 0)
        with pytest.raises(InvalidArgument, match=f"at least {least} tokens, and {least - 1} are allowed"):
            engine.submit(prompt, SamplingParams(least - 1, json=True))
        done = await events_of(engine.submit(prompt, SamplingParams(1)))
        assert isinstance(done[-1], Completed)


def test_the_penalty_spares_the_punctuation(grammar: JsonGrammar) -> None:
    quote, letter = min(grammar.punctuation), max(set(range(200)) - grammar.punctuation)

    def penalised(guide: JsonGuide | None) -> Any:
        logits = torch.ones(300)
        Sampler(SamplingParams(90, repetition_penalty=2.0), (quote, letter), CPU, guide).penalise(logits)
        return logits[[quote, letter]].tolist()

    assert penalised(grammar.guide(90)) == [1.0, 0.5]
    assert penalised(None) == [0.5, 0.5]
