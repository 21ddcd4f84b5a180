"""The bytes of a video: a file, a member of an archive, or the fragments inside a DICOM file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medssl.core.errors import ReadError
from medssl.readers._source import local_file, open_source, size_of
from medssl.readers._video_container import container_of, is_cut_short
from medssl.readers._video_decode import Source
from medssl.readers._video_dicom import open_encapsulated

HEAD_BYTES = 4096


@contextmanager
def video_source(path: Path) -> Iterator[tuple[Source, str, bool]]:
    """What a video library can open, FFmpeg's name of the container, and whether it is cut short.

    Raises:
        ReadError: ``not_video``; for DICOM see :func:`open_encapsulated`.
    """
    with open_source(path) as file:
        head = file.read(HEAD_BYTES)
        container = container_of(head)
        if container:
            cut = is_cut_short(file, container, size_of(path))
    if container:
        with local_file(path) as local:
            yield str(local), container, cut
        return
    if head[128:132] != b"DICM":
        raise ReadError("not_video", "the content is no video", where=str(path))
    with open_encapsulated(path) as (inside, container):
        yield inside, container, False
