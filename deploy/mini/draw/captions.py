"""One English sentence for a scene, made of what was drawn."""

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

_PLACE = {"left": "on the left", "centre": "in the centre", "right": "on the right"}
_WEATHER = {"clear": "clear air", "cloudy": "clouds", "hazy": "haze"}
_HORIZON = {"high": "a high horizon", "middle": "the horizon in the middle", "low": "a low horizon"}


def caption(attributes: dict[str, str], details: dict[str, str]) -> str:
    """Describes a scene by its attributes and further details (number, hue, season), in one sentence."""
    kind, subject = attributes["kind"], attributes["subject"]
    place = _PLACE[attributes["subject_side"]]
    if attributes["palette"] == "monochrome" and "hue" in details:
        details = {**details, "hue": "dark"}
    heads = {
        "mountains": f"{details.get('ridges', '')} mountain ridges with a {subject} {place}",
        "lake": f"a {details.get('water', '')} lake before {details.get('ridges', '')} ridges, a {subject} {place}",
        "dunes": f"{details.get('dunes', '')} sand dunes with the highest crest {place}",
        "tree": f"a lone {details.get('season', '')} tree {place} on a plain",
        "hills": f"{details.get('hills', '')} {details.get('cut', '')} desert hills, the highest {place}",
        "forest": f"a {details.get('bark', '')} trunk {place} in a {details.get('season', '')} forest",
        "waterfall": f"a {details.get('width', '')} waterfall {place} over a cliff into a pool",
        "rocks": f"a boulder {place} on {details.get('ground', '')}, {details.get('rocks', '')} in all",
        "clouds": f"a {subject} {place} above a floor of small clouds"
        if details.get("floor")
        else f"a great cloud {place} over low hills",
        "adobe": f"an adobe house with a {details.get('hue', '')} doorway {place}, {details.get('beams', '')} beams",
        "skull": f"the skull of a cow {place}",
        "shell": f"a shell with {details.get('hue', '')} stripes {place}",
        "flower": f"a {details.get('hue', '')} flower of {details.get('petals', '')} petals {place}, close up",
    }
    parts = [heads[kind]]
    if details.get("snow"):
        parts.append("snow on the summits")
    if details.get("shore"):
        parts.append(f"{details['shore']} on the shore")
    if attributes["horizon"] != "none":
        parts.append(f"{attributes['time']}, {_WEATHER[attributes['weather']]}, {_HORIZON[attributes['horizon']]}")
    if attributes["light_side"] != "soft":
        parts.append(f"light from the {attributes['light_side']}")
    parts.append("black and white" if attributes["palette"] == "monochrome" else "in colour")
    return ", ".join(parts) + "."
