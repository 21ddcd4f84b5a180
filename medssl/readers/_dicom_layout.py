"""The headers of one series lie alike: where the last one's elements lay is a good first guess.

The guess is checked element by element (tag, VR and length, all at once by numpy), so it is as
exact as walking the header.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# Values whose length differs from the last header; with more, walking is as fast.
_MAX_CHANGES = 8
# Walking fewer elements than this is faster than checking a guess.
_MIN_ELEMENTS = 48
_TAG_AND_VR = (1 << 48) - 1


class Layout:
    """Places of the explicit elements of one header, none of them of undefined length.

    Args:
        data: start of the file.
        elements: offset of each element before the pixels, by raw tag, in file order.
        end: where the pixels start.
        long: indices of elements with 4 bytes of length.
    """

    def __init__(self, data: bytes, elements: dict[int, int], end: int, long: list[int]) -> None:
        self._elements, self._end = elements, end
        self._start = next(iter(elements.values()))
        self._offsets = np.array([*elements.values(), end], dtype=np.int64)
        self._is_long = np.zeros(len(self._offsets), dtype=bool)
        # The pixels' own length is not looked at.
        self._is_long[[*long, -1]] = True
        self._long = np.array(long, dtype=np.int64)
        words = _words(data)
        self._heads = words[self._offsets]
        self._long_lengths = words[self._offsets[self._long] + 8].astype(np.uint32)

    def places(self, data: bytes, start: int) -> tuple[dict[int, int], int] | None:
        """Elements and end of the next header, if it has the same elements."""
        offsets = self._offsets + (start - self._start)
        words = _words(data)
        changed: dict[int, int] = {}
        first = 0
        for _ in range(_MAX_CHANGES):
            if offsets[-1] >= len(words):
                return None
            differ = words[offsets[first:]] != self._heads[first:]
            here = first + int(differ.argmax())
            if not differ[here - first]:
                return self._checked(words, offsets, changed)
            changed[here] = int(words[offsets[here]])
            change = self._longer_by(changed[here], here)
            if change is None:
                return None
            first = here + 1
            offsets[first:] += change
        return None

    def _longer_by(self, head: int, index: int) -> int | None:
        """How much longer a value is than in the last header; ``None`` = not the same element."""
        known = int(self._heads[index])
        if (head ^ known) & _TAG_AND_VR or self._is_long[index] or head >> 48 & 1:
            return None
        return (head >> 48) - (known >> 48)

    def _checked(
        self,
        words: npt.NDArray[np.uint64],
        offsets: npt.NDArray[np.int64],
        changed: dict[int, int],
    ) -> tuple[dict[int, int], int] | None:
        lengths = words[offsets[self._long] + 8].astype(np.uint32)
        if (lengths != self._long_lengths).any():
            return None
        *places, end = offsets.tolist() if changed or offsets[0] != self._start else [self._end]
        if places:  # from now on this is the last header
            self._elements = dict(zip(self._elements, places, strict=True))
            self._offsets, self._start, self._end = offsets, places[0], end
            self._heads[list(changed)] = list(changed.values())
        return self._elements, self._end


def worth_it(elements: dict[int, int]) -> bool:
    """Whether a header is long enough for a guess to pay."""
    return len(elements) >= _MIN_ELEMENTS


def _words(data: bytes) -> npt.NDArray[np.uint64]:
    """The 8 bytes that start at each offset, as one number; nothing is copied."""
    return np.ndarray((len(data) - 7,), dtype="<u8", buffer=data, strides=(1,))
