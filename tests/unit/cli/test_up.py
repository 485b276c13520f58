"""`mondrian up` and what it stands on: ports, models, environments, signals. Services are fakes in real processes."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from services.cli import __main__ as main
from services.cli import samples
from services.cli import up as command
from services.cli.checks import Finding, Verdict, model, packages, port, python_version
from services.cli.commands import app
from services.cli.logs import PrefixedOutput
from services.cli.models import PUBLISHED, Weights, fault_of
from services.cli.roster import (
    BACKENDS,
    CRITIC,
    EMBEDDER,
    GATEWAY,
    MALLOC,
    SCORER,
    Plan,
    claim_port,
    plan_services,
    require_model,
)
from services.cli.settings import ClientSettings
from services.cli.supervisor import Supervisor
from services.core.errors import ConfigurationError
from services.core.settings import CommonSettings


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommonSettings:
    """Settings under which every model is there, and nothing is pre-computed."""
    for service in (EMBEDDER, CRITIC):
        folder = tmp_path / service.name
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"x")
        monkeypatch.setenv(f"{service.prefix}MODEL_PATH", str(folder))
    monkeypatch.setenv("MONDRIAN_DATA_DIR", str(tmp_path / "stored"))
    return CommonSettings.load()


def test_every_service_gets_its_port_and_the_gateway_all_addresses(settings: CommonSettings) -> None:
    gateway, embedder, critic, scorer = plan_services(settings, free_ports=True)
    assert [plan.service for plan in (gateway, embedder, critic, scorer)] == [GATEWAY, EMBEDDER, CRITIC, SCORER]
    assert len({plan.port for plan in (gateway, embedder, critic, scorer)}) == 4
    for plan in (gateway, embedder, critic, scorer):
        assert plan.environment[f"{plan.service.prefix}PORT"] == str(plan.port)
        assert plan.environment["MONDRIAN_DATA_DIR"] == str(settings.data_dir)
        assert {name: plan.environment[name] for name in MALLOC} == MALLOC
        assert plan.command[-1] == f"services.{plan.service.name}"
    assert gateway.environment["MONDRIAN_GATEWAY_CRITIC"] == critic.address
    assert gateway.environment["MONDRIAN_GATEWAY_EMBEDDER"] == embedder.address
    assert gateway.environment["MONDRIAN_GATEWAY_SCORER"] == scorer.address


def test_where_a_port_speaks_tls_health_has_one_of_its_own(
    settings: CommonSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MONDRIAN_SCORER_TLS_CERTIFICATE", "tls.crt")
    gateway, *_, scorer = plan_services(settings, free_ports=True)
    assert gateway.health_address == gateway.address
    assert "MONDRIAN_GATEWAY_HEALTH_PORT" not in gateway.environment
    assert scorer.health_address != scorer.address
    assert scorer.environment["MONDRIAN_SCORER_HEALTH_PORT"] == str(scorer.health_port)


def test_a_users_own_malloc_settings_stay(settings: CommonSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TOP_PAD_", "4096")
    assert plan_services(settings, free_ports=True)[0].environment["MALLOC_TOP_PAD_"] == "4096"


def test_a_port_in_use_is_one_sentence_with_a_way_out(
    settings: CommonSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        for name in ("GATEWAY", "EMBEDDER", "SCORER"):
            monkeypatch.setenv(f"MONDRIAN_{name}_PORT", "0")
        monkeypatch.setenv("MONDRIAN_CRITIC_PORT", str(number))
        with pytest.raises(ConfigurationError) as caught:
            plan_services(settings)
        for words in (f"critic cannot listen on 127.0.0.1:{number}", "MONDRIAN_CRITIC_PORT", "--free-ports"):
            assert words in str(caught.value)
        result = CliRunner().invoke(app, ["up"])
        assert result.exit_code == 2
        assert len(result.stderr.splitlines()) == 1
        assert port(CRITIC).verdict is Verdict.MEND


def test_one_port_for_two_services_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="Two services"):
        claim_port(SCORER, "127.0.0.1", 50051, taken=[50051])


@pytest.mark.parametrize(
    ("profile", "words"), [("mini", "make mini"), ("full", "mondrian models pull")], ids=["mini", "full"]
)
def test_a_missing_model_is_one_sentence_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile: str, words: str
) -> None:
    monkeypatch.setattr("services.cli.roster.MINI_DIR", tmp_path / "mini")
    settings = CommonSettings.load(profile=profile, models_dir=tmp_path / "full")
    with pytest.raises(ConfigurationError, match=words):
        require_model(EMBEDDER, settings)
    with pytest.raises(ConfigurationError, match="MONDRIAN_CRITIC_MODEL_PATH"):
        require_model(CRITIC, settings, tmp_path / "none")
    require_model(SCORER, settings)


def test_an_unknown_profile_is_one_sentence() -> None:
    for name in ("up", "doctor"):
        result = CliRunner().invoke(app, [name, "--profile", "medium"])
        assert result.exit_code == 2
        assert "'medium'" in result.stderr


def samples_asked_for(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Puts a note in the place of the sample advisors' precompute; returns the profiles that it was asked for."""
    asked: list[str] = []

    def precompute_samples(settings: CommonSettings) -> int:
        asked.append(settings.profile)
        return 0

    monkeypatch.setattr(command, "precompute_samples", precompute_samples)
    return asked


