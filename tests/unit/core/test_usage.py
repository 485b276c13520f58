"""What a service's command says of its settings."""

from __future__ import annotations

import pytest

from services.core.server import main
from services.core.usage import misspelt, read_arguments
from services.gateway.component import GatewayComponent
from services.gateway.settings import GatewaySettings


def test_help_lists_every_setting_with_its_default_and_starts_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(GatewayComponent, GatewaySettings, ["--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    for name in GatewaySettings.model_fields:
        assert f"\nMONDRIAN_GATEWAY_{name.upper()}" in printed
    assert "\nMONDRIAN_GATEWAY_PORT=50050\n    The port to listen on; 0 takes a free one.\n" in printed


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
