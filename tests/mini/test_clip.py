"""The small CLIP: how it is trained and measured, and the one that is shipped."""

from __future__ import annotations

import io
import json
import random
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deploy.mini import evaluate_clip, train_clip, views
from deploy.mini.draw import scene
from deploy.mini.evaluate_clip import CHANGES, Change, changed, found_first
from deploy.mini.pool import HELD_OUT_FAMILIES, TRAINING_FAMILIES, Pool, draw_pool, held_out

TINY = train_clip.Recipe(scenes=8, textures=8, steps=2, batch=8, width=8, text_layers=1, warmup=1, words_steps=2)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return draw_pool(8, 8, 3, tmp_path_factory.mktemp("cache"), lambda count: None)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("loading the model must not open a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_a_pool_is_read_again_from_its_cache(tmp_path: Path) -> None:
    first = draw_pool(2, 2, 0, tmp_path, lambda count: None)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    second = draw_pool(2, 2, 0, tmp_path, lambda count: None)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files
    assert np.array_equal(first.scenes, second.scenes)
    assert first.captions == second.captions
    assert not np.array_equal(first.textures, draw_pool(2, 2, 1, tmp_path, lambda count: None).textures)


def test_held_out_pictures_are_of_other_seeds_and_kinds() -> None:
    assert not set(HELD_OUT_FAMILIES) & set(TRAINING_FAMILIES)
    pictures, captions = held_out("scenes", 6, 48)
    assert len(set(captions)) == 6
    assert all(picture.shape[0] == 48 for picture in pictures)
    assert held_out("other", 2, 48)[1] == ["", ""]


def test_two_steps_train_a_model_that_open_clip_loads(pool: Pool, tmp_path: Path, no_network: None) -> None:
    trainer = train_clip.Trainer(TINY, pool)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    losses = [trainer.step(number) for number in range(2)]
    assert np.isfinite(losses).all()
    moved = [name for name, value in trainer.model.named_parameters() if not torch.equal(value, before[name])]
    assert any(name.startswith("visual.conv1") for name in moved)
    assert "text_projection" in moved
    train_clip.save(trainer, tmp_path)
    model, preprocess, tokenizer = evaluate_clip.load(tmp_path)
    trainer.model.eval()
    picture = preprocess(Image.fromarray(pool.scenes[0]))[None]
    with torch.inference_mode():
        kept = model.encode_image(picture, normalize=True)
        trained = trainer.model.encode_image(picture, normalize=True)
        words = model.encode_text(tokenizer(pool.captions[:1]), normalize=True)
        said = trainer.model.encode_text(trainer.tokens[:1], normalize=True)
    assert kept.shape == words.shape == (1, 512)
    assert float((kept * trained).sum()) > 0.999
    assert float((words * said).sum()) > 0.999


def test_the_same_recipe_gives_the_same_steps(pool: Pool) -> None:
    first, second = (train_clip.Trainer(TINY, pool).step(0) for _ in range(2))
    assert first == second


def test_views_differ_from_the_picture_and_from_each_other_but_stay_in_range() -> None:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.from_numpy(np.stack([scene(seed, 96, 96).pixels for seed in range(10)]))
    pictures = pictures.permute(0, 3, 1, 2).float() / 255
    first, second = (views.view(pictures, 48, generator) for _ in range(2))
    assert first.shape == (10, 3, 48, 48)
    assert first.min() >= 0
    assert first.max() <= 1
    assert (first - second).abs().mean(dim=(1, 2, 3)).min() > 0.005
    grey = views.greyscale_some(pictures, 1.0, generator)
    assert torch.equal(grey[:, 0], grey[:, 2])


def test_the_words_are_taught_while_the_image_tower_stands_still(pool: Pool) -> None:
    trainer = train_clip.Trainer(TINY, pool)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    steps = list(train_clip.teach_words(trainer))
    assert [number for number, _ in steps] == [1, 2]
    moved = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])}
    assert "text_projection" in moved
    assert not any(name.startswith("visual.") for name in moved)


