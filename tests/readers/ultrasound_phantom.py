"""A synthetic ultrasound cine: a fan of moving speckle, static text, a scale and an ECG trace."""

import numpy as np
from PIL import Image, ImageDraw

SHAPE = (240, 320)
APEX = (20.0, 160.0)
BANNER = (slice(2, 16), slice(4, 130))
TICKS = (slice(40, 220), slice(306, 316))


def fan(shape=SHAPE, apex=APEX, r0=25.0, r1=185.0, half_angle_deg=38.0):
    """True inside a curved probe's fan: two arcs and two straight sides."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    dy, dx = y - apex[0], x - apex[1]
    r, angle = np.hypot(dy, dx), np.degrees(np.arctan2(dx, dy))
    return (r >= r0) & (r <= r1) & (np.abs(angle) <= half_angle_deg)


def text(shape=SHAPE):
    """Grey levels of what a machine prints over its picture: name, logo, depth scale."""
    image = Image.new("L", shape[::-1])
    draw = ImageDraw.Draw(image)
    draw.text((6, 3), "DOE^JANE 1970-01-01", fill=255)
    draw.text((250, 3), "MI 1.2 TIS 0.8", fill=200)
    for y in range(45, 215, 20):
        draw.line([(308, y), (314, y)], fill=180)
    return np.array(image)


def ecg(frame, n_frames, shape=SHAPE):
    """A trace at the bottom that grows with time."""
    image = Image.new("L", shape[::-1])
    x = np.arange(10, 10 + int(300 * (frame + 1) / n_frames))
    y = 226 - 8 * (np.exp(-((((x % 60) - 30) / 3.0) ** 2)))
    ImageDraw.Draw(image).line(list(zip(x.tolist(), y.tolist(), strict=True)), fill=255)
    return np.array(image)


def cine(n_frames=12, mask=None, seed=0, colour_box=None):
    """(T, H, W, 3) uint8 and the true fan; ``colour_box`` = slices that hold Doppler colour."""
    mask = fan() if mask is None else mask
    rng = np.random.default_rng(seed)
    out = np.zeros((n_frames, *mask.shape, 3), dtype=np.uint8)
    depth = np.linspace(1.0, 0.4, mask.shape[0])[:, None]
    for number in range(n_frames):
        speckle = np.clip(rng.rayleigh(60.0, mask.shape) * depth, 0, 255)
        grey = np.where(mask, speckle, 0).astype(np.uint8)
        grey = np.maximum(grey, np.maximum(text(mask.shape), ecg(number, n_frames, mask.shape)))
        out[number] = grey[..., None]
        if colour_box is not None:
            out[number][colour_box] = (200, 20, 30)
    return out, mask


def iou(a, b):
    return (a & b).sum() / (a | b).sum()
