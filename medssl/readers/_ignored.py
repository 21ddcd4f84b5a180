"""Names for files that are not imaging. A name is never taken from the file: it could identify."""

from __future__ import annotations

from pathlib import Path

from medssl.readers._inflate import gunzipped

_MAGIC = (
    (b"%PDF", "pdf"),
    (b"PK\x03\x04", "zip"),
    (b"\x1f\x8b", "gzip"),
    (b"\x93NUMPY", "numpy"),
    (b"PAR1", "parquet"),
)
_ARCHIVES = (b"PK\x03\x04", b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"7z\xbc\xaf\x27\x1c", b"Rar!")
_DICM_AT = 128
_SUFFIX = {
    **dict.fromkeys((".txt", ".md", ".log", ".rst"), "text"),
    **dict.fromkeys((".csv", ".tsv", ".xlsx", ".xls"), "table"),
    **dict.fromkeys((".json", ".yaml", ".yml", ".xml"), "structured_text"),
}


def ignored_kind(path: Path, head: bytes) -> str:
    """Kind of a file that no reader claims, from a fixed list of names."""
    if not head:
        return "empty"
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if head[4:8] == b"ftyp":  # HEIF or AVIF: the video reader claims all others
        return "picture"
    suffix = path.suffix.lower()
    if suffix in _SUFFIX:
        return _SUFFIX[suffix]
    return "text" if _looks_like_text(head) else "binary"


def is_hidden_archive(path: Path, head: bytes) -> bool:
    """Whether an archive lies under a name that does not say so, or a DICOM file is packed alone.

    Documents, tables and weights that are zip or gzip files inside have a suffix.
    """
    if path.suffix and not path.suffix[1:].isdigit():
        return gunzipped(head, _DICM_AT + 4)[_DICM_AT:].startswith(b"DICM")
    return head.startswith(_ARCHIVES) or head[257:262] == b"ustar"


def _looks_like_text(head: bytes) -> bool:
    return b"\x00" not in head and sum(b < 9 for b in head[:512]) == 0
