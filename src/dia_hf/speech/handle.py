"""A request in a `SpeechEngine`: what is asked for, and its audio as it comes.

The frames of its text come from the model's thread (`TextFrames`), the samples from the decoding thread, and the reader
takes them in another one. Used by `engine.py`.

Legend: N samples, T frames, C channels.
"""

from __future__ import annotations

import copy
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers.generation import BaseStreamer
from transformers.utils import logging

from ..configuration_dia import DiaConfig
from ..delay_pattern import valid_codes
from ..generation.spoken_path import SpokenWeights, audio_lag
from ..text_files import shortened
from .dialogue import Dialogue
from .dialogue_run import DialogueRun
from .doubts import SpeechStats
from .live_timeline import LiveTimeline, Unit, check_unit
from .text_stream import StreamedDialogue, TextStream
from .timestamps import TimedText, Timeline
from .voices import Voice

if TYPE_CHECKING:
    from .engine import SpeechEngine

__all__ = ["Mark", "SpeechHandle", "SpeechRequest", "TextFrames"]

logger = logging.get_logger(__name__)

_CHUNK_FRAMES = 64  # Frames to decode at once; short chunks cost more a frame.
_ENOUGH_AHEAD = 0.5  # Seconds of audio that a player should have; with less, its chunks double from one to the next.
_LEAST_AHEAD = 0.1  # Seconds of audio below which whatever is there is decoded.
_MOST_FIRST_FRAMES = 8  # The first chunk lasts until the second is there; that is short on a machine that keeps up.
_MOST_BEHIND = 60.0  # Seconds of audio that a reader has not taken, from which on no chunk of its text is begun.


@dataclass(frozen=True)
class SpeechRequest:
    """Text to speak, and how.

    Attributes:
        text (`str` or `TextStream`): Text with speaker tags, of any length, or one that comes in pieces.
        voices (`Mapping[str, Voice]` or `Voice`, *optional*): See `Dia.dialogue`.
        seed (`int`, *optional*): Seed of the sampling. Random unless given; only then is a chunk of implausible length
            generated anew, with another seed.
        cfg_scale, temperature, top_p, cfg_filter_top_k (*optional*): See `Dia.generate`.
        max_seconds (`float`, *optional*): Limit of the audio.
        is_streamed (`bool`, defaults to `True`): Whether a player begins with the first chunk. Otherwise the audio
            comes at the end, decoded when no player waits.
        timestamps (`str`, *optional*): Whether to find the times of words ("word") or characters ("char"), see
            `SpeechHandle.take_times`. The audio is the same.
        script (`str`, *optional*): The text as it was sent, if `text` has other tags or white space: times have their
            places in it.
    """

    text: str | TextStream
    voices: Mapping[str, Voice] | Voice | None = None
    seed: int | None = None
    cfg_scale: float | None = None
    temperature: float | None = None
    top_p: float | None = None
    cfg_filter_top_k: int | None = None
    max_seconds: float | None = None
    is_streamed: bool = True
    timestamps: Unit | None = None
    script: str | None = None


class TextFrames(BaseStreamer):
    """Frames of one chunk of text, from the engine's thread to the decoding thread.

    Args:
        config (`DiaConfig`): Delay pattern and token ids.
        changed (`Callable`): Called at each step with the number of complete frames that were not taken.
        text, own (`str`): What the model reads, and the chunk at its end.

    Attributes:
        num_taken (`int`): Frames that were taken.
        has_ended (`bool`): Whether no further frames come.
        alignment (`SpokenWeights`): Weights of the alignment heads, if the call records them.
        is_followed (`bool`): Whether the chunk was begun in the handle's timeline.
    """

    def __init__(self, config: DiaConfig, changed: Callable[[int], None], text: str = "", own: str = "") -> None:
        self.config, self.text, self.own = config, text, own
        self.alignment = SpokenWeights(config.decoder_config.eos_token_id)
        self.is_followed = False
        self._changed = changed
        self.num_taken = 0
        self._delayed: list[torch.Tensor] = []  # tokens `[1, C]` of the steps from the first frame that was not taken
        self._has_prompt = self.has_ended = False

    def put(self, value: torch.Tensor) -> None:
        """Receive the prompt, then the tokens of each step."""
        if self._has_prompt:
            tokens = value.view(1, -1)
            self.alignment.put(tokens)
            self._delayed.append(tokens)
            self._changed(self.num_complete)
        self._has_prompt = True

    def put_alignment(self, weights: torch.Tensor) -> None:
        """Receive the weights `[1, S]` of the alignment heads of a step, before its tokens."""
        self.alignment.put_alignment(weights)

    def end(self) -> None:
        """Mark the end of the tokens."""
        self.has_ended = True

    @property
    def num_complete(self) -> int:
        """Frames that have tokens in all channels, without those that were taken; at the end a few are not valid."""
        return max(len(self._delayed) - self.config.max_delay, 0)

    @property
    def is_empty(self) -> bool:
        """Whether all frames were taken and no further ones come."""
        return self.has_ended and self.num_complete == 0

    def take(self) -> torch.Tensor:
        """Return the codes `[T, C]` of the complete frames. Called by one thread, while another one puts."""
        decoder, number = self.config.decoder_config, self.num_complete
        if number == 0:
            return torch.zeros(0, decoder.num_channels, dtype=torch.long)
        delayed = torch.stack(self._delayed[: number + self.config.max_delay], dim=1)
        del self._delayed[:number]
        self.num_taken += number
        return valid_codes(delayed, self.config.delay_pattern, decoder.eos_token_id, decoder.pad_token_id)[0]


