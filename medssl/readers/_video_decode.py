"""Packets and pictures of a video, by FFmpeg through PyAV; damage is followed to its end.

Every picture whose packet, or any packet that it was predicted from, failed to decode counts as
damaged: a decoder conceals the loss and goes on, its later pictures then look fine and are not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

from medssl.core.errors import ReadError

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

CODECS = (
    *("h264", "hevc", "av1", "libdav1d", "vp8", "vp9", "libvpx", "libvpx-vp9", "vc1", "theora"),
    *("mpeg1video", "mpeg2video", "mpeg4", "msmpeg4v1", "msmpeg4v2", "msmpeg4", "msmpeg4v3"),
    *("wmv1", "wmv2", "wmv3", "mjpeg", "mjpegb", "jpeg2000", "dvvideo", "h263", "flv", "gif"),
    *("ffv1", "huffyuv", "ffvhuff", "utvideo", "png", "qtrle", "rawvideo", "prores", "cinepak"),
)
MAX_PIXELS = 2**26
Source = str | BinaryIO
Picture = tuple[int | None, "VideoFrame", bool]
"""Presentation time in ticks, the frame, whether it is damaged."""


@contextmanager
def opened(
    source: Source, container: str, number: int | None = None
) -> Iterator[tuple[InputContainer, VideoStream | None]]:
    """The container and one video stream: by number, else the first that is no cover picture.

    Only the named demuxer, listed decoders and the file itself may be used: a playlist inside
    cannot open another file or an address.

    Raises:
        ReadError: ``bad_container`` if the demuxer does not take the file.
    """
    import av

    av.logging.set_level(av.logging.PANIC)
    limits = limits_of(container)
    target = f"file:{source}" if isinstance(source, str) else source
    if not isinstance(source, str):
        source.seek(0)
    try:
        file = av.open(target, "r", format=container, options=limits, metadata_errors="ignore")
    except (av.FFmpegError, ValueError) as error:
        what = f"the video container cannot be opened ({type(error).__name__})"
        raise ReadError("bad_container", what) from None
    with file:
        yield file, chosen_stream(file, number)


def limits_of(container: str) -> dict[str, str]:
    """Options of FFmpeg: the named demuxer, listed decoders and local files, nothing else."""
    return {
        "format_whitelist": container,
        "protocol_whitelist": "file",
        "codec_whitelist": ",".join(CODECS),
    }


def chosen_stream(file: InputContainer, number: int | None = None) -> VideoStream | None:
    """One video stream, by number or the first that is no cover picture; its decoder is strict."""
    usable = (s for s in file.streams.video if number in {None, s.index})
    stream = next((s for s in usable if number is not None or not is_cover(s)), None)
    if stream is not None and stream.codec_context is not None:
        context = stream.codec_context
        context.thread_count = 1  # so that an error belongs to the packet just sent
        context.options = {"err_detect": "crccheck+explode", "max_pixels": str(MAX_PIXELS)}
    return stream


def is_cover(stream: VideoStream) -> bool:
    """Whether the stream is a picture on the sleeve of a sound file."""
    from av.stream import Disposition

    return bool(stream.disposition & Disposition.attached_pic)


class Packets:
    """Packets with content, until the end or until the container makes no more sense.

    Attributes:
        broken: it made no more sense; what follows is lost.
    """

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self.broken = False
        self._source = container.demux(stream)

    def __iter__(self) -> Iterator[Packet[VideoStream]]:
        import av

        while True:
            try:
                packet = next(self._source, None)
            except (av.FFmpegError, ValueError, LookupError):
                self.broken = True
                return
            if packet is None:
                return
            if packet.size:
                yield packet


def seek(container: InputContainer, stream: VideoStream, tick: int) -> bool:
    """Go to the key frame at this time, or a bit before; whether the container can at all."""
    import av

    try:
        container.seek(tick, stream=stream, backward=True)
    except av.FFmpegError:
        return False
    return True


class Pictures:
    """Every picture that the decoder gives from here on, with its time and whether it is damaged.

    Attributes:
        damaged: presentation times that cannot be trusted; grows while iterating.
        failures: packets that did not decode.
    """

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self.damaged: set[int | None] = set()
        self.failures = 0
        self._packets = Packets(container, stream)
        self._context = stream.codec_context
        self._key: int | None = None
        self._first_key: int | None = None
        self._clean = self._clean_before = True

    def __iter__(self) -> Iterator[Picture]:
        for packet in self._packets:
            self._expect(packet)
            yield from self._decode(packet)
        yield from self._decode(None)

    def _decode(self, packet: Packet[VideoStream] | None) -> Iterator[Picture]:
        import av

        try:
            frames = self._context.decode(packet)
        except (av.FFmpegError, ValueError):
            if packet is not None:
                self._fail(packet)
            return
        for frame in frames:
            yield frame.pts, frame, frame.is_corrupt or frame.pts in self.damaged

    def _expect(self, packet: Packet[VideoStream]) -> None:
        if packet.is_keyframe:
            self._clean_before, self._clean = self._clean, True
            self._key = packet.pts
            self._first_key = packet.pts if self._first_key is None else self._first_key
        if packet.is_corrupt:
            self._fail(packet)
        elif not self._clean or (not self._clean_before and self._is_leading(packet)):
            self.damaged.add(packet.pts)

    def _fail(self, packet: Packet[VideoStream]) -> None:
        self.damaged.add(packet.pts)
        # Leading pictures of the first group lack what they refer to; nothing refers to them.
        if not (self._is_leading(packet) and self._key == self._first_key):
            self._clean = False
            self.failures += 1

    def _is_leading(self, packet: Packet[VideoStream]) -> bool:
        return packet.pts is not None and self._key is not None and packet.pts < self._key
