"""Teaching a voice: it is learnt, goes on where it was interrupted, and is published only when it is better."""

from __future__ import annotations

import json
import os
import signal
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from services.critic import adapter_format
from services.critic.adapter_format import AdapterLimits
from services.critic.finetune import __main__ as command
from services.critic.finetune import training
from services.critic.finetune.examples import IGNORED, batch, batches, read_examples
from services.critic.loading import load_model
from services.critic.model import VisionInputs, VisionLanguageModel
from services.critic.settings import CriticSettings
from tests.fakes.critic import photograph, random_adapter

CRITIQUE = "Calm light; wait for the cloud."


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """24 photographs, each with the same critique."""
    lines = []
    for number in range(24):
        photograph(64, 48, number).save(tmp_path / f"{number}.png")
        lines.append(json.dumps({"photograph": f"{number}.png", "critique": CRITIQUE}))
    path = tmp_path / "critiques.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(autouse=True)
def _settings(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("MONDRIAN_CRITIC_MODEL_PATH", str(tiny_folder))
    monkeypatch.setenv("MONDRIAN_CRITIC_DEVICE", "cpu")
    monkeypatch.setenv("MONDRIAN_CRITIC_TORCH_THREADS", "1")
    monkeypatch.setenv("MONDRIAN_CRITIC_MAX_IMAGE_TOKENS", "32")
    state = torch.get_rng_state()
    yield
    torch.set_rng_state(state)


def words(file: Path, adapters: Path, /, **options: object) -> list[str]:
    plain: dict[str, object] = {"advisor": "ansel", "data": file, "adapters-dir": adapters, "rank": 4, "alpha": 8,
                                "epochs": 2, "batch-size": 4, "learning-rate": 1e-2, "held-out": 0.25}  # fmt: skip
    named = [word for key, value in (plain | options).items() for word in (f"--{key}", str(value))]
    return [*named, "--quiet", "--targets", "q_proj", "v_proj", "down_proj"]


def test_a_voice_is_learnt_and_published(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapters = tmp_path / "adapters"
    assert command.main(words(data, adapters)) == 0
    assert "held-out loss" in capsys.readouterr().out
    model = load_model(CriticSettings.load())
    base = adapter_format.base_of(model.network, name=model.name, fingerprint=model.fingerprint)
    adapter = adapter_format.read(adapters / "ansel", base, AdapterLimits())
    assert adapter.weights.rank == 4
    manifest = json.loads((adapters / "ansel" / "manifest.json").read_text())
    loss = manifest["evaluation"]["held_out_loss"]
    assert loss["adapter"] < 0.7 * loss["base"]
    assert sorted(path.name for path in adapters.iterdir()) == [".finetune-ansel.lock", "ansel"]


@pytest.mark.parametrize("checkpointing", [True, False])
def test_an_interrupted_training_ends_as_one_that_was_not(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpointing: bool
) -> None:
    more = [] if checkpointing else ["--no-gradient-checkpointing"]
    assert command.main([*words(data, tmp_path / "whole", dropout=0.1), *more]) == 0
    do_step = training.Training._do_step

    def interrupted(self: training.Training) -> None:
        if self.step == 5:
            torch.rand(1)  # as in the middle of a step
            raise KeyboardInterrupt
        do_step(self)

    with monkeypatch.context() as patch:
        patch.setattr(training.Training, "_do_step", interrupted)
        assert command.main([*words(data, tmp_path / "parts", dropout=0.1), *more]) == 130
    assert not (tmp_path / "parts" / "ansel").exists()
    began: list[int] = []

    def counted(self: training.Training) -> None:
        began.append(self.step)
        do_step(self)

    monkeypatch.setattr(training.Training, "_do_step", counted)
    assert command.main([*words(data, tmp_path / "parts", dropout=0.1), *more]) == 0
    assert began[0] == 5
    name = "adapter_model.safetensors"
    assert (tmp_path / "parts" / "ansel" / name).read_bytes() == (tmp_path / "whole" / "ansel" / name).read_bytes()


def test_a_training_that_is_told_to_end_keeps_its_state(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.Training, "_do_step", lambda self: signal.raise_signal(signal.SIGTERM))
    assert command.main(words(data, tmp_path / "adapters")) == 130
    assert [path.name for path in (tmp_path / "adapters" / ".finetune-ansel").iterdir()] == [training.STATE_FILE]


def test_a_second_training_of_an_advisor_is_refused_before_it_begins(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    adapters, codes = tmp_path / "adapters", list[int]()

    def meanwhile(self: training.Training) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(command, "load_model", None)  # nothing heavy comes before the refusal
            codes.append(command.main(words(data, adapters)))
            # What others are at work on is no hindrance.
            with pytest.raises(TypeError):
                command.main(words(data, adapters, advisor="okeefe"))
        raise KeyboardInterrupt

    monkeypatch.setattr(training.Training, "_do_step", meanwhile)
    assert command.main(words(data, adapters)) == 130
    assert codes == [2]
    refused = f"mondrian: Another training of ansel (process {os.getpid()}) is writing to {adapters}"
    assert refused in capsys.readouterr().err


def test_a_damaged_state_begins_anew(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: training.Training) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training.Training, "_do_step", interrupted)
        assert command.main(words(data, tmp_path / "adapters")) == 130
    (state,) = (tmp_path / "adapters" / ".finetune-ansel").iterdir()
    state.write_bytes(state.read_bytes()[:-1])
    assert command.main(words(data, tmp_path / "adapters")) == 0


def test_another_recipe_begins_anew(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: training.Training) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training.Training, "_do_step", interrupted)
        assert command.main(words(data, tmp_path / "adapters")) == 130
    assert command.main(words(data, tmp_path / "adapters", rank=2)) == 0


def test_an_adapter_that_is_not_better_is_not_published(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Steps away from what is taught.
    monkeypatch.setattr(training.Training, "_rate", lambda self: -1e-2)
    adapters = tmp_path / "adapters"
    assert command.main(words(data, adapters)) == command.NOT_BETTER
    assert "not better than the base model" in capsys.readouterr().err
    assert not (adapters / "ansel").exists()


def test_an_adapter_worse_than_the_one_in_use_is_not_published(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapters = tmp_path / "adapters"
    assert command.main(words(data, adapters)) == 0
    before = {path.name: path.read_bytes() for path in (adapters / "ansel").iterdir()}
    assert command.main(words(data, adapters, epochs=1, **{"learning-rate": 1e-4})) == command.NOT_BETTER
    assert "not better than the adapter in use" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (adapters / "ansel").iterdir()} == before


def test_an_adapter_that_replicas_would_refuse_is_not_published(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MONDRIAN_CRITIC_ADAPTERS_MAX_BYTES", "1000")
    assert command.main(words(data, tmp_path / "adapters")) == 2
    assert "cannot be published: its weights take" in capsys.readouterr().err
    assert not (tmp_path / "adapters" / "ansel").exists()


def test_an_adapter_that_does_not_fit_any_more_is_replaced(data: Path, tmp_path: Path) -> None:
    model = load_model(CriticSettings.load())
    base = adapter_format.base_of(model.network, name=model.name, fingerprint=model.fingerprint)
    random_adapter(tmp_path / "adapters" / "ansel", base, seed=0, bias="all")
    assert command.main(words(data, tmp_path / "adapters")) == 0


def test_of_all_photographs_only_those_of_two_batches_are_in_memory(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(CriticSettings.load())
    alive = weakref.WeakSet[torch.Tensor]()
    most = 0
    vision_inputs = VisionLanguageModel.vision_inputs

    def counted(self: VisionLanguageModel, image: Image.Image, key: str) -> VisionInputs:
        nonlocal most
        inputs = vision_inputs(self, image, key)
        alive.add(inputs.pixels)
        most = max(most, len(alive))
        return inputs

    monkeypatch.setattr(VisionLanguageModel, "vision_inputs", counted)
    examples = read_examples(data, model, held_out=0.25, max_tokens=500)
    assert most <= 2, "one is read after another"
    parts = [examples.taught[start : start + 2] for start in range(0, len(examples.taught), 2)]
    assert [part for part, _ in batches(parts, model)] == parts
    assert most <= 4


@pytest.mark.parametrize(
    ("change", "sentence"),
    [(lambda path: path.unlink(), "cannot be read any more"), (lambda path: path.write_bytes(b"x"), "has changed")],
)
def test_a_photograph_that_is_not_what_it_was_ends_the_training_with_its_state_kept(
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], object],
    sentence: str,
) -> None:
    do_step = training.Training._do_step

    def changing(self: training.Training) -> None:
        do_step(self)
        for number in range(24):
            (tmp_path / f"{number}.png").exists() and change(tmp_path / f"{number}.png")

    monkeypatch.setattr(training.Training, "_do_step", changing)
    assert command.main(words(data, tmp_path / "adapters")) == 2
    printed = capsys.readouterr().err
    assert sentence in printed
    assert "put it back to go on" in printed
    assert (tmp_path / "adapters" / ".finetune-ansel" / training.STATE_FILE).exists()


def test_lines_that_cannot_be_used_are_skipped_with_a_reason(data: Path, tmp_path: Path) -> None:
    model = load_model(CriticSettings.load())
    (tmp_path / "broken.png").write_bytes(b"not a photograph")
    bad = [
        ("not JSON", "line 25"), ('["a list"]', "not an object"), ('{"photograph": "0.png"}', "no critique in words"),
        ('{"photograph": "gone.png", "critique": "x"}', "No such file"),
        ('{"photograph": "broken.png", "critique": "x"}', "line 29"),
        (json.dumps({"photograph": "0.png", "critique": "x" * 3_000}), "of at most 500"),
    ]  # fmt: skip
    data.write_text(data.read_text() + "\n".join(line for line, _ in bad))
    examples = read_examples(data, model, held_out=0.25, max_tokens=500)
    assert len(examples.taught) + len(examples.held_out) == 24
    for reason, (_, wanted) in zip(examples.skipped, bad, strict=True):
        assert wanted in reason
    taught = {example.key for example in examples.taught}
    assert not taught & {example.key for example in examples.held_out}


def test_a_line_ends_where_its_object_does(data: Path) -> None:
    """Text that was pasted holds separators of its own, which JSON lets stand as they are; Windows marks the file."""
    content = data.read_text().replace(CRITIQUE, "Calm light;\u2028wait\u0085for the cloud.")
    data.write_text(f"\ufeff{content}", encoding="utf-8")
    examples = read_examples(data, load_model(CriticSettings.load()), held_out=0.25, max_tokens=500)
    assert len(examples.taught) + len(examples.held_out) == 24
    assert not examples.skipped


def test_only_critiques_are_learnt(data: Path) -> None:
    model = load_model(CriticSettings.load())
    examples = read_examples(data, model, held_out=0.25, max_tokens=500)
    inputs = batch(examples.taught[:3], model)
    for row, example in enumerate(examples.taught[:3]):
        learnt = inputs["labels"][row][inputs["labels"][row] != IGNORED]
        assert tuple(learnt.tolist()) == example.answer
        assert model.tokenizer.decode(learnt, skip_special_tokens=True) == CRITIQUE
        assert learnt[-1] == model.tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"advisor": "../ansel"}, "cannot have an adapter"),
        ({"rank": 0}, "--rank is 0"),
        ({"rank": 1_000}, "at most 64"),
        ({"data": "nowhere.jsonl"}, "cannot be read"),
        ({"held-out": 0}, "0 to hold out"),
        ({"dropout": 1.5}, "--dropout is 1.5"),
    ],
)
def test_what_cannot_begin_is_one_sentence(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: dict[str, object], sentence: str
) -> None:
    assert command.main(words(data, tmp_path / "adapters", **options)) == 2
    assert sentence in capsys.readouterr().err


def test_the_help_says_what_the_command_does_and_each_number_means(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        command.arguments_of(["--help"])
    words = " ".join(capsys.readouterr().out.split())
    assert "Trains an advisor's adapter" in words
    assert "None" not in words
    for name in ("rank", "alpha", "epochs", "rows", "seed", "dropout"):
        assert f"--{name} N {name} (" not in words, "a name is no meaning"
        assert f"--{name} N " in words
    assert command.arguments_of(["--advisor", "a", "--data", "b", "--rank", "4"]).rank == 4
