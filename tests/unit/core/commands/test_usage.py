"""What a service's command says of its settings."""

from __future__ import annotations

import json

import pytest

from services.core.commands.usage import in_effect, misspelt, read_arguments
from services.core.rpc.server import main
from services.core.settings import CommonSettings
from services.critic.settings import CriticSettings
from services.embedder.settings import EmbedderSettings
from services.gateway.component import GatewayComponent
from services.gateway.settings import GatewaySettings
from services.scorer.settings import ScorerSettings


def test_help_lists_every_setting_with_its_default_and_starts_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(GatewayComponent, GatewaySettings, ["--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    for name in GatewaySettings.model_fields:
        assert (f"\nMONDRIAN_GATEWAY_{name.upper()}" in printed) == (name not in ("profile", "data_dir", "models_dir"))
    assert "\nMONDRIAN_GATEWAY_PORT=50050\n    The port to listen on; 0 takes a free one.\n" in printed


@pytest.mark.parametrize(
    ("kind", "read"),
    [
        (GatewaySettings, set()),
        (EmbedderSettings, {"PROFILE", "DATA_DIR", "MODELS_DIR"}),
        (CriticSettings, {"PROFILE", "MODELS_DIR"}),
        (ScorerSettings, {"DATA_DIR"}),
    ],
)
def test_the_help_names_of_the_common_settings_those_that_the_service_reads(
    kind: type[CommonSettings], read: set[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = str(kind.model_config.get("env_prefix"))
    with pytest.raises(SystemExit):
        read_arguments(kind, ["--help"])
    lines = capsys.readouterr().out.splitlines()
    common = [name.upper() for name in CommonSettings.model_fields]
    assert {name for name in common if any(line.startswith(f"{prefix}{name}") for line in lines)} == read
    for name in common:
        monkeypatch.setenv(f"{prefix}{name}", "mini")
    assert {sentence.split()[0].removeprefix(prefix) for sentence in misspelt(kind)} == set(common) - read


def test_the_help_fits_the_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    with pytest.raises(SystemExit):
        read_arguments(GatewaySettings, ["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines if line.startswith(" ")) < 70
    assert "    A PEM file with the server's certificate chain; with tls_key it" in lines
    assert "    turns on TLS." in lines


def test_a_word_that_means_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        read_arguments(GatewaySettings, ["--port", "50060"])
    assert ended.value.code == 2
    assert "--port 50060" in capsys.readouterr().err


def test_a_variable_that_nobody_reads_is_named_with_the_one_that_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONDRIAN_GATEWAY_CRITC", "critic:50052")
    monkeypatch.setenv("MONDRIAN_GATEWAY_XYZZY", "1")
    monkeypatch.setenv("MONDRIAN_GATEWAY_TLS_AUTHORITY", "ca.crt")
    monkeypatch.setenv("MONDRIAN_GATEWAY_HOST", "127.0.0.1")
    assert misspelt(GatewaySettings) == [
        "MONDRIAN_GATEWAY_CRITC is none of this service's settings; is MONDRIAN_GATEWAY_CRITIC meant?",
        "MONDRIAN_GATEWAY_XYZZY is none of this service's settings; --help lists them.",
    ]


def test_the_log_begins_with_what_was_set_and_has_all_settings_where_a_program_reads_it_or_they_are_asked_for() -> None:
    changed = GatewaySettings.load(port=1, critic="critic:2", data_dir="there")
    assert in_effect(changed) == 'settings beside the defaults: {"port":1,"critic":"critic:2"}'
    for more in ({"log_format": "json"}, {"log_level": "debug"}):
        sentence = in_effect(ScorerSettings.load(**more))
        whole = json.loads(sentence.removeprefix("settings: "))
        assert set(whole) == set(ScorerSettings.model_fields) - {"profile", "models_dir"}