class SpeechHandle:
    """A request in a `SpeechEngine`: an iterator over chunks of audio, `np.ndarray` of shape `[N]`, float32.

    Attributes:
        request (`SpeechRequest`): The request.
        seed (`int`): Its seed, drawn if none was given.
        sentence_ends (`list[int]`): Of a text that comes in pieces: for each sentence whose audio is complete, the
            number of samples up to its end.
        num_frames (`int`): Frames decoded so far.
        num_retries (`int`): Chunks that were generated anew.
        is_done (`bool`): Whether the end has come; there may be chunks to take still.
        finish_reason (`str` or `None`): At the end "stop"; "length" (cut at a limit); "implausible" (empty, silent, or
            of another length than the text has); "canceled" or "error".
        doubt (`str` or `None`): Why the audio is implausible or cut.
        error (`Exception` or `None`): What ended the request.
        timeline (`LiveTimeline` or `None`): With `timestamps`, the times of what was spoken, to be read at the end.
            Its `script` is the text as it was given or written.
    """

    def __init__(
        self, request: SpeechRequest, dialogue: Dialogue, engine: SpeechEngine, on_change: Callable[[], None] | None
    ) -> None:
        self.request = request
        self.seed = dialogue.seed
        self.sentence_ends: list[int] = []
        self.num_frames = self.num_retries = 0
        self.is_done = False
        self.finish_reason: str | None = None
        self.doubt: str | None = None
        self.error: Exception | None = None
        self.is_canceled = False
        self._engine = engine
        self._on_change = on_change
        self._run = DialogueRun(dialogue)
        # Between the reader, the worker and the decoding thread, guarded by the condition:
        self._changed = threading.Condition()
        self._chunks: deque[np.ndarray] = deque()
        self._times: deque[list[TimedText]] = deque()  # that end in each chunk
        self._taken_times: list[TimedText] = []  # of chunks that were read
        self._num_read = self._num_put = 0  # samples
        self._parts: deque[TextFrames] = deque()  # of the chunks of text whose frames were not all taken
        self._decoding = threading.Lock()  # held to change the clip
        self._has_clips = isinstance(request.text, TextStream)  # one for each sentence
        self._clip = dialogue.codec.stream()
        self._begins_sentence = True
        self._ends_sentence = False  # the clip is closed, as all frames of a sentence are in it
        self._heard = SpeechStats(dialogue.codec.sampling_rate)
        self._is_complete = False  # no further frames come
        self._is_parked = False  # the reader is far behind, or the text not there yet
        self._first_time: float | None = None
        self.timeline = self._make_timeline(dialogue)
        self._next_frames = 1  # twice the last chunk
        self._wake_at = 1  # Complete frames of the current part from which on the decoding thread looks at this.

    def _make_timeline(self, dialogue: Dialogue) -> LiveTimeline | None:
        unit = self.request.timestamps
        if unit is None:
            return None
        check_unit("timestamps", unit)
        given = dialogue.script if self.request.script is None else self.request.script
        script = "" if isinstance(dialogue, StreamedDialogue) else given
        lag = audio_lag(dialogue.model.config, dialogue.codec)
        tags, languages = dialogue.speaker_tokens, dialogue.language_tokens
        timeline = LiveTimeline(script, tags, dialogue.codec.frame_rate, lag, unit, tags[0], languages)
        if not isinstance(dialogue, StreamedDialogue) and script != dialogue.script:
            spoken = Timeline(dialogue.script, tags, dialogue.codec.frame_rate, languages)
            if timeline.letters != spoken.letters:
                raise ValueError(
                    f"`script` is {shortened(script)}, but the text is {shortened(dialogue.script)}; they may differ "
                    "in tags and white space alone."
                )
        return timeline

    def __iter__(self) -> SpeechHandle:
        return self

    def __next__(self) -> np.ndarray:
        """Wait for the next chunk.

        Raises:
            StopIteration: At the end, or when canceled.
            Exception: `error`, after the chunks before it.
        """
        with self._changed:
            self._changed.wait_for(lambda: self.is_done or (self._chunks and self.request.is_streamed))
        for chunk in self._pop(1):
            return chunk
        if self.error is not None:
            raise self.error
        raise StopIteration

    def take(self, limit: int | None = None) -> list[np.ndarray]:
        """Return the chunks that are there, without waiting; none before the end of a request that is not streamed.

        Args:
            limit (`int`, *optional*): Chunks to return at most; all unless given.
        """
        number = len(self._chunks) if limit is None else limit
        return self._pop(number) if self.is_done or self.request.is_streamed else []

    def take_times(self) -> list[TimedText]:
        """Return the words or characters that end in the chunks that were read, each once; see `timestamps`.

        A time is known when the audio is there, and does not change later. Times count from the beginning of the audio.
        """
        with self._changed:
            taken, self._taken_times = self._taken_times, []
        return taken

    def _pop(self, number: int) -> list[np.ndarray]:
        with self._changed:
            chunks = [self._chunks.popleft() for _ in range(min(number, len(self._chunks)))]
            for _ in chunks if self.timeline is not None else ():
                self._taken_times += self._times.popleft()
            self._num_read += sum(map(len, chunks))
        if self._is_parked:
            self._engine._unpark(self)
        return chunks

    @property
    def progress(self) -> tuple[int, int]:
        """Chunk of the text that is generated now, counted from 1, and number of chunks."""
        num_chunks = len(self._run.dialogue.chunks)
        return min(self._run.index + 1, num_chunks), num_chunks

    @property
    def num_text_ids(self) -> int:
        """Token ids of the text, without transcripts of voices."""
        return sum(map(self._run.dialogue.num_ids, list(self._run.dialogue.chunks)))

    @property
    def sentences(self) -> list[str]:
        """Texts of the chunks, without tags; of a text that comes in pieces, those so far."""
        return [" ".join(turn.text for turn in turns) for turns in list(self._run.dialogue.chunks)]

    def kept_voices(self) -> dict[str, Voice]:
        """Return the speech of each speaker to go on with, as `voices` of another request; see `DialogueRun`."""
        return self._run.kept_voices()

    @property
    def is_behind(self) -> bool:
        """Whether the reader has left so much unread that no further chunk of the text is begun."""
        codec = self._clip.codec
        seconds = sum(self._run.num_frames) / codec.frame_rate - self._num_read / codec.sampling_rate
        return self.request.is_streamed and seconds > _MOST_BEHIND

    def cancel(self) -> None:
        """End the request; its slot in the batch is free before the next step."""
        self.is_canceled = True
        self._engine._cancel(self)

    # --- the engine's side ---

    @property
    def _ahead(self) -> float:
        """Seconds of audio that a player has left, if it began with the first chunk."""
        if not self.request.is_streamed:
            return math.inf
        if self._first_time is None:
            return -math.inf
        played = time.monotonic() - self._first_time
        return self._heard.seconds - played

    def _wanted(self, ahead: float) -> tuple[int, float]:
        """Return how many frames the next chunk should have, and the seconds ahead at which fewer will do."""
        if self._is_final:
            return 0, -math.inf
        if self._first_time is None and self.request.is_streamed:
            frames = math.ceil(2 * self._engine._seconds_to_next * self._clip.codec.frame_rate)
            return min(max(frames, 1), _MOST_FIRST_FRAMES), -math.inf
        if ahead <= _LEAST_AHEAD:
            return 1, -math.inf
        if ahead <= _ENOUGH_AHEAD:
            return min(self._next_frames, _CHUNK_FRAMES), _LEAST_AHEAD
        return _CHUNK_FRAMES, _ENOUGH_AHEAD

    def _num_next(self) -> int:
        """Return the frames of the next chunk: as many as are there, in few sizes, which a codec computes faster."""
        number = min(self._clip.num_ready, _CHUNK_FRAMES)
        return number if self._clip.is_closed or number == 0 else 1 << (number.bit_length() - 1)

    @property
    def _is_final(self) -> bool:
        """Whether no later frames join the clip."""
        with self._changed:
            if self._has_clips and self._parts:
                return self._clip.is_closed or self._parts[0].has_ended
            return self._clip.is_closed or self._is_complete

    def _num_ready(self) -> int:
        """Return the frames whose samples are final; below 0 at the beginning."""
        with self._changed:
            pending = self._clip.num_pending + self._num_complete()
            return pending - (0 if self._is_final else self._clip.codec.decoder_margin)

    def _num_complete(self) -> int:
        """Return the frames that the clip lacks."""
        with self._changed:
            if self._clip.is_closed:
                return 0
            return sum(part.num_complete for part in list(self._parts)[: 1 if self._has_clips else None])

    def _pull(self) -> None:
        """Add the frames that are complete to the clip; `_decoding` is held."""
        with self._changed:
            while self._parts and not self._clip.is_closed:
                part = self._parts[0]
                self._clip.push(part.take())
                self._follow(part)
                if not part.is_empty:
                    return
                self._parts.popleft()
                if self._has_clips:
                    self._clip.close()
                    self._ends_sentence = True
            if self._is_complete and not self._parts:
                self._clip.close()

    def _follow(self, part: TextFrames) -> None:
        """Add the weights of a part's frames to the timeline."""
        timeline, dialogue = self.timeline, self._run.dialogue
        if timeline is None:
            return
        if not part.is_followed:
            part.is_followed = True
            if isinstance(dialogue, StreamedDialogue):
                for source in dialogue.take_sources():
                    timeline.append(source)
            timeline.begin(part.text, part.own)
        timeline.extend(part.alignment.take())
        if part.alignment.has_ended() or part.is_empty:
            timeline.end()

    def _put(self, samples: np.ndarray, num_frames: int) -> None:
        with self._changed:
            if self._first_time is None or (self._begins_sentence and self._ahead < 0):  # the player stands still
                self._first_time = time.monotonic() - self._heard.seconds
            self._begins_sentence = False
            self._chunks.append(samples)
            self._num_put += len(samples)
            self._heard.add(samples)
            self.num_frames += num_frames
            if self.timeline is not None:
                self._times.append(self.timeline.take(self.num_frames))
            self._changed.notify_all()
        if self.request.is_streamed:
            self._tell()

    def _end_sentence(self) -> None:
        """Begin the next clip if all of a sentence was decoded; `_decoding` is held."""
        if not self._ends_sentence or self._clip.num_pending:
            return
        with self._changed:
            self.sentence_ends.append(self._num_put)
            self._clip = self._clip.codec.stream()
            self._ends_sentence, self._begins_sentence = False, True
        self._tell()

    def _end(self, reason: str, error: Exception | None = None, doubt: str | None = None) -> None:
        with self._changed:
            if self.is_done:
                return
            self.finish_reason, self.error, self.doubt, self.is_done = reason, error, doubt, True
            self._parts.clear()
            if self.timeline is not None and error is None and not self.is_canceled:  # a word that was cut
                left = self._times[-1] if self._times else self._taken_times
                left += self.timeline.take(self.num_frames, is_last=True)
            self._changed.notify_all()
        self._tell()

    def _tell(self) -> None:
        """Call the reader's `on_change`; an error of it ends nothing but this call."""
        try:
            if self._on_change is not None:
                self._on_change()
        except Exception:
            logger.exception("`on_change` of a request failed; the request goes on")


