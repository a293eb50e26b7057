"""The teacher: flite says any text, in process, and tells which sound is heard when, at which pitch, for which word.

    spoken = speak("Dr. Smith paid $4.50.", "rms")

It needs Debian's `flite` (2.2). A voice is one of flite's statistical voices, as it is or warped: resampled, so that
pitch and timbre change, and spoken slower or faster by as much. Tags such as "(laughs)" are not spoken.
"""

from __future__ import annotations

import ctypes
import functools
import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import soxr

from dia_hf.speech.script import NON_VERBAL_TAGS

SAMPLING_RATE = 16_000  # Hz, of flite's voices
PITCH_HOP = 80  # samples, from one value of the pitch to the next
# Name of a voice, flite's voice, how much higher it is than that, and its gain: all have a root mean square of 0.08.
VOICES: dict[str, tuple[str, float, float]] = {
    "rms": ("rms", 1.0, 0.9),
    "slt": ("slt", 1.0, 0.5),
    "awb": ("awb", 1.0, 0.79),
    "rms-low": ("rms", 0.9, 0.9),
    "rms-high": ("rms", 1.12, 0.9),
    "slt-low": ("slt", 0.9, 0.5),
    "slt-high": ("slt", 1.12, 0.5),
    "awb-low": ("awb", 0.88, 0.79),
    "awb-high": ("awb", 1.14, 0.79),
}
_TAG = re.compile(rf" ?\((?:{'|'.join(NON_VERBAL_TAGS)})\)")
_WORD = b"R:SylStructure.parent.parent"


class _Wave(ctypes.Structure):
    """flite's `cst_wave`."""

    _fields_ = [
        ("type", ctypes.c_char_p),
        ("sampling_rate", ctypes.c_int),
        ("num_samples", ctypes.c_int),
        ("num_channels", ctypes.c_int),
        ("samples", ctypes.POINTER(ctypes.c_short)),
    ]


class _Track(ctypes.Structure):
    """flite's `cst_track`."""

    _fields_ = [
        ("type", ctypes.c_char_p),
        ("num_frames", ctypes.c_int),
        ("num_channels", ctypes.c_int),
        ("times", ctypes.POINTER(ctypes.c_float)),
        ("frames", ctypes.POINTER(ctypes.POINTER(ctypes.c_float))),
    ]


@dataclass(frozen=True)
class Sound:
    """A sound of speech: flite's name of it, its end in seconds, and which characters of the text it is of.

    A pause is of the last character before it.
    """

    name: str
    end: float
    start_of_token: int
    end_of_token: int
    stressed: bool


class Speech(NamedTuple):
    """What flite said: samples `[N]`, the sounds, and the pitch in Hz every `PITCH_HOP` samples, 0 without a voice."""

    samples: np.ndarray
    sounds: list[Sound]
    pitch: np.ndarray


@functools.cache
def _library() -> ctypes.CDLL:
    flite = ctypes.CDLL("libflite.so.1", mode=ctypes.RTLD_GLOBAL)
    for name in ("usenglish", "cmulex"):
        ctypes.CDLL(f"libflite_{name}.so.1", mode=ctypes.RTLD_GLOBAL)
    pointers = ("flite_synth_text", "utt_relation", "relation_head", "item_next", "feat_val")
    results: dict[str, Any] = dict.fromkeys(pointers, ctypes.c_void_p)
    results |= {"utt_wave": ctypes.POINTER(_Wave), "val_track": ctypes.POINTER(_Track)}
    results |= dict.fromkeys(("item_feat_string", "flite_ffeature_string"), ctypes.c_char_p)
    results |= {"item_feat_float": ctypes.c_float, "flite_ffeature_int": ctypes.c_int}
    for name, result in results.items():
        getattr(flite, name).restype = result
    flite.flite_init()
    return flite


@functools.cache
def _voice(name: str) -> ctypes.c_void_p:
    """Load one of flite's voices."""
    _library()
    register = getattr(ctypes.CDLL(f"libflite_cmu_us_{name}.so.1"), f"register_cmu_us_{name}")
    register.restype = ctypes.c_void_p
    return ctypes.c_void_p(register(None))


