"""What is wrong with a file that cannot be decoded: it is of another kind, damaged, or cut off."""

from __future__ import annotations

from typing import Final

from PIL import Image, TiffImagePlugin

from services.core.errors import InvalidImage

ACCEPTED: Final = "a JPEG, PNG, WebP, TIFF, GIF or BMP file"
# What people send by mistake, by its first bytes: (offset, signature, name).
FOREIGN: Final = (
    (4, b"ftypavif", "an AVIF file"),
    (4, b"ftyphei", "a HEIC file"),
    (4, b"ftyphev", "a HEIC file"),
    (4, b"ftypmif1", "a HEIC file"),
    (4, b"ftypmsf1", "a HEIC file"),
    (4, b"ftyp", "a film"),
    (0, b"%PDF", "a PDF document"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"\xff\x0a", "a JPEG XL file"),
    (4, b"JXL ", "a JPEG XL file"),
    (4, b"jP  ", "a JPEG 2000 file"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"<", "a text document (HTML, XML or SVG)"),
)
SIGNATURES: Final = (b"\xff\xd8", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF")


def unopened(content: bytes) -> InvalidImage:
    """Returns the error for a file whose header cannot be read."""
    if content.startswith(SIGNATURES):
        if _ends_early(content):
            return _truncated()
        return InvalidImage(
            "The photograph's header is damaged, so it cannot be decoded; export it again from its source.",
            reason="IMAGE_UNDECODABLE",
        )
    start = content[:64].lstrip() if content[:1].isspace() else content[:64]
    for offset, signature, name in FOREIGN:
        if start[offset:].startswith(signature):
            return InvalidImage(f"This is {name}, not {ACCEPTED}; export the photograph as a JPEG.")
    return InvalidImage(f"This is not a photograph that can be read; send {ACCEPTED}.")


def damaged(content: bytes, image: Image.Image, error: Exception) -> InvalidImage:
    """Returns the error for a file that could be opened and not decoded."""
    if "truncated" in str(error).lower() or _ends_early(content) or _strips_missing(content, image):
        return _truncated()
    return InvalidImage(
        f"The photograph is a damaged {image.format or 'image'} file and cannot be decoded; export it again from"
        " its source.",
        reason="IMAGE_UNDECODABLE",
    )


def _truncated() -> InvalidImage:
    return InvalidImage(
        "The photograph is cut off: the file ends before the picture does; copy or upload it again.",
        reason="IMAGE_TRUNCATED",
    )


def _ends_early(content: bytes) -> bool:
    """Returns whether a file that could not be decoded lacks its end, by the format's own marks."""
    tail = content[-4096:]
    if content.startswith(b"\xff\xd8"):
        return b"\xff\xd9" not in tail
    if content.startswith(b"\x89PNG"):
        return b"IEND" not in tail
    if content.startswith(b"GIF8"):
        return not tail.rstrip(b"\0").endswith(b";")
    if content.startswith(b"RIFF"):
        return int.from_bytes(content[4:8], "little") + 8 > len(content)
    if content.startswith(b"BM"):
        return len(content) < 26 or int.from_bytes(content[2:6], "little") > len(content)
    if content.startswith((b"II*\0", b"MM\0*")):
        little = content.startswith(b"II")
        return int.from_bytes(content[4:8], "little" if little else "big") + 2 > len(content)
    return False


def _strips_missing(content: bytes, image: Image.Image) -> bool:
    """Returns whether a TIFF file names strips or tiles beyond its end."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return False
    for offsets_tag, lengths_tag in ((273, 279), (324, 325)):
        offsets, lengths = image.tag_v2.get(offsets_tag, ()), image.tag_v2.get(lengths_tag, ())
        if any(offset + length > len(content) for offset, length in zip(offsets, lengths, strict=False)):
            return True
    return False
