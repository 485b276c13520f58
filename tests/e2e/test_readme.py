"""Every command of README is run as it stands there, in a folder with the files that README names."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pytest
import skimage.data
from PIL import Image

from services.core.settings import MINI_DIR
from tests.e2e.conftest import Running
from tests.pictures import picture
from tests.processes import child_environment
from tests.readme.tables import README, filled
from tests.system import START_S

ROOT: Final = README.parent
TEXT: Final = README.read_text()
PORT: Final = "50050"
# Photographs of a photographer called Jane, none of which the project drew.
JANES: Final = ("astronaut", "camera", "chelsea", "clock_motion", "coins", "grass", "gravel", "moon", "rocket", "brick")


def blocks(language: str) -> list[str]:
    """Returns the contents of README's code blocks of a language, in order."""
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", TEXT, re.DOTALL | re.MULTILINE)


def commands(program: str) -> list[str]:
    """Returns the commands of README's shell blocks that use `program`, without their remarks, in order."""
    lines = [line.strip() for block in blocks("sh") for line in block.splitlines()]
    called = re.compile(rf"(?:^|\| )(?:[A-Z_]+=\S+ )*{program} ")
    return [re.sub(r"\s+#.*", "", line) for line in lines if called.search(line)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder in which README's commands find what they name."""
    made = tmp_path_factory.mktemp("user")
    Image.fromarray(skimage.data.coffee()).save(made / "photo.jpg", quality=92)
    Image.fromarray(skimage.data.chelsea()).save(made / "other.jpg", quality=92)
    references = made / "jane" / "references"
    references.mkdir(parents=True)
    for name in JANES:
        pixels = getattr(skimage.data, name)() if hasattr(skimage.data, name) else None
        image = (
            Image.fromarray(pixels) if pixels is not None else Image.open(Path(skimage.data.data_dir, f"{name}.png"))
        )
        image.convert("RGB").save(references / f"{name}.jpg", quality=90)
    return made


def critiques(folder: Path) -> None:
    """Writes the file of critiques that the training of an adapter reads: two of each of Jane's photographs."""
    photographs = folder / "photographs"
    photographs.mkdir()
    lines = []
    for path in sorted((folder / "jane" / "references").iterdir()):
        image = Image.open(path)
        for half, left in (("left", 0), ("right", image.width // 2)):
            name = f"photographs/{path.stem}-{half}.jpg"
            image.crop((left, 0, left + image.width // 2, image.height)).save(folder / name)
            lines.append(json.dumps({"photograph": name, "critique": "The fence leads in, and then lets go of you."}))
    (folder / "critiques.jsonl").write_text("\n".join(lines) + "\n")


def shell(command: str, folder: Path, running: Running, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a line of README in bash; `grpcurl` is the stand-in that uses reflection as grpcurl does."""
    port = running.processes["gateway"].address.rpartition(":")[2]
    environment = child_environment(
        {
            "MONDRIAN_DATA_DIR": str(running.data),
            "MONDRIAN_GATEWAY_PORT": port,
            "MONDRIAN_TORCH_THREADS": "1",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HF_HUB_OFFLINE": "1",
            **variables,
        }
    )
    stand_in = f'grpcurl() {{ "{sys.executable}" -m tests.readme.grpcurl "$@"; }}\n'
    return subprocess.run(
        ["bash", "-c", f"set -e -o pipefail\n{stand_in}{command.replace(f':{PORT}', f':{port}')}"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )


def test_the_tables_are_what_the_code_says() -> None:
    assert filled(TEXT) == TEXT, "python -m tests.readme.tables makes them anew"


def test_settings_are_named_in_full() -> None:
    """A reader sets what stands there: METRICS_PORT alone sets nothing."""
    settings = set(re.findall(r"^\| `(MONDRIAN_[^`]+)` \|", TEXT, re.MULTILINE))
    for named in re.findall(r"`([A-Z][A-Z_]+\*?)`", TEXT):
        short = not named.startswith(("MONDRIAN_", "OTEL_"))
        assert not (short and any(setting.endswith(f"_{named}") for setting in settings)), named


def test_what_keeps_the_terminal_stands_alone() -> None:
    for block in blocks("sh"):
        lines = block.split("\n")
        assert len([line for line in lines if line.strip()]) == 1 or not any(" up" in line for line in lines), block


@pytest.mark.parametrize("command", commands("make"))
def test_make_knows_each_target(command: str) -> None:
    done = subprocess.run([*command.split(), "-n"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_make_knows_the_targets_that_the_text_names() -> None:
    targets = set(re.findall(r"`make (?:-j\d+ )?([a-z][a-z-]*)", TEXT))
    rules = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert targets
    assert targets <= rules


@pytest.mark.parametrize("command", [line for line in commands("mondrian") if " up" not in line])
def test_every_mondrian_command_runs(command: str, running: Running, folder: Path) -> None:
    done = shell(command, folder, running)
    if " models pull" in command:
        # Without a hub it says what to do.
        assert done.returncode == 1
        assert "from a machine that reaches a hub into" in done.stderr
    elif " doctor" in command:
        # What it finds is this machine's affair; that it says so in full is ours.
        assert done.returncode in (0, 1)
        assert "Python" in done.stdout
    else:
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.strip()
    assert "Traceback" not in done.stderr
    if "--json" in command:
        assert len(json.loads(done.stdout)["scores"]["dimensions"]) == 8
    if "--report report.html" in command:
        assert "<svg" in (folder / "report.html").read_text()


def test_a_voice_is_trained_and_published(running: Running, folder: Path) -> None:
    critiques(folder)
    (command,) = [line for line in commands("python") if "finetune" in line]
    done = shell(command, folder, running, MONDRIAN_CRITIC_ADAPTERS_DIR=str(folder / "adapters"))
    assert done.returncode == 0, done.stderr
    assert "held-out loss" in done.stdout
    assert (folder / "adapters" / "jane" / "adapter_model.safetensors").is_file()


def test_heads_are_fitted_on_ratings(running: Running, folder: Path) -> None:
    (command,) = [line for line in commands("python") if "scorer.fit" in line]
    (table,) = blocks("csv")
    (folder / "photos").mkdir()
    lines = table.splitlines()[:1]
    for number in range(100):
        image = picture(number)
        image.save(folder / "photos" / f"{number}.png")
        lines.append(f"{number}.png,,{np.asarray(image)[..., 0].mean()},")
    (folder / "ratings.csv").write_text("\n".join(lines))
    (folder / "ViT-B-32").symlink_to(MINI_DIR / "models" / "clip")
    done = shell(command, folder, running)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^composition +100 .* head$", done.stdout, re.MULTILINE)
    assert (folder / "heads.safetensors").is_file()


def test_up_serves_and_ends_on_a_signal(running: Running, folder: Path) -> None:
    environment = child_environment(
        {
            "MONDRIAN_DATA_DIR": str(running.data),
            "MONDRIAN_TORCH_THREADS": "1",
            **{f"MONDRIAN_{name}_PORT": "0" for name in ("GATEWAY", "EMBEDDER", "CRITIC", "SCORER")},
        }
    )
    assert "mondrian up" in commands("mondrian")
    process = subprocess.Popen(
        [sys.executable, "-m", "services.cli", "up"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("Try: mondrian analyze"):
            break
    else:
        pytest.fail("".join(lines))
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=START_S)
    assert process.returncode == 0, rest
    assert "The services are stopped." in rest


@pytest.mark.parametrize("command", commands("grpcurl"))
def test_every_grpcurl_command_runs_through_reflection(command: str, running: Running, folder: Path) -> None:
    done = shell(command, folder, running)
    assert done.returncode == 0, done.stderr
    expected = {"list": "mondrian.gateway.v1.GatewayService", "Check": "SERVING", "ListAdvisors": "ansel"}
    last = command.split()[-1].rpartition("/")[2]
    assert expected.get(last, "similarity") in done.stdout


def run_example(example: str, running: Running, folder: Path) -> str:
    """Runs a Python block of README against the running services and returns what it printed."""
    for service, port in (("gateway", PORT), ("embedder", "50051")):
        example = example.replace(f"127.0.0.1:{port}", running.processes[service].address)
    done = subprocess.run(
        [sys.executable, "-c", example],
        cwd=folder,
        env=child_environment({}),
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_python_example_runs(running: Running, folder: Path) -> None:
    printed = run_example(blocks("python")[0], running, folder)
    assert len(re.findall(r"^ ?\d+\.\d  DIMENSION_", printed, re.MULTILINE)) == 8


def test_the_example_with_the_client_of_triton_runs(running: Running, folder: Path) -> None:
    _, example = blocks("python")
    printed = run_example(example, running, folder)
    assert re.fullmatch(r"mini-clip: \(2, 512\), cosine -?[01]\.\d\d\n", printed)


def test_links_lead_somewhere() -> None:
    def anchors() -> Iterator[str]:
        for title in re.findall(r"^#+ (.*)", TEXT, re.MULTILINE):
            yield "#" + re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")

    known = set(anchors())
    for link in re.findall(r"\]\(([^)]+)\)", TEXT):
        assert link in known or (ROOT / link).exists(), link
