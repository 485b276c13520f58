"""What a critique may build on: the references and scores that came before it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from mondrian.critic.v1 import critic_pb2
from mondrian.embedder.v1 import embedder_pb2
from mondrian.scorer.v1 import scorer_pb2

# As critic.v1.Grounding says.
_MAX_REFERENCES: Final = 8
_MAX_FINDINGS: Final = 16


def grounding(replies: Iterable[object]) -> critic_pb2.Grounding | None:
    """Returns what the parts' replies say of references and scores; None where they say nothing."""
    found = critic_pb2.Grounding()
    for reply in replies:
        if isinstance(reply, embedder_pb2.SearchReferencesResponse):
            for neighbor in reply.neighbors[:_MAX_REFERENCES]:
                reference = found.references.add()
                reference.CopyFrom(neighbor.reference)
                reference.ClearField("thumbnail_jpeg")
        if isinstance(reply, scorer_pb2.ScoreResponse):
            findings = [sentence for dimension in reply.dimensions for sentence in dimension.evidence[:2]]
            found.findings.extend(findings[:_MAX_FINDINGS])
    return found if found.references or found.findings else None