def test_profile_mini_begins_with_the_sample_advisors(
    settings: CommonSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = samples_asked_for(monkeypatch)
    command.prepare(settings.model_copy(update={"profile": "full"}))
    assert asked == []
    command.prepare(settings)
    assert asked == ["mini"]


def test_samples_are_made_again_when_what_they_follow_from_has_changed(
    settings: CommonSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photographs = tmp_path / "advisors" / "ansel" / "references"
    photographs.mkdir(parents=True)
    monkeypatch.setattr(samples, "SAMPLES", tmp_path / "advisors")
    settings.data_dir.mkdir()
    assert not samples.outdated(settings), "never made, so never outdated"
    samples.remember(settings)
    assert not samples.outdated(settings)
    monkeypatch.setenv("MONDRIAN_EMBEDDER_ENGINE", "openvino")
    assert samples.outdated(settings), "another engine is another space"
    monkeypatch.delenv("MONDRIAN_EMBEDDER_ENGINE")
    (photographs / "new.jpg").write_bytes(b"x")
    assert samples.outdated(settings)
    asked = samples_asked_for(monkeypatch)
    monkeypatch.setattr(command, "store_of", lambda *_: type("Store", (), {"current_id": lambda self: "a" * 64})())
    command.prepare(settings)
    samples.remember(settings)
    command.prepare(settings)
    assert asked == ["mini"]


@pytest.mark.parametrize("ignored", [True, False])
def test_a_hangup_ends_it_unless_it_was_started_to_outlive_one(ignored: bool) -> None:
    supervisor = Supervisor([], PrefixedOutput(Console(file=io.StringIO()), 1), lambda _: None)
    # A handler of its own, so that a hangup that is let through ends no test.
    told: list[int] = []
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else lambda number, _: told.append(number))
    try:
        with command._signals(supervisor) as received:
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (received, told) == ([] if ignored else [signal.SIGHUP], [])
    assert supervisor.stopping.is_set() is not ignored


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_serves_until_a_signal_and_stops_every_service(
    settings: CommonSettings, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    plans = []
    for service in BACKENDS[::2]:
        free = claim_port(service, "127.0.0.1", 0, taken=())
        program = (sys.executable, "-m", "tests.fakes", service.name, "--port", str(free))
        plans.append(Plan(service, "127.0.0.1", free, program, dict(os.environ), free))
    monkeypatch.setattr(command, "plan_services", lambda *_, **__: tuple(plans))
    monkeypatch.setattr(command, "prepare", lambda _: None)
    show_ready = command.show_ready

    def ready(*arguments: Any) -> None:
        show_ready(*arguments)
        os.kill(os.getpid(), number)

    monkeypatch.setattr(command, "show_ready", ready)
    before = signal.getsignal(number)
    result = CliRunner().invoke(app, ["up", "--quiet"])
    assert result.exit_code == code, result.output
    assert plans[0].address in result.stdout
    assert "mondrian.embedder.v1.EmbedderService" in result.stdout
    assert "The services are stopped." in result.stdout
    assert (settings.data_dir / "logs" / "embedder.log").is_file()
    assert signal.getsignal(number) == before
    for plan in plans:
        with socket.socket() as connection:
            assert connection.connect_ex(("127.0.0.1", plan.port)) != 0


# Where the gateway is -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("", "127.0.0.1:50050"),
        ("0.0.0.0", "127.0.0.1:50050"),
        ("::", "[::1]:50050"),
        ("::1", "[::1]:50050"),
        ("[fe80::1]", "[fe80::1]:50050"),
        ("gate.example", "gate.example:50050"),
    ],
)
def test_the_client_finds_the_gateway(monkeypatch: pytest.MonkeyPatch, host: str, address: str) -> None:
    monkeypatch.setenv("MONDRIAN_GATEWAY_HOST", host)
    assert ClientSettings.load().address == address


