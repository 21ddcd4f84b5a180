"""Load a record in this process; :mod:`medssl.readers._sandbox` calls it in another one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from medssl.core.errors import ReadError
from medssl.core.registry import READERS
from medssl.readers._base import Found, Reader


@cache
def reader(name: str) -> Reader:
    """The reader module of this name."""
    return cast(Reader, READERS.module(name)[0])


def load_here(found: Found, frames: Sequence[int] | None) -> npt.NDArray[Any]:
    """The voxels of a record, checked against its header.

    Raises:
        ReadError: see :func:`medssl.readers._dispatch.load`.
    """
    try:
        array = reader(found.format).load(found, frames)
    except OSError as error:
        what = f"the file cannot be opened ({error.strerror or type(error).__name__})"
        raise ReadError("unreadable", what, where=found.files[0]) from None
    wanted = expected_shape(found, frames)
    if array.shape != wanted:
        what = f"the file holds shape {array.shape}, its header said {wanted}"
        raise ReadError("changed", what, where=found.files[0], fix="index the archive again")
    if array.dtype != np.dtype(found.dtype):
        what = f"the file holds {array.dtype}, its header said {found.dtype}"
        raise ReadError("changed", what, where=found.files[0], fix="index the archive again")
    return array


def expected_shape(found: Found, frames: Sequence[int] | None) -> tuple[int, ...]:
    """Shape of what :func:`load_here` returns."""
    if frames is None:
        return found.shape
    return (found.shape[0], len(frames), *found.shape[2:])