class Mark:
    """State of a handle before a chunk of its text, for another attempt at the chunk."""

    def __init__(self, handle: SpeechHandle) -> None:
        with handle._decoding:
            handle._pull()
            self.clip, self.heard = copy.copy(handle._clip), copy.copy(handle._heard)
            self.num_chunks, self.num_frames = len(handle._chunks), handle.num_frames
            self.num_timed = 0 if handle.timeline is None else handle.timeline.num_taken

    def rewind(self, handle: SpeechHandle, frames: TextFrames) -> bool:
        """Take the audio since then back, unless a reader may have it; return whether that was possible.

        Args:
            handle (`SpeechHandle`): The handle.
            frames (`TextFrames`): Frames of the attempt.
        """
        with handle._decoding, handle._changed:
            if handle._has_clips:  # the clip may be that of the sentence before
                if frames.num_taken or frames not in handle._parts:
                    return False
                handle._parts.remove(frames)
                self._drop(handle, frames)
                return True
            if handle.request.is_streamed and handle.num_frames > self.num_frames:
                return False
            while len(handle._chunks) > self.num_chunks:
                handle._chunks.pop()
                if handle.timeline is not None:
                    handle._times.pop()
            self._drop(handle, frames)
            if handle.timeline is not None:
                handle.timeline.num_taken = self.num_timed
            handle._clip, handle._heard = copy.copy(self.clip), copy.copy(self.heard)
            handle.num_frames = self.num_frames
            handle._parts.clear()
            return True

    @staticmethod
    def _drop(handle: SpeechHandle, frames: TextFrames) -> None:
        if handle.timeline is not None and frames.is_followed:
            handle.timeline.drop()