@given(seed=st.integers(0, 10_000))
@settings(deadline=None, derandomize=True)
def test_a_shortened_caption_says_nothing_new(seed: int) -> None:
    caption = "a red flower of six petals on the left, close up, light from the left, in colour."
    said = train_clip.shortened(caption, random.Random(seed)).split()
    assert said
    rest = iter(caption.rstrip(".").replace(",", "").split())
    assert all(word in rest for word in said), "the words keep their order"


def test_an_equal_caption_is_no_negative() -> None:
    pictures = torch.nn.functional.normalize(torch.eye(3) + 0.1, dim=-1)
    words = pictures.clone()
    words[1] = words[0]
    scale = torch.tensor(10.0)
    different = torch.tensor([[1], [2], [3]])
    equal = torch.tensor([[1], [1], [3]])
    assert train_clip.words_loss(pictures, words, equal, scale) < train_clip.words_loss(
        pictures, words, different, scale
    )


def test_a_changed_copy_is_what_its_change_says() -> None:
    pixels = scene(3, 120, 160, kind="mountains").pixels
    gen = np.random.default_rng(0)
    assert np.array_equal(changed(pixels, Change(), gen), pixels)
    cropped = changed(pixels, CHANGES["cropped to 80%"], gen)
    assert cropped.shape[0] * cropped.shape[1] / (120 * 160) == pytest.approx(0.8, abs=0.02)
    grey = np.full((40, 40, 3), 118, np.uint8)
    exposed = {int(changed(grey, CHANGES["one stop"], gen)[0, 0, 0]) for _ in range(20)}
    assert exposed == {162, 85}  # 118 is 0.181 in linear light; twice and half of it, encoded again
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=40)
    assert np.array_equal(changed(pixels, CHANGES["JPEG 40"], gen), np.asarray(Image.open(buffer)))


def test_found_first_counts_the_share_found() -> None:
    pictures = [np.full((8, 8, 3), value, np.uint8) for value in (10, 90, 170, 250)]

    def perfect(given: object) -> np.ndarray:
        values = np.array([p.mean() / 255 for p in given])  # type: ignore[attr-defined]
        return np.stack([np.cos(values), np.sin(values)], 1).astype(np.float32)

    def blind(given: object) -> np.ndarray:
        return np.ones((len(given), 2), np.float32)  # type: ignore[arg-type]

    assert found_first(perfect, pictures, Change()) == 1.0
    assert found_first(blind, pictures, Change()) == 0.25


@pytest.fixture(scope="module")
def shipped() -> tuple[object, object, object]:
    return evaluate_clip.load(evaluate_clip.MODEL)


def test_the_shipped_model_finds_changed_copies_among_the_references(shipped: tuple[object, object, object]) -> None:
    references = [
        picture
        for advisor in ("ansel", "okeefe")
        for picture in evaluate_clip.photographs(evaluate_clip.ADVISORS / advisor / "references")
    ]
    embed = evaluate_clip.image_embedder(shipped[0], shipped[1])
    assert embed(references[:2]).shape == (2, 512)
    assert found_first(embed, references, CHANGES["all four"]) >= 0.95


def test_the_shipped_model_finds_unseen_scenes_from_their_words(shipped: tuple[object, object, object]) -> None:
    model, preprocess, tokenizer = shipped
    recall = evaluate_clip.text_finds(evaluate_clip.image_embedder(model, preprocess), model, tokenizer, 60, 128)
    assert recall["R@5"] >= 0.9
    assert recall["first clause R@5"] >= 0.8


def test_the_shipped_model_is_small_and_has_the_trained_configuration() -> None:
    weights = evaluate_clip.MODEL / "open_clip_model.safetensors"
    assert weights.stat().st_size < 15_000_000
    config = json.loads((evaluate_clip.MODEL / "open_clip_config.json").read_text(encoding="utf-8"))
    assert config == train_clip.configuration(train_clip.Recipe())


def test_a_missing_folder_of_photographs_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        evaluate_clip.main(["--photos", "/nowhere/at/all"])
    assert ended.value.code == 2
    assert "There is no folder /nowhere/at/all." in capsys.readouterr().err
