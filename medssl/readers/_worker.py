"""The decoding process: one JSON request per line, a JSON reply, then the voxels as raw bytes."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.core.errors import MedsslError, ReadError
from medssl.readers._found_json import from_json
from medssl.readers._load import load_here
from medssl.readers._sandbox import answer_here
from medssl.readers._video_probe import describe_backend
from medssl.readers._video_scan import describe_video

_PACKAGE = Path(__file__).parent.parent
# Questions about a file that only a foreign library can answer.
ANSWERS: dict[str, Callable[[str], dict[str, Any]]] = {
    "video": describe_video,
    "video_backend": describe_backend,
}


def main() -> None:
    """Serve until the caller closes its end."""
    # A library that writes to standard output would break the protocol.
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    answer_here(ANSWERS)
    library_bytes = 0
    for line in sys.stdin.buffer:
        request = json.loads(line)
        # A library once loaded stays.
        library_bytes = max(library_bytes, int(request["library_bytes"]))
        _cap_memory(int(request["limit_bytes"]) + library_bytes)
        # Processor time of all threads; the default action of this signal ends the process,
        # whatever a decoder is doing.
        signal.setitimer(signal.ITIMER_PROF, float(request["limit_s"]))
        array: npt.NDArray[Any] | None = None
        try:
            if "question" in request:
                reply: dict[str, Any] = {"answer": ANSWERS[request["question"]](request["path"])}
            else:
                array = load_here(from_json(request["found"]), request["frames"])
                reply = {"bytes": array.nbytes}
        except MemoryError:
            what = "decoding needs more memory than the file's header justifies"
            reply = _refusal(ReadError("decoder_memory", what))
        except MedsslError as error:
            reply = _refusal(error)
        except Exception as error:  # noqa: BLE001 - this item's failure; its place finds ours
            what = f"decoding raised {_kind_and_place(error)}"
            reply = _refusal(ReadError("decoder_crash", what))
        signal.setitimer(signal.ITIMER_PROF, 0)
        replies.write(json.dumps(reply).encode() + b"\n")
        if array is not None:
            replies.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        replies.flush()


def _refusal(error: MedsslError) -> dict[str, str]:
    reason = error.reason if isinstance(error, ReadError) else "too_large"
    return {"reason": reason, "what": error.what, "where": error.where, "fix": error.fix}


def _kind_and_place(error: Exception) -> str:
    """``KeyError at _worker.py:50``: no text of the error, which may repeat a header."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [one for one in frames if Path(one.filename).is_relative_to(_PACKAGE)]
    return f"{type(error).__name__} at {Path(own[-1].filename).name}:{own[-1].lineno}"


def _cap_memory(limit_bytes: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = limit_bytes if hard == resource.RLIM_INFINITY else min(limit_bytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


if __name__ == "__main__":
    main()
