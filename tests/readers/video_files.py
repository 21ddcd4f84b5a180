"""Videos with the frame number drawn into every frame as black and white blocks."""

import io
from fractions import Fraction

import numpy as np

BITS, BLOCK = 8, 16
HEIGHT, WIDTH = 2 * BLOCK, (BITS + 2) * BLOCK
TICK = Fraction(1, 90000)
RATE = 25
STEP = 90000 // RATE


def picture(number, height=HEIGHT, width=WIDTH):
    """(H, W, 3): white, black, then the bits; below it the inverse, so that a slip shows."""
    bits = np.array([1, 0, *((number >> b) & 1 for b in range(BITS))])
    code = np.kron(np.stack([bits, 1 - bits]), np.ones((BLOCK, BLOCK), int))
    frame = np.full((height, width, 3), 128, np.uint8)
    frame[:HEIGHT, :WIDTH] = (40 + 176 * code)[..., None]
    return frame


def number_of(x_CHW):
    """The number drawn into a frame; ``None`` if the blocks contradict each other."""
    grey = x_CHW[:, :HEIGHT, :WIDTH].astype(float).mean(0)
    blocks = grey.reshape(2, BLOCK, BITS + 2, BLOCK)[:, 4:12, :, 4:12].mean((1, 3))
    bits = blocks > 128
    if not bits[0, 0] or bits[0, 1] or (bits[0] == bits[1]).any():
        return None
    return int(sum(int(bit) << b for b, bit in enumerate(bits[0, 2:])))


def numbers_of(x_CTHW):
    return [number_of(x_CTHW[:, t]) for t in range(x_CTHW.shape[1])]


def encode(
    target,
    n=60,
    *,
    codec="libx264",
    container=None,
    options=(),
    times=None,
    gop=12,
    b_frames=0,
    rotation=0,
    pix_fmt="yuv420p",
    size=(HEIGHT, WIDTH),
    mux=(),
):
    """Write ``n`` numbered frames; ``times`` in ticks of 1/90000 s, default 25 frames/s."""
    import av

    ticks = [STEP * i for i in range(n)] if times is None else list(times)
    name = str(target) if container is None else target
    with av.open(name, "w", format=container, options=dict(mux)) as out:
        stream = out.add_stream(codec, rate=RATE, options=dict(options))
        stream.height, stream.width, stream.pix_fmt = *size, pix_fmt
        context = stream.codec_context
        context.gop_size, context.max_b_frames, context.thread_count = gop, b_frames, 1
        fine = codec not in COARSE
        context.time_base = TICK if fine else Fraction(1, RATE)
        if codec in COARSE and codec not in {"gif"}:
            context.bit_rate = 2_000_000
        if rotation:
            stream.set_display_rotation(rotation)
        for number, tick in enumerate(ticks):
            frame = av.VideoFrame.from_ndarray(picture(number, *size), "rgb24")
            frame = frame.reformat(format=pix_fmt)
            frame.time_base = context.time_base
            frame.pts = tick if fine else round(tick * TICK / context.time_base)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


# Codecs whose clock must be a frame rate.
COARSE = {"mpeg2video", "mpeg1video", "mpeg4", "mjpeg", "gif", "wmv1", "wmv2", "msmpeg4"}


def encoded(n=60, container="mp4", **how):
    """As :func:`encode`, in memory."""
    buffer = io.BytesIO()
    encode(buffer, n, container=container, **how)
    return buffer.getvalue()
