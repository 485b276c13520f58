"""One run of precompute: an advisor's folder becomes part of the current release."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from services.core.advisors import AdvisorFolder, ReferenceFile
from services.core.commands.precompute import Skipped, remarks
from services.core.commands.progress import Progress
from services.core.errors import ConfigurationError, InvalidImage
from services.core.images import reading
from services.core.images.reading import ImageLimits
from services.core.releases import Release, ReleaseStore, Remains, Writer, current_or_remains, replaced, writing
from services.scorer import photographs
from services.scorer.references import (
    AdvisorReferences,
    Library,
    Reference,
    load_advisor_references,
    profile_file,
    reference_to_json,
    references_file,
)
from services.scorer.scoring import Picture, Scorer, Scores
from services.scorer.work import Work

_CHUNK = 32


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


@dataclass
class _Findings:
    files: dict[str, ReferenceFile] = field(default_factory=dict)
    scores: dict[str, Scores] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    computed: int = 0


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
        origin, library = _known_before(before, remains, scorer)
        left_behind = tuple(sorted(set(before.manifest.counts) - {folder.id, *origin})) if before else ()
        work = Work(store.work, scorer.id)
        with report(f"Scoring {folder.id}", len(folder.photographs)) as shown:
            findings = _gather(folder, scorer, work, library, limits, shown)
        if not findings.scores:
            first = findings.skipped[0]
            raise ConfigurationError(
                f"None of the {len(folder.photographs)} photographs of {folder.id} can be used; the first: "
                f"{first.file_name}: {first.sentence}"
            )
        advisor = AdvisorReferences.of(
            folder.id,
            scorer.id,
            [
                Reference(one, file.about.title, file.about.file_name, file.about.best_for, findings.scores[one])
                for one, file in findings.files.items()
            ],
        )
        release = _publish(writer, scorer, advisor, findings.skipped, origin)
        mended = replaced(writer, remains, folder.id, origin) if remains else ()
        writer.collect(keep)
        work.forget(findings.scores)
    return Outcome(release, advisor, findings.computed, tuple(findings.skipped), left_behind, tuple(mended))


def _known_before(
    before: Release | None, remains: Remains | None, scorer: Scorer
) -> tuple[dict[str, Release], Library]:
    """Returns the release that each advisor before is taken from, those that this scorer measured and that can be read,
    and what they say.

    Of a damaged release an advisor is taken where both its files are sound, and else from an older one.
    """
    origin: dict[str, Release] = {}
    advisors: dict[str, AdvisorReferences] = {}
    for release in (before,) if before else remains.releases if remains else ():
        if release.manifest.space_id != scorer.id:
            continue
        for advisor in release.manifest.counts:
            with contextlib.suppress(ConfigurationError):
                if advisor not in origin:
                    advisors[advisor] = load_advisor_references(release, advisor)
                    origin[advisor] = release
    return origin, Library(None, "", advisors)


def _gather(
    folder: AdvisorFolder,
    scorer: Scorer,
    work: Work,
    library: Library,
    limits: ImageLimits,
    shown: Progress,
) -> _Findings:
    """Finds the scores of every usable photograph, measuring those that nobody has; progress tells what is kept."""
    findings = _Findings()
    for start in range(0, len(folder.photographs), _CHUNK):
        waiting: dict[str, Picture] = {}
        chunk = folder.photographs[start : start + _CHUNK]
        for file in chunk:
            try:
                identity, picture = _look(file, findings, work, library, limits)
            except InvalidImage as error:
                findings.skipped.append(Skipped(file.about.file_name, error.reason, str(error)))
            except OSError as error:
                sentence = f"it cannot be read ({error.strerror})."
                findings.skipped.append(Skipped(file.about.file_name, "FILE_UNREADABLE", sentence))
            else:
                if identity in findings.files:
                    sentence = f"it has the same bytes as {findings.files[identity].about.file_name}."
                    findings.skipped.append(Skipped(file.about.file_name, "DUPLICATE", sentence))
                    continue
                findings.files[identity] = file
                if picture is not None:
                    waiting[identity] = picture
        ids = list(waiting)
        for positions in photographs.batches(list(waiting.values()), 8):
            batch = [ids[position] for position in positions]
            scored = dict(zip(batch, scorer.score([waiting[one] for one in batch]), strict=True))
            work.put(scored)
            findings.scores.update(scored)
            findings.computed += len(scored)
        shown.advance(len(chunk))
    return findings


def _look(
    file: ReferenceFile, findings: _Findings, work: Work, library: Library, limits: ImageLimits
) -> tuple[str, Picture | None]:
    """Returns a file's id, and the picture that has to be measured; None where its scores are known."""
    content = reading.read_file(file.path, limits=limits)
    identity = reading.sha256(content)
    if identity in findings.files:
        return identity, None
    scores = work.get(identity) or library.scores_of(identity)
    if scores is not None:
        findings.scores[identity] = scores
        return identity, None
    return identity, photographs.picture(content, limits)


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