def test_a_wrong_setting_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONDRIAN_GATEWAY_PORT", "many")
    result = CliRunner().invoke(app, ["advisors"])
    assert result.exit_code == 2
    assert "MONDRIAN_GATEWAY_PORT" in result.stderr


# Doctor and models --------------------------------------------------------------------------------------------


def test_the_doctor_judges_python() -> None:
    assert python_version((3, 11)).verdict is Verdict.FINE
    assert python_version((3, 10)).verdict is Verdict.MEND
    assert python_version((3, 13)).verdict is Verdict.MEND


def test_the_doctor_compares_with_the_lock(tmp_path: Path) -> None:
    lock = tmp_path / "constraints.txt"
    lock.write_text("# a lock\npytest==0.0.1\nnot-installed-anywhere==1.0\npip==0.0.1\n")
    [finding] = [each for each in packages(lock) if each.verdict is Verdict.NOTE]
    assert "pytest" in finding.sentence
    assert "instead of 0.0.1" in finding.sentence
    assert "not-installed-anywhere" not in finding.sentence
    assert "pip" not in finding.sentence
    assert [each.verdict for each in packages(tmp_path / "none")][-1] is Verdict.NOTE


def test_the_doctor_looks_for_models(tmp_path: Path) -> None:
    settings = CommonSettings.load(profile="full", models_dir=tmp_path)
    [finding] = list(model(EMBEDDER, settings))
    assert (finding.verdict, finding.mend) == (Verdict.MEND, "mondrian models pull")
    folder = tmp_path / "ViT-B-32"
    folder.mkdir()
    (folder / "open_clip_model.safetensors").write_bytes(b"x" * 2_000_000)
    [finding] = list(model(EMBEDDER, settings))
    assert "lacks open_clip_config.json" in finding.sentence
    (folder / "open_clip_config.json").write_text("{}")
    [finding] = list(model(EMBEDDER, settings))
    assert (finding.verdict, "2.0 MB" in finding.sentence) == (Verdict.FINE, True)
    assert list(model(SCORER, settings)) == []


def test_the_doctor_looks_for_adapters_where_the_critic_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "jane").mkdir()
    (tmp_path / "jane" / "adapter_config.json").write_text("{}")
    monkeypatch.setenv("MONDRIAN_CRITIC_ADAPTERS_DIR", str(tmp_path))
    assert list(model(CRITIC, CommonSettings.load()))[-1].sentence == f"jane, in {tmp_path}."


@pytest.mark.parametrize(("verdict", "code"), [(Verdict.NOTE, 0), (Verdict.MEND, 1)])
def test_the_doctor_ends_with_1_when_something_needs_mending(
    monkeypatch: pytest.MonkeyPatch, verdict: Verdict, code: int
) -> None:
    findings = [Finding("Disk", Verdict.FINE, "Fine."), Finding("Model", verdict, "It is missing.", "fetch it")]
    monkeypatch.setattr("services.cli.doctor.examine", lambda _: iter(findings))
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == code
    assert "→ fetch it" in result.stdout
    assert ("1 finding to mend." if code else "Nothing to mend.") in result.stdout


def test_only_safetensors_are_fetched() -> None:
    for weights in PUBLISHED:
        assert not any(pattern.endswith((".bin", ".pt", ".pth", ".pkl", "*")) for pattern in weights.wanted)


