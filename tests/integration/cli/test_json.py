"""What a program gets of `mondrian analyze`."""

from __future__ import annotations

import json
from pathlib import Path

from google.rpc import code_pb2

from tests.integration.cli.stage import Stage


def test_prints_one_json_document(stage: Stage, photograph: Path) -> None:
    result = stage.run("analyze", photograph, "-a", "ansel", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["references"]["neighbors"][0]["reference"]["title"] == "Moon over the ridge"
    assert len(document["scores"]["dimensions"]) == 8
    assert document["scores"]["dimensions"][0]["dimension"] == "DIMENSION_COMPOSITION"
    assert document["critique"]["text"] == stage.system.critic.text
    assert document["failures"] == []


def test_prints_an_array_for_several_photographs(stage: Stage, photograph: Path, tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no photograph")
    missing = tmp_path / "none.jpg"
    result = stage.run("analyze", photograph, missing, text, photograph, "-a", "ansel", "-m", "clip", "--json")
    assert result.exit_code == 1
    documents = json.loads(result.stdout)
    assert [document["key"] for document in documents] == [str(photograph), str(missing), str(text), str(photograph)]
    assert ["response" in document for document in documents] == [True, False, False, True]
    assert "does not exist" in documents[1]["status"]["message"]
    assert documents[1]["status"]["code"] == code_pb2.INVALID_ARGUMENT  # 0 would be OK
    assert documents[1]["status"]["reason"] == "INVALID_ARGUMENT"
    assert documents[2]["status"]["reason"] == "IMAGE_UNDECODABLE"
    assert len(result.stderr.splitlines()) == 2


def test_prints_an_event_a_line(stage: Stage, photograph: Path) -> None:
    result = stage.run("analyze", photograph, "-a", "ansel", "--json", "--stream")
    assert result.exit_code == 0, result.output
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert "completed" in events[-1]
    written = "".join(event["critique_delta"]["text"] for event in events if "critique_delta" in event)
    assert written == stage.system.critic.text
