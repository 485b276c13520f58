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
from services.cli.checks import Verdict, port
from services.cli.commands import app
from services.cli.logs import PrefixedOutput
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
from tests.processes import free_port


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
        free = free_port()
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