class Hub:
    """Stands for the hub's client: fetches files into the folder, or fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: Exception | None = None, complete: bool = True) -> None:
        self.calls: list[dict[str, Any]] = []
        self._error, self._complete = error, complete
        monkeypatch.setattr("huggingface_hub.snapshot_download", self)

    def __call__(self, repository: str, *, local_dir: Path, **options: Any) -> None:
        self.calls.append({"repository": repository, **options})
        if self._error is not None:
            raise self._error
        local_dir.mkdir(parents=True, exist_ok=True)
        weights: Weights = next(each for each in PUBLISHED if each.repository == repository)
        for name in (*weights.required, "model.safetensors") if self._complete else ("README.md",):
            (local_dir / name).write_bytes(b"x")


def test_pull_fetches_both_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(monkeypatch)
    monkeypatch.setattr("services.cli.models.shutil.disk_usage", lambda _: type("Usage", (), {"free": 1e12}))
    result = CliRunner().invoke(app, ["models", "pull", "--to", str(tmp_path), "--vlm-revision", "abc"])
    assert result.exit_code == 0, result.output
    assert [(call["repository"], call["revision"]) for call in hub.calls] == [
        ("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", None),
        ("Qwen/Qwen3-VL-4B-Instruct", "abc"),
    ]
    assert fault_of(tmp_path / "Qwen3-VL-4B-Instruct", PUBLISHED[1].required) == ""


@pytest.mark.parametrize(
    ("error", "complete", "code", "words"),
    [
        (OSError("Name or service not known"), True, 1, "Name or service not known"),
        (None, False, 1, "is not complete"),
    ],
    ids=["unreachable", "incomplete"],
)
def test_a_pull_that_fails_says_what_to_copy_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception | None, complete: bool, code: int, words: str
) -> None:
    Hub(monkeypatch, error, complete)
    monkeypatch.setattr("services.cli.models.shutil.disk_usage", lambda _: type("Usage", (), {"free": 1e12}))
    result = CliRunner().invoke(app, ["models", "pull", "--to", str(tmp_path)])
    assert result.exit_code == code
    assert len(result.stderr.splitlines()) == 1
    for each in (words, "open_clip_model.safetensors", str(tmp_path / "ViT-B-32")):
        assert each in result.stderr


def test_a_full_disk_is_said_before_the_pull(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(monkeypatch)
    monkeypatch.setattr("services.cli.models.shutil.disk_usage", lambda _: type("Usage", (), {"free": 1e8}))
    result = CliRunner().invoke(app, ["models", "pull", "--to", str(tmp_path)])
    assert result.exit_code == 2
    assert "0.1 GB free" in result.stderr
    assert hub.calls == []


def test_models_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONDRIAN_MODELS_DIR", str(tmp_path))
    result = CliRunner().invoke(app, ["models", "list"])
    assert result.exit_code == 0
    assert result.stdout.count("full") >= 2
    assert "missing" in result.stdout


# The command itself -------------------------------------------------------------------------------------------


def test_ctrl_c_while_the_command_is_loading_is_quiet(tmp_path: Path) -> None:
    # A module that is interrupted while it is imported, in the place of the first one that the commands import.
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'services.cli.commands':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupt())\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    ended = subprocess.run(
        [sys.executable, "-m", "services.cli"], env=environment, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


def test_a_fault_of_the_command_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ClientSettings, "load", classmethod(lambda cls: 1 / 0))
    result = CliRunner().invoke(app, ["advisors"])
    assert result.exit_code == 1
    assert result.stderr.startswith("mondrian: This is a fault of the command line itself (ZeroDivisionError")
    assert len(result.stderr.splitlines()) == 1


def test_every_command_has_a_help_that_names_the_exit_codes() -> None:
    for name in ("demo", "up", "analyze", "precompute", "advisors", "doctor"):
        result = CliRunner().invoke(app, [name, "--help"])
        assert result.exit_code == 0
        assert "Exit codes: 0 done;" in " ".join(result.stdout.split())


def test_ctrl_c_while_the_commands_are_being_built_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("services.cli.commands.app", interrupted)
    with pytest.raises(SystemExit) as ended:
        main.app()
    assert ended.value.code == 130


def test_a_precompute_that_was_interrupted_has_told_so_already(
    settings: CommonSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "precompute_samples", lambda settings: 130)
    with pytest.raises(typer.Exit) as ended:
        command.prepare(settings)
    assert ended.value.exit_code == 130
