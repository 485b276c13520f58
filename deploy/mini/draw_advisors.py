"""Draw the two sample advisors: reference photographs, metadata.yaml and advisor.yaml.

python -m deploy.mini.draw_advisors [--out deploy/mini/advisors]
"""

import argparse
import io
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from deploy.mini.draw import scene

OUT = Path(__file__).parent / "advisors"
YEAR = 2026
SIZES = {"wide": (480, 720), "broad": (512, 680), "tall": (680, 512)}
QUALITY = 88
MOST_BYTES = 72_000
"""A reference is compressed a little more until it is no larger than this."""

MASTERS = {"ansel": "Ansel Adams", "okeefe": "Georgia O'Keeffe"}
"""The artists in whose manner the sample advisors are drawn; none of the pictures is by them."""

_NOTICE = (
    "Sample image in the manner of {name}, drawn by a script of this project in 2026. "
    "It is not a work by {name}, nor a copy of one."
)


@dataclass(frozen=True)
class Drawing:
    """One reference: the seed and kind of its scene, its title, shape and imaginary place."""

    kind: str
    seed: int
    title: str
    place: str
    shape: str = "wide"


_ANSEL = (
    Drawing("mountains", 3000, "Last Light above the Spruce Line", "an imaginary range"),
    Drawing("mountains", 3014, "Clear Morning, High Peak", "an imaginary range", "broad"),
    Drawing("mountains", 3012, "Clouds Parting over the Pass", "an imaginary pass"),
    Drawing("mountains", 3007, "The Lone Summit", "an imaginary range", "broad"),
    Drawing("mountains", 3002, "Ridges and Rising Cloud", "an imaginary valley"),
    Drawing("lake", 3003, "Mirror under the White Range", "an imaginary lake"),
    Drawing("lake", 3010, "Great Peak, Still Water", "an imaginary lake", "broad"),
    Drawing("lake", 3011, "Snow Wall and Its Double", "an imaginary lake"),
    Drawing("lake", 3000, "Moonset over the Long Shore", "an imaginary lake", "broad"),
    Drawing("lake", 3015, "Crescent and Broken Cloud", "an imaginary lake"),
    Drawing("dunes", 3005, "Dunes, Edge of the Shadow", "an imaginary desert"),
    Drawing("dunes", 3009, "Crest Line", "an imaginary desert", "broad"),
    Drawing("dunes", 3004, "Wind and Sand under Cloud", "an imaginary desert"),
    Drawing("forest", 3002, "Aspens against Dark Woods", "an imaginary grove", "tall"),
    Drawing("forest", 3009, "White Trunk on the Right", "an imaginary grove", "broad"),
    Drawing("forest", 3015, "Grove, Soft Light", "an imaginary grove"),
    Drawing("tree", 3004, "The Oak and the Weather", "an imaginary plain", "broad"),
    Drawing("tree", 3008, "Bare Tree, Waiting", "an imaginary plain"),
    Drawing("tree", 3015, "Meadow Tree before a Storm", "an imaginary meadow"),
    Drawing("waterfall", 3001, "The Broad Fall", "an imaginary canyon", "tall"),
    Drawing("waterfall", 3012, "Falling Water, Low Cloud", "an imaginary canyon", "broad"),
    Drawing("waterfall", 3014, "Mist at the Foot of the Wall", "an imaginary canyon", "tall"),
    Drawing("rocks", 3006, "Stone and Stars", "an imaginary plateau"),
    Drawing("rocks", 3011, "Boulders, Side Light", "an imaginary plateau", "broad"),
    Drawing("clouds", 3008, "Thunderhead", "an imaginary plain", "broad"),
    Drawing("clouds", 3003, "Cumulus over Low Hills", "an imaginary plain"),
    Drawing("clouds", 3013, "Above the Weather", "an imaginary sky", "broad"),
)
_OKEEFE = (
    Drawing("flower", 3000, "Red Flower, Golden Heart", "an imaginary garden", "broad"),
    Drawing("flower", 3002, "Dark Mallow", "an imaginary garden", "tall"),
    Drawing("flower", 3004, "Yellow, Wide Open", "an imaginary garden", "broad"),
    Drawing("flower", 3006, "Crimson on Blue", "an imaginary garden", "tall"),
    Drawing("flower", 3007, "Magenta Flower from Within", "an imaginary garden"),
    Drawing("flower", 3011, "Pale Petals, Dark Ground", "an imaginary garden", "broad"),
    Drawing("flower", 3013, "White Flower on Green", "an imaginary garden"),
    Drawing("flower", 3015, "Violet on Orange", "an imaginary garden", "broad"),
    Drawing("hills", 3002, "Three Red Hills", "an imaginary desert"),
    Drawing("hills", 3003, "Striped Hills at Noon", "an imaginary desert", "broad"),
    Drawing("hills", 3008, "Blue Mountain beyond the Ochre", "an imaginary desert"),
    Drawing("hills", 3015, "Rose and Rust", "an imaginary desert", "broad"),
    Drawing("hills", 3007, "Evening Fire on the Ridge", "an imaginary desert"),
    Drawing("skull", 3001, "Skull on Yellow", "an imaginary studio", "broad"),
    Drawing("skull", 3002, "Skull before Red Hills", "an imaginary desert", "broad"),
    Drawing("skull", 3011, "Skull on Mauve", "an imaginary studio"),
    Drawing("skull", 3012, "Skull on Pale Blue", "an imaginary studio", "broad"),
    Drawing("adobe", 3006, "Blue Door at Night", "an imaginary pueblo"),
    Drawing("adobe", 3007, "Red Door, Evening", "an imaginary pueblo", "broad"),
    Drawing("adobe", 3011, "Green Door, Rose Sky", "an imaginary pueblo"),
    Drawing("adobe", 3004, "Black Door and Cloud", "an imaginary pueblo", "broad"),
    Drawing("shell", 3000, "Shell on Red", "an imaginary studio", "broad"),
    Drawing("shell", 3004, "Shell before Far Hills", "an imaginary desert"),
    Drawing("shell", 3006, "Shell on Umber", "an imaginary studio", "broad"),
    Drawing("clouds", 3004, "Floor of Clouds, Noon", "an imaginary sky", "broad"),
    Drawing("clouds", 3009, "Floor of Clouds, Dawn", "an imaginary sky"),
    Drawing("clouds", 3008, "White Cloud, Deep Blue", "an imaginary plain", "broad"),
)

_LESSONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "mountains": (
        "Each ridge is paler than the one before it: distance is told by tone alone.",
        ("depth_perspective", "lighting", "composition"),
    ),
    "lake": (
        "The mirror image weighs as much as the range above it, and the shore divides them calmly.",
        ("visual_balance", "composition", "emotional_impact"),
    ),
    "dunes": (
        "One sharp line between light and shadow leads the eye through the frame.",
        ("lighting", "composition", "depth_perspective"),
    ),
    "forest": (
        "A bright trunk stands sharp before woods that are out of focus.",
        ("focus_sharpness", "subject_isolation", "depth_perspective"),
    ),
    "tree": (
        "A single dark shape against an open sky needs nothing else.",
        ("subject_isolation", "emotional_impact", "visual_balance"),
    ),
    "waterfall": (
        "White water against dark rock: the full range of tones, from black to white, in one picture.",
        ("lighting", "focus_sharpness", "emotional_impact"),
    ),
    "rocks": (
        "Side light makes every grain of the stone readable.",
        ("focus_sharpness", "lighting", "visual_balance"),
    ),
    "clouds": (
        "A low or a high horizon gives the whole frame to the sky.",
        ("emotional_impact", "composition", "visual_balance"),
    ),
    "flower": (
        "Magnified until it fills the frame, a small thing becomes large and cannot be overlooked.",
        ("subject_isolation", "color_harmony", "focus_sharpness"),
    ),
    "hills": (
        "Neighbouring warm colours, laid in a few broad bands, hold the picture together.",
        ("color_harmony", "composition", "depth_perspective"),
    ),
    "skull": (
        "A symmetrical form, clear against a plain ground, reads at the first glance.",
        ("subject_isolation", "visual_balance", "emotional_impact"),
    ),
    "adobe": (
        "A few flat planes and one strong accent of colour make the composition.",
        ("composition", "color_harmony", "visual_balance"),
    ),
    "shell": (
        "A spiral turns the eye inwards; soft light rounds the form.",
        ("subject_isolation", "lighting", "composition"),
    ),
}
_MONOCHROME_LESSON = {"color_harmony": "lighting"}

