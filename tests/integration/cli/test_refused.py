"""Calls that cannot be answered, and gateways that cannot be called: one sentence, and what to do."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.core.errors import Overloaded
from tests.fakes.certificates import Authority
from tests.integration.cli.stage import Stage, flat, staged


def test_an_unknown_advisor_is_one_sentence(stage: Stage, photograph: Path) -> None:
    result = stage.run("analyze", photograph, "-a", "nobody", "-m", "clip")
    assert result.exit_code == 1
    assert "nobody" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_wrong_use_ends_with_2(stage: Stage, photograph: Path) -> None:
    assert stage.run("analyze", photograph, "-a", "Ansel Adams").exit_code == 2
    assert stage.run("analyze", photograph, "-a", "ansel", "--mode", "fast").exit_code == 2
    assert stage.run("analyze", photograph).exit_code == 2
    assert stage.run("analyze", photograph, "-a", "ansel", "--top-k", "0").exit_code == 2
    assert stage.run("nothing").exit_code == 2


def test_an_overloaded_service_says_when_to_try_again(stage: Stage, photograph: Path) -> None:
    stage.system.embedder.failure = Overloaded("Too many requests wait.", retry_after_s=2.0)
    result = stage.run("analyze", photograph, "-a", "ansel", "-m", "clip")
    assert result.exit_code == 1
    assert flat(result.stderr) == "mondrian: Too many requests wait; try again in 2 s."


def test_no_gateway_is_one_sentence_that_says_how_to_start_it(stage: Stage, photograph: Path) -> None:
    for arguments in (("analyze", photograph, "-a", "ansel"), ("advisors",)):
        result = stage.run(*arguments, at="127.0.0.1:1")
        assert result.exit_code == 1
        assert flat(result.stderr) == (
            "mondrian: No gateway answers at 127.0.0.1:1; start the services with `mondrian up`, "
            "or name another with --address HOST:PORT."
        )


def test_a_gateway_that_asks_for_tokens_and_certificates_is_given_them(
    photograph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path)
    pair, own, tokens = authority.issue("gateway"), authority.issue("client"), tmp_path / "tokens"
    tokens.write_text("token-of-this-test\n")
    tls: dict[str, Any] = {
        "tls_certificate": pair.certificate,
        "tls_key": pair.key,
        "tls_client_ca": authority.certificate,
    }
    arguments = ("analyze", photograph, "-a", "ansel", "-m", "clip")
    with staged(tokens_file=tokens, **tls) as stage:
        assert "No gateway answers" in flat(stage.run(*arguments).stderr)
        for name, path in (
            ("TLS_AUTHORITY", authority.certificate),
            ("TLS_CLIENT_CERTIFICATE", own.certificate),
            ("TLS_CLIENT_KEY", own.key),
        ):
            monkeypatch.setenv(f"MONDRIAN_GATEWAY_{name}", str(path))
        for command in (arguments, (*arguments, "--stream"), (*arguments, photograph), ("advisors",)):
            monkeypatch.delenv("MONDRIAN_GATEWAY_TOKENS_FILE", raising=False)
            refused = stage.run(*command)
            assert refused.exit_code == 1
            assert "set MONDRIAN_GATEWAY_TOKENS_FILE" in flat(refused.stderr)
            monkeypatch.setenv("MONDRIAN_GATEWAY_TOKENS_FILE", str(tokens))
            assert stage.run(*command).exit_code == 0
        monkeypatch.setenv("MONDRIAN_GATEWAY_TLS_AUTHORITY", str(tmp_path / "none"))
        missing = stage.run(*arguments)
        assert missing.exit_code == 2
        assert "cannot be read" in flat(missing.stderr)


def test_another_server_is_named_as_such(stage: Stage, photograph: Path) -> None:
    with ThreadPoolExecutor(1) as threads:
        server = grpc.server(threads)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        result = stage.run("analyze", photograph, "-a", "ansel", at=f"127.0.0.1:{port}")
        server.stop(None).wait()
    assert result.exit_code == 1
    assert "is not a Mondrian gateway" in result.stderr


def test_no_answer_in_time_is_one_sentence(stage: Stage, photograph: Path) -> None:
    stage.loop.call_soon_threadsafe(stage.system.embedder.gate.clear)
    try:
        result = stage.run("analyze", photograph, "-a", "ansel", "-m", "clip", "--timeout", "0.4")
    finally:
        stage.loop.call_soon_threadsafe(stage.system.embedder.gate.set)
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
