"""Bearer tokens: what a file may hold, and that it may change."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from services.core.errors import ConfigurationError
from services.core.rpc.tokens import Tokens

FIRST, SECOND = "first-token-of-a-test", "second-token-of-a-test"


def bearer(token: str, scheme: str = "Bearer") -> list[tuple[str, str | bytes]]:
    return [("x-request-id", "1"), ("authorization", f"{scheme} {token}")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(f"# a service\n\n{FIRST}\n  {SECOND}  \n")
    return path


def test_each_token_of_the_file_is_accepted_and_the_first_is_sent(path: Path) -> None:
    tokens = Tokens(path)
    assert tokens.accept(bearer(FIRST))
    assert tokens.accept(bearer(SECOND, "bearer"))
    assert tokens.metadata() == (("authorization", f"Bearer {FIRST}"),)


@pytest.mark.parametrize(
    "metadata",
    [
        [],
        bearer(""),
        bearer("a service"),
        bearer(FIRST[:-1]),
        bearer(FIRST.upper()),
        bearer(FIRST, "Basic"),
        [("authorization", FIRST)],
        [("authorization-bin", f"Bearer {FIRST}".encode())],
        [("x-authorization", f"Bearer {FIRST}")],
        bearer("\udcff\x00"),
    ],
    ids=lambda metadata: repr(metadata)[-40:],
)
def test_nothing_else_is(path: Path, metadata: list[tuple[str, str | bytes]]) -> None:
    assert not Tokens(path).accept(metadata)


def test_a_file_that_changes_is_read_again(path: Path) -> None:
    tokens = Tokens(path)
    path.write_text(f"{SECOND}\n")
    assert not tokens.accept(bearer(FIRST))
    assert tokens.accept(bearer(SECOND))
    assert tokens.metadata() == (("authorization", f"Bearer {SECOND}"),)


def test_what_is_sent_follows_the_file_too(path: Path) -> None:
    tokens = Tokens(path)
    path.write_text(f"{SECOND}\n")
    assert tokens.metadata() == (("authorization", f"Bearer {SECOND}"),)


def test_a_token_of_16_characters_is_long_enough(path: Path) -> None:
    path.write_text("0123456789abcdef")
    assert Tokens(path).accept(bearer("0123456789abcdef"))


def test_a_file_that_breaks_leaves_the_tokens_in_use(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokens = Tokens(path)
    path.unlink()
    with caplog.at_level(logging.ERROR):
        assert tokens.accept(bearer(FIRST))
        assert tokens.accept(bearer(FIRST))
    assert caplog.messages == [
        f"The tokens' file {path} cannot be read (No such file or directory). The tokens in use are kept."
    ]
    path.write_text(f"{SECOND}\n")
    assert not tokens.accept(bearer(FIRST))


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "holds no token"),
        (b"# nothing\n\n", "holds no token"),
        (b"too-short\n", "less than 16 characters"),
        (b"sixteen characters with spaces\n", "a space in it"),
        ("ä".encode() * 16, "beyond ASCII"),
    ],
)
def test_a_file_without_good_tokens_is_refused_in_a_sentence(tmp_path: Path, content: bytes, fault: str) -> None:
    path = tmp_path / "tokens"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=fault) as refused:
        Tokens(path)
    assert "too-short" not in str(refused.value)
