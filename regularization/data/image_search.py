"""Searches folders for image files, and records which files are left out and why."""

import os
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from PIL import Image

# Raster formats only: for EPS, for example, Pillow would run Ghostscript.
FORMATS = {"AVIF", "BMP", "DIB", "GIF", "HEIF", "ICO", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "TGA", "TIFF"}
FORMATS |= {"WEBP"}
# Suffixes that Pillow reads only with another package, or with a build that has the library; and how to install it.
_INSTALL_HINTS = {
    **dict.fromkeys((".heic", ".heics", ".heif", ".heifs", ".hif"), "pip install 'regularization[heif]' to read them"),
    **dict.fromkeys((".avif", ".avifs"), "pip install --upgrade pillow to read them"),
}
# Folders that systems create: they contain thumbnails, copies and deleted files.
SYSTEM_FOLDERS = {"@eadir", "__macosx", "$recycle.bin", "#recycle", "@recycle", "lost+found"}
_THUMBNAIL_FOLDERS = {"thumb", "thumbs", "thumbnail", "thumbnails", "ipod photo cache"}
MAX_KINDS_SHOWN = 12


@dataclass(frozen=True)
class LeftOut:
    """A file or folder that the search leaves out.

    Attributes:
        path: Where it is.
        kind: The category that it is counted in: its suffix with ``files``, ``files without suffix`` or ``folders``.
        reason: Why it is left out.
    """

    path: Path
    kind: str
    reason: str


@dataclass
class SearchResult:
    """What a folder and its subfolders contain: image files, and what is left out."""

    paths: list[Path] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)


def search(folder: Path) -> SearchResult:
    """The files in ``folder`` and its subfolders that have the suffix of an image format, sorted; no hidden ones."""
    result = SearchResult()
    pending = [folder]
    while pending:
        current = pending.pop()
        try:
            entries = list(os.scandir(current))
        except OSError as error:
            result.left_out.append(LeftOut(current, "folders", error.strerror or "cannot be read"))
            continue
        for entry in entries:
            path, kind = current / entry.name, _kind(entry)
            if reason := _reason(entry):
                result.left_out.append(LeftOut(path, kind, reason))
            elif kind == "folders":
                pending.append(path)
            elif not entry.name.startswith("."):
                result.paths.append(path)
    result.paths.sort()
    result.left_out.sort(key=lambda left_out: left_out.path)
    return result


def summarize(left_out: Iterable[LeftOut]) -> str:
    """Summarizes in one line how many files of each suffix are left out and why; empty if there are none."""
    counts = Counter((item.kind, item.reason) for item in left_out).most_common()
    parts = [f"{count:,} {_inflect(kind, count)} ({reason})" for (kind, reason), count in counts[:MAX_KINDS_SHOWN]]
    if rest := sum(count for _, count in counts[MAX_KINDS_SHOWN:]):
        parts.append(f"{rest:,} of other kinds")
    return f"left out: {', '.join(parts)}" if parts else ""


def unreadable(suffix: str) -> str:
    """The reason why files with ``suffix``, in lower case with its dot, are not read; empty if they are read."""
    return "" if suffix in suffixes() else _INSTALL_HINTS.get(suffix, "not a supported image format")


@cache
def formats() -> list[str]:
    """The formats in FORMATS that the installed packages can read."""
    # pillow-heif adds HEIF, the image format of iPhones.
    with suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    Image.init()
    return sorted(FORMATS & Image.OPEN.keys())


@cache
def suffixes() -> set[str]:
    """The suffixes of ``formats``, with their dots."""
    readable = {*formats(), "MPO"}  # Pillow reads MPO as a kind of JPEG
    return {suffix for suffix, name in Image.registered_extensions().items() if name in readable}


def _kind(entry: os.DirEntry[str]) -> str:
    if entry.is_dir():
        return "folders"
    suffix = Path(entry.name).suffix.lower()
    return f"{suffix} files" if suffix else "files without suffix"


def _reason(entry: os.DirEntry[str]) -> str:
    """The reason why an entry is left out; empty if it is kept, and for hidden files that are not images."""
    suffix = Path(entry.name).suffix.lower()
    hidden = "hidden" if entry.name.startswith(".") else ""
    if entry.is_dir():
        if entry.name.lower() in SYSTEM_FOLDERS | _THUMBNAIL_FOLDERS:
            return "thumbnails or system files"
        return hidden or ("links to folders are not followed" if entry.is_symlink() else "")
    if hidden:
        return hidden if suffix in suffixes() else ""
    if not entry.is_file():
        return "broken links" if entry.is_symlink() else "not regular files"
    return unreadable(suffix)


def _inflect(kind: str, count: int) -> str:
    """``kind``, in the singular if ``count`` is 1."""
    return kind.replace("files", "file").replace("folders", "folder") if count == 1 else kind
