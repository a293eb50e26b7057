"""Recordings as telephones and browsers make them, encoded by PyAV."""

import io
from fractions import Fraction

import av
import numpy as np


def encode_recording(waveform, container, codec, rate, pictures=None, gap=0):
    """Encode `[N]` or `[channels, N]`.

    Args:
        waveform: float32.
        container: FFmpeg's name of the format, such as "ipod" for m4a.
        codec: Name of the encoder.
        rate: In hertz.
        pictures: Encoder of a picture that is put beside the sound.
        gap: Packets that are left out after the tenth.
    """
    waveform = np.atleast_2d(waveform)
    layout = "mono" if len(waveform) == 1 else "stereo"
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate)
        stream.codec_context.layout = layout
        if pictures is not None:
            video = output.add_stream(pictures, rate=1)
            video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
            output.mux(video.encode(av.VideoFrame(64, 64, "yuv420p")))
            output.mux(video.encode(None))
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(waveform), "fltp", layout)
        frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), 0
        packets = [*stream.encode(frame), *stream.encode(None)]
        for packet in packets[:10] + packets[10 + gap :]:
            output.mux(packet)
    return file.getvalue()
