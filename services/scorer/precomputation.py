"""One run of precompute: an advisor's folder becomes part of the current release."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from services.core.advisors import AdvisorFolder
from services.core.commands.gathering import gather
from services.core.commands.precompute import Skipped, remarks
from services.core.commands.progress import Progress
from services.core.errors import ConfigurationError
from services.core.images.reading import ImageLimits
from services.core.releases import Release, ReleaseStore, Remains, Writer, current_or_remains, replaced, writing
from services.scorer import photographs
from services.scorer.references import (
    AdvisorReferences,
    Reference,
    load_advisor_references,
    profile_file,
    reference_to_json,
    references_file,
)
from services.scorer.scoring import Picture, Scorer, Scores
from services.scorer.work import Work

_BATCH = 32


@dataclass(frozen=True)
class Outcome:
    """What a run did."""

    release: Release
    """The release that is current now."""
    advisor: AdvisorReferences
    computed: int
    """How many references were measured in this run."""
    skipped: tuple[Skipped, ...]
    left_behind: tuple[str, ...]
    """Advisors of the release before that another scorer measured and that must be pre-computed again."""
    mended: tuple[str, ...] = ()
    """What became of a damaged release before, in sentences; empty where there was none."""


def precompute(
    folder: AdvisorFolder,
    scorer: Scorer,
    store: ReleaseStore,
    *,
    limits: ImageLimits,
    keep: int = 5,
    report: Callable[[str, int], contextlib.AbstractContextManager[Progress]],
) -> Outcome:
    """Publishes a release with the advisor's photographs and returns what was done.

    `keep` older releases are left to roll back to. `report` makes the progress of a title and a number of photographs.

    Raises:
        WriterBusy: another precompute runs.
        ConfigurationError: no photograph of the folder can be used, or the store cannot be written to.
    """
    with writing(store) as writer:
        before, remains = current_or_remains(store)
        origin, known = _known_before(before, remains, scorer)
        left_behind = tuple(sorted(set(before.manifest.counts) - {folder.id, *origin})) if before else ()
        work = Work(store.work, scorer.id)
        with report(f"Scoring {folder.id}", len(folder.photographs)) as shown:
            findings = gather(
                folder,
                lambda identity: (work.get(identity) or known.get(identity)) is not None,
                lambda content: photographs.picture(content, limits),
                lambda pictures: _score(pictures, scorer, work),
                limits=limits,
                batch=_BATCH,
                shown=shown,
            )
        advisor = AdvisorReferences.of(
            folder.id,
            scorer.id,
            [
                Reference(one, file.about.title, file.about.file_name, file.about.best_for, work.get(one) or known[one])
                for one, file in findings.files.items()
            ],
        )
        release = _publish(writer, scorer, advisor, findings.skipped, origin)
        mended = replaced(writer, remains, folder.id, origin) if remains else ()
        writer.collect(keep)
        work.forget(findings.files)
    return Outcome(release, advisor, findings.computed, tuple(findings.skipped), left_behind, tuple(mended))


def _known_before(
    before: Release | None, remains: Remains | None, scorer: Scorer
) -> tuple[dict[str, Release], dict[str, Scores]]:
    """Returns the release that each advisor before is taken from, those that this scorer measured and that can be read,
    and the scores of their references, by id.

    Of a damaged release an advisor is taken where both its files are sound, and else from an older one.
    """
    origin: dict[str, Release] = {}
    scores: dict[str, Scores] = {}
    for release in (before,) if before else remains.releases if remains else ():
        if release.manifest.space_id != scorer.id:
            continue
        for advisor in release.manifest.counts:
            with contextlib.suppress(ConfigurationError):
                if advisor not in origin:
                    found = load_advisor_references(release, advisor)
                    origin[advisor] = release
                    scores.update((one.id, one.scores) for one in found.references)
    return origin, scores


def _score(pictures: Mapping[str, Picture], scorer: Scorer, work: Work) -> None:
    ids = list(pictures)
    for positions in photographs.batches(list(pictures.values()), 8):
        batch = [ids[position] for position in positions]
        work.put(dict(zip(batch, scorer.score([pictures[one] for one in batch]), strict=True)))


def _publish(
    writer: Writer,
    scorer: Scorer,
    advisor: AdvisorReferences,
    skipped: Sequence[Skipped],
    origin: Mapping[str, Release],
) -> Release:
    advisor_id = advisor.profile.advisor
    counts = {advisor_id: advisor.profile.count}
    left_out = {advisor_id: [vars(one) for one in skipped]}
    with writer.stage() as staged:
        for other, before in origin.items():
            if other == advisor_id:
                continue
            counts[other] = before.manifest.counts[other]
            left_out[other] = before.manifest.extra["skipped"].get(other, [])
            for name in (profile_file(other), references_file(other)):
                shutil.copyfile(before.file(name), staged / name)
        (staged / profile_file(advisor_id)).write_text(advisor.profile.to_json(), encoding="utf-8")
        lines = "".join(f"{reference_to_json(reference)}\n" for reference in advisor.references)
        (staged / references_file(advisor_id)).write_text(lines, encoding="utf-8")
        return writer.publish(
            staged, space_id=scorer.id, counts=counts, extra={"scorer": scorer.id, "skipped": left_out}
        )


def sentences(outcome: Outcome, *, brief: bool = False) -> list[str]:
    """Returns what a run did, for people; `brief` leaves it to the caller to name the files that were skipped."""
    profile = outcome.advisor.profile
    return [
        f"{profile.advisor}: {profile.count} references scored, {outcome.computed} of them new, by {profile.scorer}; "
        f"release {outcome.release.id[:12]}.",
        *outcome.mended,
        *remarks(() if brief else outcome.skipped, outcome.left_behind, "scorer"),
    ]