def _sounds(utterance: ctypes.c_void_p) -> list[Sound]:
    """List an utterance's sounds. A token knows only where the next one begins."""
    flite, sounds, start, end = _library(), [], 0, 0
    segment = flite.relation_head(ctypes.c_void_p(flite.utt_relation(utterance, b"Segment")))
    while segment:
        item = ctypes.c_void_p(segment)
        name, time = flite.item_feat_string(item, b"name").decode(), flite.item_feat_float(item, b"end")
        if name == "pau":
            sounds.append(Sound(name, time, max(end - 1, 0), max(end, 1), False))
        else:
            next_start = flite.flite_ffeature_int(item, _WORD + b".R:Token.parent.file_pos")
            if next_start > end:
                start, end = end, next_start
            stress = flite.flite_ffeature_string(item, b"R:SylStructure.parent.R:Syllable.stress")
            sounds.append(Sound(name, time, start, end, stress == b"1"))
        segment = flite.item_next(item)
    return sounds


def leave_out_tags(text: str) -> tuple[str, list[int]]:
    """Return what is spoken of a text, and where each character of it is in the text."""
    kept = list(range(len(text)))
    for tag in reversed(list(_TAG.finditer(text))):
        del kept[tag.start() : tag.end()]
    return "".join(text[place] for place in kept), kept


def _in_text(sounds: list[Sound], spoken: str, kept: list[int]) -> list[Sound]:
    """Move the tokens of sounds to where they are in the text with its tags."""
    moved = []
    for sound in sounds:
        start = min(sound.start_of_token, len(kept) - 1)
        length = max(1, len(spoken[start : sound.end_of_token].rstrip()))
        moved.append(replace(sound, start_of_token=kept[start], end_of_token=kept[start + length - 1] + 1))
    return moved


def pronounce(text: str) -> list[Sound]:
    """Say how flite's voices pronounce a text, a thousand times faster than one speaks it (by a diphone voice)."""
    flite, (spoken, kept) = _library(), leave_out_tags(text)
    utterance = ctypes.c_void_p(flite.flite_synth_text(spoken.encode("ascii", "ignore"), _voice("kal16")))
    sounds = _sounds(utterance)
    flite.delete_utterance(utterance)
    return _in_text(sounds, spoken, kept)


def _pitch(utterance: ctypes.c_void_p) -> np.ndarray:
    """Return the pitch that a statistical voice spoke at; it is the first of the values that flite predicts."""
    flite = _library()
    features = ctypes.cast(utterance, ctypes.POINTER(ctypes.c_void_p))[0]
    track = flite.val_track(ctypes.c_void_p(flite.feat_val(ctypes.c_void_p(features), b"param_track"))).contents
    return np.array([track.frames[number][0] for number in range(track.num_frames)], dtype=np.float32)


def speak(text: str, voice: str) -> Speech:
    """Let flite say a text."""
    flite, (spoken, kept) = _library(), leave_out_tags(text)
    name, warp, gain = VOICES[voice]
    utterance = ctypes.c_void_p(flite.flite_synth_text(spoken.encode("ascii", "ignore"), _voice(name)))
    wave, sounds = flite.utt_wave(utterance).contents, _in_text(_sounds(utterance), spoken, kept)
    if wave.sampling_rate != SAMPLING_RATE:
        raise ValueError(f"flite's voice {name!r} has {wave.sampling_rate} Hz; expected {SAMPLING_RATE}.")
    samples = np.ctypeslib.as_array(wave.samples, (wave.num_samples,)).astype(np.float32) / 2**15
    pitch = _pitch(utterance)
    flite.delete_utterance(utterance)
    if warp != 1.0:
        samples = soxr.resample(samples, SAMPLING_RATE * warp, SAMPLING_RATE)
        sounds = [replace(sound, end=sound.end / warp) for sound in sounds]
        pitch = warp * pitch[(np.arange(int(len(pitch) / warp)) * warp).astype(int)]
    return Speech(samples * gain, sounds, pitch)


def place_sounds(text: str, sounds: list[Sound]) -> list[int]:
    """Say of which character of a text each sound is: those of a token are spread evenly over it."""
    spans = [(sound.start_of_token, sound.end_of_token, sound.name == "pau") for sound in sounds]
    places, counts = [], Counter(spans)
    seen: Counter[tuple[int, int, bool]] = Counter()
    for span in spans:
        start, end, is_pause = span
        length = max(1, len(text[start:end].rstrip()))
        place = start if is_pause else start + int((seen[span] + 0.5) / counts[span] * length)
        places.append(min(place, len(text) - 1))
        seen[span] += 1
    return places
