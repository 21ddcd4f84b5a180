"""The decoding process: one JSON request per line, a JSON reply, then the voxels as raw bytes."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.core.errors import MedsslError, ReadError, own_mistakes
from medssl.readers._found_json import from_json
from medssl.readers._load import load_here
from medssl.readers._sandbox import answer_here
from medssl.readers._video_probe import describe_backend
from medssl.readers._video_scan import describe_video

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
            with own_mistakes("decoding"):
                if "question" in request:
                    answer = ANSWERS[request["question"]](request["path"])
                    reply: dict[str, Any] = {"answer": answer}
                else:
                    array = load_here(from_json(request["found"]), request["frames"])
                    reply = {"bytes": array.nbytes}
        except MemoryError:
            what = "decoding needs more memory than the file's header justifies"
            reply = _refusal(ReadError("decoder_memory", what))
        except MedsslError as error:
            reply = _refusal(error)
        signal.setitimer(signal.ITIMER_PROF, 0)
        replies.write(json.dumps(reply).encode() + b"\n")
        if array is not None:
            replies.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        replies.flush()


def _refusal(error: MedsslError) -> dict[str, str]:
    reason = error.reason if isinstance(error, ReadError) else "too_large"
    return {"reason": reason, "what": error.what, "where": error.where, "fix": error.fix}


def _cap_memory(limit_bytes: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = limit_bytes if hard == resource.RLIM_INFINITY else min(limit_bytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


if __name__ == "__main__":
    main()
