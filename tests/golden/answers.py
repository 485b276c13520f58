"""Answers whose sentences are kept in tests/golden/gateway, and the one way to make those files again:

python -m tests.golden.answers --remake
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import grpc
from google.protobuf import json_format
from mondrian.critic.v1 import critic_pb2
from mondrian.embedder.v1 import embedder_pb2
from mondrian.gateway.v1 import gateway_pb2
from mondrian.scorer.v1 import scorer_pb2
from mondrian.types.v1 import types_pb2

from services.gateway.summary import narrate

FOLDER: Final = Path(__file__).parent / "gateway"
ADVISOR: Final = "Ansel Sample"
_SCORES: Final = (7.2, 4.1, 8.0, 6.4, 6.46, 5.0, 7.4, 6.0)
_MEANS: Final = (7.0, 6.5, 7.9, 6.4, 6.0, 6.2, 7.0, 5.5)
_BESTS: Final = (9.1, 8.6, 8.4, 8.0, 6.54, 8.0, 9.0, 7.5)


def references(count: int = 3, first: float = 0.834) -> embedder_pb2.SearchReferencesResponse:
    """Returns `count` neighbors, the nearest with similarity `first`, each 0.12 further away."""
    found = embedder_pb2.SearchReferencesResponse()
    for rank in range(count):
        reference = types_pb2.Reference(title=f"Ridge No. {rank + 1}", location="Sample Valley")
        if rank == 0:
            reference.year = 1941
            reference.significance = "Every tone from black to white is used"
            reference.best_for.extend([types_pb2.DIMENSION_LIGHTING, types_pb2.DIMENSION_DEPTH_PERSPECTIVE])
        found.neighbors.add(reference=reference, similarity=first - 0.12 * rank)
    return found


def scores(*, compared: bool = True) -> scorer_pb2.ScoreResponse:
    """Returns eight scores; lighting needs work."""
    answer = scorer_pb2.ScoreResponse(overall=6.44, grade="B")
    for dimension, score, mean, best in zip(
        [value for value in types_pb2.Dimension.values() if value], _SCORES, _MEANS, _BESTS, strict=True
    ):
        scored = answer.dimensions.add(dimension=dimension, score=score, evidence=["12% of the pixels lie in zone 0"])
        if compared:
            example = scorer_pb2.Example(title="Ridge No. 7", score=best)
            scored.comparison.reference.CopyFrom(scorer_pb2.Distribution(mean=mean, best_example=example))
            scored.comparison.gap_points = score - mean
            scored.comparison.gap = (score - mean) / 0.8
            if dimension == types_pb2.DIMENSION_LIGHTING:
                scored.comparison.needs_work = True
                scored.comparison.advice = "Expose for the highlights"
                scored.comparison.examples.extend([example, scorer_pb2.Example(title="Lake", score=8.5)])
    return answer


def colour_beside_monochrome() -> scorer_pb2.ScoreResponse:
    """Returns scores of which one is not compared: its distance would be the greatest."""
    answer = scores()
    harmony = answer.dimensions[types_pb2.DIMENSION_COLOR_HARMONY - 1]
    harmony.score = 1.0
    harmony.comparison.gap_points = 0.0
    harmony.comparison.gap = 0.0
    harmony.comparison.not_comparable = True
    answer.note = "The photograph is in colour and most references are monochrome: color harmony is not compared."
    return answer


def critique(**fields: Any) -> critic_pb2.CritiqueResponse:
    """Returns a critique of three sentences."""
    text = fields.pop(
        "text", "The ridge leads the eye, e.g. to the moon. The lower third is empty.\n\nWait for the light."
    )
    return critic_pb2.CritiqueResponse(text=text, **fields)


def failure(part: gateway_pb2.Part.ValueType, code: grpc.StatusCode, message: str) -> gateway_pb2.Failure:
    """Returns a part's failure."""
    return gateway_pb2.Failure(part=part, status=types_pb2.Status(code=code.value[0], message=message))


_AWAY: Final = "The critic cannot be reached; try again in a moment."
_LATE: Final = "The scorer did not answer within 3.8 s; allow more time."
_UNKNOWN: Final = "Nothing has been pre-computed yet: run `mondrian precompute`."
_FELL_BACK: Final = critic_pb2.Authorship(fell_back=True, fallback_reason="There is no adapter for 'weston'")
_CUT: Final = critic_pb2.Completion(finish_reason=critic_pb2.FINISH_REASON_LENGTH)

CASES: Final[dict[str, Callable[[], gateway_pb2.AnalyzeResponse]]] = {
    "clip": lambda: gateway_pb2.AnalyzeResponse(references=references()),
    "clip-many": lambda: gateway_pb2.AnalyzeResponse(references=references(8)),
    "clip-one": lambda: gateway_pb2.AnalyzeResponse(references=references(1)),
    "clip-none": lambda: gateway_pb2.AnalyzeResponse(references=references(0)),
    "clip-unlike": lambda: gateway_pb2.AnalyzeResponse(references=references(2, first=0.24)),
    "clip-unlike-one": lambda: gateway_pb2.AnalyzeResponse(references=references(1, first=-0.003)),
    "lora": lambda: gateway_pb2.AnalyzeResponse(critique=critique()),
    "lora-base-model-cut-off": lambda: gateway_pb2.AnalyzeResponse(
        critique=critique(authorship=_FELL_BACK, completion=_CUT)
    ),
    "lora-without-an-end": lambda: gateway_pb2.AnalyzeResponse(critique=critique(text="light and " * 80)),
    "lora-empty": lambda: gateway_pb2.AnalyzeResponse(critique=critique(text=" \n")),
    "dimensional": lambda: gateway_pb2.AnalyzeResponse(scores=scores()),
    "dimensional-colour-beside-monochrome": lambda: gateway_pb2.AnalyzeResponse(scores=colour_beside_monochrome()),
    "dimensional-alone": lambda: gateway_pb2.AnalyzeResponse(scores=scores(compared=False)),
    "combined": lambda: gateway_pb2.AnalyzeResponse(references=references(), critique=critique(), scores=scores()),
    "combined-without-critic": lambda: gateway_pb2.AnalyzeResponse(
        references=references(),
        scores=scores(),
        failures=[failure(gateway_pb2.PART_CRITIQUE, grpc.StatusCode.UNAVAILABLE, _AWAY)],
    ),
    "combined-critique-alone": lambda: gateway_pb2.AnalyzeResponse(
        critique=critique(),
        failures=[
            failure(gateway_pb2.PART_REFERENCES, grpc.StatusCode.UNAVAILABLE, _UNKNOWN),
            failure(gateway_pb2.PART_SCORES, grpc.StatusCode.DEADLINE_EXCEEDED, _LATE),
        ],
    ),
}


def told(name: str) -> dict[str, Any]:
    """Returns narrations and summary of a case, as JSON."""
    answer = CASES[name]()
    narrate(answer, ADVISOR)
    kept = gateway_pb2.AnalyzeResponse(narrations=answer.narrations, summary=answer.summary)
    as_json: dict[str, Any] = json_format.MessageToDict(kept)
    return as_json


def main() -> None:
    """Writes the files anew, when asked to by name."""
    parser = argparse.ArgumentParser(description="Makes the golden sentences again.")
    parser.add_argument("--remake", action="store_true", required=True, help="write the files")
    parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    for name in CASES:
        text = json.dumps(told(name), indent=2, ensure_ascii=False)
        (FOLDER / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
