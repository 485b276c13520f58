"""Score the mini critic: `python -m deploy.mini.evaluate_vlm [--photos FOLDER] [--json]`.

Each critique is read back into the facts that it states, and each fact is compared with what is
measured of the picture. Beside every figure stands its control: the same critiques scored against
another picture of the set. Pictures: drawn with seeds that training never uses, as drawn and graded;
the sample advisors' references; and, where asked, the photographs of a folder.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from deploy.mini import critiques, facts, forms, graded, lessons
from services.core.errors import InvalidImage
from services.core.images.reading import decode
from services.core.models import torchvision_shim
from services.critic.prompts import Form

torchvision_shim.install()

from peft import PeftModel  # noqa: E402 - transformers must come after the shim
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer  # noqa: E402

log = logging.getLogger(__name__)

HERE: Final = Path(__file__).parent
BASE: Final = HERE / "models" / "vlm"
ADAPTERS: Final = HERE / "adapters"
SUFFIXES: Final = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff"}
FLOOR: Final = 0.90
ROWS: Final = 40


class Critic:
    """The mini model with its adapters, loaded by the calls that load the real ones."""

    def __init__(self, base: Path = BASE, adapters: Path | None = ADAPTERS, dtype: torch.dtype = torch.float32) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(base)
        self.processor = AutoImageProcessor.from_pretrained(base, backend="pil")
        model = AutoModelForImageTextToText.from_pretrained(base, dtype=dtype)
        self.voices: list[str] = []
        self.model: Any = model.eval()
        for folder in sorted(adapters.glob("*/adapter_config.json") if adapters else ()):
            name = folder.parent.name
            if not self.voices:
                self.model = PeftModel.from_pretrained(
                    model, folder.parent, adapter_name=name, autocast_adapter_dtype=False
                ).eval()
            else:
                self.model.load_adapter(folder.parent, adapter_name=name, autocast_adapter_dtype=False)
            self.voices.append(name)

    def write(
        self,
        pictures: Sequence[NDArray[np.uint8]],
        voice: str | None,
        sample: bool = False,
        form: Form = Form.PROSE,
    ) -> list[str]:
        """Returns the critique of each picture, uint8 [height, width, 3] of any size, by the base or in a voice."""
        inputs = [self.processor(images=Image.fromarray(picture), return_tensors="pt") for picture in pictures]
        by_grid: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, each in enumerate(inputs):
            by_grid[tuple(each["image_grid_thw"][0].tolist())].append(index)
        written = [""] * len(pictures)
        model = self.model
        if self.voices:
            model = self.model.get_base_model()
            self.model.set_adapter(voice or self.voices[0])
        for same in by_grid.values():
            for start in range(0, len(same), ROWS):
                rows = same[start : start + ROWS]
                pixel_values = torch.cat([inputs[row]["pixel_values"] for row in rows])
                grid = torch.cat([inputs[row]["image_grid_thw"] for row in rows])
                with torch.no_grad():
                    if voice is None and self.voices:
                        with self.model.disable_adapter():
                            texts = lessons.write(model, self.tokenizer, pixel_values, grid, sample=sample, form=form)
                    else:
                        texts = lessons.write(model, self.tokenizer, pixel_values, grid, sample=sample, form=form)
                for row, text in zip(rows, texts, strict=True):
                    written[row] = text
        return written


def score(texts: Sequence[str], readings: Sequence[facts.Reading], voice: str | None = None) -> dict[str, Any]:
    """Returns the figures of a set: critiques and what was measured of their pictures, in the same order.

    facts: fact -> {accuracy, control, near_border, stated (count)}; advice and voice_clause: {fits,
    control, count}; voice: share of the critiques with a word of that voice (of any voice for None);
    garbled: share of the sentences that nobody wrote. A share of nothing is None.
    """
    others = [readings[(index + len(readings) // 2) % len(readings)] for index in range(len(readings))]
    stated: dict[str, list[tuple[bool, bool, bool]]] = defaultdict(list)
    advice: list[tuple[bool, bool]] = []
    clauses: list[tuple[bool, bool]] = []
    garbled: list[bool] = []
    for text, reading, other in zip(texts, readings, others, strict=True):
        back = critiques.read_back(text)
        garbled += [False] * len(back.sentences) + [True] * len(back.garbled)
        for sentence in back.sentences:
            for fact, claimed in sentence.states.items():
                near = fact in reading.unsure
                stated[fact].append((reading.facts[fact] == claimed, other.facts[fact] == claimed, near))
            holds = (sentence.holds(reading.facts), sentence.holds(other.facts))
            if sentence.part == "try":
                advice.append(holds)
            if voice is not None and sentence.voice == voice:
                clauses.append(holds)
        if voice is not None:
            clauses += [(False, False) for lost in back.garbled if critiques.speaks_in(lost, voice)]
    listened = [voice] if voice else list(critiques.VOICES)
    heard = [any(critiques.speaks_in(text, each) for each in listened) for text in texts]
    return {
        "critiques": len(texts),
        "facts": {
            fact: {
                "accuracy": _share(right for right, _, _ in stated[fact]),
                "control": _share(wrong for _, wrong, _ in stated[fact]),
                "near_border": _share(right for right, _, near in stated[fact] if near),
                "stated": len(stated[fact]),
            }
            for fact in facts.FACTS
        },
        "advice": {"fits": _share(a for a, _ in advice), "control": _share(b for _, b in advice), "count": len(advice)},
        "voice": _share(heard),
        "voice_clause": {
            "fits": _share(a for a, _ in clauses), "control": _share(b for _, b in clauses), "count": len(clauses),
        },
        "garbled": _share(garbled),
    }  # fmt: skip


def _share(hits: Iterable[bool]) -> float | None:
    counted = list(hits)
    return round(sum(counted) / len(counted), 4) if counted else None


def photographs(folder: Path, limit: int | None = None) -> list[NDArray[np.uint8]]:
    """Returns the photographs under a folder, in the order of their names, decoded at 256 pixels or a little more.

    A file that cannot be decoded is named in the log and left out. Raises FileNotFoundError where there is none.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    step = max(1, len(paths) // limit) if limit else 1
    pictures = []
    for path in paths[::step][:limit]:
        try:
            pictures.append(np.asarray(decode(path.read_bytes(), short_side=256)))
        except InvalidImage as reason:
            log.warning("left out %s: %s", path.name, reason)
    if not pictures:
        raise FileNotFoundError(f"No photograph in {folder}: name a folder with {', '.join(sorted(SUFFIXES))} files.")
    return pictures


def evaluate(critic: Critic, sets: Mapping[str, Sequence[NDArray[np.uint8]]]) -> dict[str, Any]:
    """Returns set -> writer -> figures (`score`): the base greedily and sampled, and each adapter greedily.

    The base and the adapters also under headings and as JSON, which is written freely, without the grammar.
    """
    figures: dict[str, Any] = {}
    for name, pictures in sets.items():
        readings = [facts.read(picture) for picture in pictures]
        figures[name] = {
            "base": score(critic.write(pictures, None), readings),
            "base, sampled": score(critic.write(pictures, None, sample=True), readings),
        }
        for voice in critic.voices:
            figures[name][voice] = score(critic.write(pictures, voice), readings, voice)
        for form in (Form.SECTIONS, Form.JSON):
            for writer in (None, *critic.voices):
                texts = [forms.as_prose(text, form) for text in critic.write(pictures, writer, form=form)]
                figures[name][f"{writer or 'base'}, {form.value}"] = score(texts, readings, writer)
    return figures


def table(figures: Mapping[str, Any]) -> str:
    """Returns the figures as text for a person: one block a set, one line a fact, floors marked where missed."""
    lines = []
    for name, writers in figures.items():
        count = next(iter(writers.values()))["critiques"]
        lines += ["", f"{name} ({count} pictures): accuracy of stated facts / control / near the border"]
        for fact in facts.FACTS:
            cells = [f"{writer}: {_cells(scores['facts'][fact])}" for writer, scores in writers.items()]
            lines.append(f"  {fact:<11}" + "   ".join(cells))
        for writer, scores in writers.items():
            line = f"  {writer:<14} advice fits {_figure(scores['advice']['fits'])} (control"
            line += f" {_figure(scores['advice']['control'])}), voice in {_figure(scores['voice'])} of critiques"
            if scores["voice_clause"]["count"]:
                clause = scores["voice_clause"]
                line += f", its clauses fit {_figure(clause['fits'])} (control {_figure(clause['control'])})"
            lines.append(line + f", garbled {_figure(scores['garbled'])}")
    return "\n".join(lines[1:])


def _cells(scores: Mapping[str, Any]) -> str:
    missed = "!" if scores["accuracy"] is not None and scores["accuracy"] < FLOOR else " "
    cells = [_figure(scores[key]) for key in ("accuracy", "control", "near_border")]
    return f"{cells[0]}{missed}/ {cells[1]} / {cells[2]}"


def _figure(value: float | None) -> str:
    return "  - " if value is None else f"{value:.2f}"


def main() -> None:
    """Parses the command line, evaluates, prints a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, default=BASE)
    parser.add_argument("--adapters", type=Path, default=ADAPTERS)
    parser.add_argument("--photos", type=Path, help="folder of photographs to report as well")
    parser.add_argument("--limit", type=int, help="only so many of these photographs, evenly over their names")
    parser.add_argument("--count", type=int, default=400, help="drawn pictures a set")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sets: dict[str, Sequence[NDArray[np.uint8]]] = {
        "drawn, graded": graded.held_out(arguments.count, graded_too=True),
        "drawn, as drawn": graded.held_out(arguments.count, graded_too=False, seed=graded.HELD_OUT_SEED + 500_000),
    }
    references = sorted((HERE / "advisors").glob("*/references"))
    if references:
        sets["sample references"] = [picture for folder in references for picture in photographs(folder)]
    if arguments.photos:
        sets["photographs"] = photographs(arguments.photos, arguments.limit)
    started = time.process_time()
    critic = Critic(arguments.base, arguments.adapters, getattr(torch, arguments.dtype))
    figures = evaluate(critic, sets)
    log.info("evaluated in %.0f CPU-s", time.process_time() - started)
    print(json.dumps(figures, indent=2) if arguments.json else table(figures))


if __name__ == "__main__":
    main()
