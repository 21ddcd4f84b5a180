"""Every kind of video with every library: identical frames, or refused and why; damage; bodies.

python -m pipelines.check_video [--data ../shared/data]
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from medssl.readers._clip_quality import IN_BODY_SCORE
from pipelines._bench import write_table
from pipelines._scenes import body_rows
from pipelines._video_checks import BACKENDS, CALLS, FRAMES, backend_rows, made_kinds, real_rows
from pipelines._video_damage import HEAD, damage_rows

LIBRARIES = (
    f"Frames with their number drawn in; {CALLS} calls of {FRAMES} random frames per cell, "
    "compared with the number and, pixel by pixel, with PyAV decoding from the start. "
    "*identical*: all are. *refused*: the record says so and PyAV decodes; in brackets what the "
    "library does when it is forced to decode all the same."
)
DAMAGE = (
    "One bit flipped or 40 bytes zeroed in the middle 80 % of each copy, through PyAV. Copies are "
    "refused at the index, or their record is flagged, or neither; of the latter two every 4th "
    "frame is asked for alone and compared with the frame of that presentation time. *differ*: "
    "other pixels, unnoticed: most codings carry no checksum, and damage that is still legal "
    "cannot be told from a picture."
)
BODIES = (
    f"Score: share of lit pixels with the colour of tissue; a frame counts as in the body from "
    f"{IN_BODY_SCORE} on, a bound chosen with these real pictures in view. White light only. Skin "
    "close to the lens has the colour of tissue: such frames pass, and the last rows say how many."
)
BODIES_HEAD = ("pictures", "n", "score, 1st percentile", "median", "99th", "counted as in the body")
VIDEO_HEAD = ("file", "container / codec", *BACKENDS)
REAL_HEAD = ("set", "container / codec", "clips", "read")
REAL = "Every clip decoded whole; frame counts of the sets' own tables."


def main(
    data: Annotated[Path, typer.Option(help="real data sets")] = Path("../shared/data"),
    files: Annotated[int, typer.Option(help="damaged copies per kind")] = 30,
) -> None:
    """Write docs/results/video.md, video_damage.md, out_of_body.md and video_real.md."""
    by = "check_video"
    with tempfile.TemporaryDirectory() as name:
        made = dict(made_kinds(Path(name)))
        rows = backend_rows(made)
        write_table("video", "Video files and libraries", VIDEO_HEAD, rows, LIBRARIES, by=by)
        write_table("video_damage", "Damaged video", HEAD, damage_rows(made, files), DAMAGE, by=by)
    bodies = body_rows(data / "polyps" / "images")
    write_table("out_of_body", "Frames outside the body", BODIES_HEAD, bodies, BODIES, by=by)
    write_table("video_real", "Real clips", REAL_HEAD, real_rows(data), REAL, by=by)


if __name__ == "__main__":
    typer.run(main)
