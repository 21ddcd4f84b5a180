"""Kinds of files that are no imaging, or none that is read."""

import pytest

from medssl.core.registry import READERS
from medssl.readers import _ignored
from medssl.readers._containers import container_kind
from medssl.readers._dispatch import read_header
from medssl.readers._load import reader


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("photo.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "picture"),
        ("report", b"%PDF-1.7\n", "pdf"),
        ("letter.docx", b"PK\x03\x04" + bytes(40), "zip"),
        ("notes", b"seen on Monday", "text"),
        ("x.csv", b"a,b\n1,2\n", "table"),
        ("weights.pt2", bytes(range(64)), "binary"),
        ("none", b"", "empty"),
    ],
)
def test_what_is_no_scan_is_named_by_kind(tmp_path, name, content, kind):
    (tmp_path / name).write_bytes(content)
    assert read_header(tmp_path / name).ignored == kind


def test_no_kind_is_named_for_files_that_a_reader_or_an_archive_takes(tmp_path):
    for suffix in _ignored._SUFFIX:
        path = tmp_path / f"x{suffix}"
        assert not container_kind(path.name)
        assert not any(reader(name).matches(path, b"text") for name in READERS.names())