ADVISORS: dict[str, tuple[dict[str, Any], tuple[Drawing, ...]]] = {
    "ansel": (
        {
            "id": "ansel",
            "name": "Ansel (sample)",
            "bio": (
                "American photographer of the western landscape, who worked in black and white, planned every tone "
                "before the exposure and taught the zone system. This folder is a sample advisor: its reference "
                "photographs are drawn by a script in his manner. None is a work by Ansel Adams."
            ),
            "years": "1902-1984",
            "focus_areas": ["tonal range from black to white", "depth through layers", "sharpness everywhere", "light"],
            "voice": "Exacting and encouraging; speaks of zones, of light, of seeing the print before the exposure.",
            "link": "https://en.wikipedia.org/wiki/Ansel_Adams",
        },
        _ANSEL,
    ),
    "okeefe": (
        {
            "id": "okeefe",
            "name": "O'Keeffe (sample)",
            "bio": (
                "American painter of magnified flowers, bones and the hills of New Mexico, in large simple forms and "
                "clear colour. This folder is a sample advisor: its reference photographs are drawn by a script in "
                "her manner. None is a work by Georgia O'Keeffe."
            ),
            "years": "1887-1986",
            "focus_areas": ["large simple forms", "clear colour", "isolation of the subject", "negative space"],
            "voice": "Spare and direct; speaks of shape, of colour, and of taking the time to look.",
            "link": "https://en.wikipedia.org/wiki/Georgia_O%27Keeffe",
        },
        _OKEEFE,
    ),
}


def file_name(number: int, drawing: Drawing) -> str:
    """Names the file of a drawing: its number and title, in lower case with hyphens, ".jpg"."""
    words = "".join(letter if letter.isalnum() else " " for letter in drawing.title.lower()).split()
    return f"{number:02d}-{'-'.join(words)}.jpg"


def encode(pixels: np.ndarray) -> bytes:
    """Encodes sRGB pixels as JPEG, quality 88 or as much less as `MOST_BYTES` asks for."""
    for quality in range(QUALITY, 50, -4):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, optimize=True, progressive=True)
        if buffer.tell() <= MOST_BYTES:
            break
    return buffer.getvalue()


def draw_advisor(advisor: str, folder: Path) -> int:
    """Draws one sample advisor's folder anew; returns the number of references."""
    about, drawings = ADVISORS[advisor]
    references = folder / "references"
    if references.exists():
        shutil.rmtree(references)
    references.mkdir(parents=True)
    entries: dict[str, Any] = {}
    for number, drawing in enumerate(drawings, start=1):
        height, width = SIZES[drawing.shape]
        drawn = scene(drawing.seed, height, width, advisor, drawing.kind)
        name = file_name(number, drawing)
        (references / name).write_bytes(encode(drawn.pixels))
        lesson, dimensions = _LESSONS[drawing.kind]
        if advisor == "ansel":
            dimensions = tuple(dict.fromkeys(_MONOCHROME_LESSON.get(word, word) for word in dimensions))
        entries[name] = {
            "title": drawing.title,
            "year": YEAR,
            "location": f"drawn: {drawing.place}",
            "description": f"{drawn.caption[0].upper()}{drawn.caption[1:]} {_NOTICE.format(name=MASTERS[advisor])}",
            "significance": lesson,
            "tags": sorted({"sample", drawing.kind, drawn.attributes["subject"], drawn.attributes["time"]}),
            "best_for": list(dimensions),
        }
    for title, content in (("advisor.yaml", about), ("metadata.yaml", entries)):
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)
        (folder / title).write_text(text, encoding="utf-8")
    return len(entries)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draws all sample advisors."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the advisors")
    chosen = parser.parse_args(arguments)
    for advisor in ADVISORS:
        count = draw_advisor(advisor, chosen.out / advisor)
        print(f"{advisor}: {count} references in {chosen.out / advisor}")


if __name__ == "__main__":
    main()
