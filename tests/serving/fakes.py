"""A speech engine whose chunks, faults and delays a test chooses."""

import threading
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np

from dia_hf.engine import EngineError, QueueFullError
from dia_hf.serving.voices import VoiceInfo
from dia_hf.speech.text_stream import TextStream
from dia_hf.speech.timestamps import TimedText

RATE = 16_000
FRAME = 512  # samples


def tone(index: int, num_samples: int) -> np.ndarray:
    """The samples of a chunk, different for each."""
    time = np.arange(index * num_samples, (index + 1) * num_samples) / RATE
    return (0.3 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)


@dataclass
class Script:
    """How a request of the fake engine runs.

    Args:
        num_chunks: Chunks to emit.
        chunk_samples: Samples of each.
        hold_after: Chunks after which the request waits for `FakeEngine.released`.
        error: Raised by the request after all its chunks.
        refusal: Raised by `submit`.
        finish_reason, doubt, num_retries: Of the handle.
    """

    num_chunks: int = 4
    chunk_samples: int = 10 * FRAME
    hold_after: int | None = None
    error: Exception | None = None
    refusal: Exception | None = None
    finish_reason: str = "stop"
    doubt: str | None = None
    num_retries: int = 0


class FakeHandle:
    def __init__(self, engine, request, script, on_change):
        self.request, self.script, self.on_change, self.engine = request, script, on_change, engine
        self.seed = 1234 if request.seed is None else request.seed
        is_whole = not isinstance(request.text, TextStream)
        self.sentences = [request.text] if is_whole else []
        self.sentence_ends = []
        self.num_text_ids = len(request.text.encode()) if is_whole else 7
        self._num_samples = self._num_taken = self._num_told = 0
        self.num_frames = 0
        self.num_retries = script.num_retries
        self.doubt = script.doubt
        self.error = None
        self.finish_reason = None
        self._chunks = []
        self._lock = threading.Condition()
        self.canceled = threading.Event()
        self.ended = threading.Event()

    @property
    def progress(self):
        return self.num_frames * FRAME // self.script.chunk_samples, self.script.num_chunks

    @property
    def is_done(self):
        return self.finish_reason is not None

    def take(self, limit=None):
        with self._lock:
            number = len(self._chunks) if limit is None else limit
            taken, self._chunks = self._chunks[:number], self._chunks[number:]
            self._num_taken += sum(map(len, taken))
        return taken

    def take_times(self):
        """The words that end in what was taken; each lasts as long as a chunk, and says its number."""
        if self.request.timestamps is None:
            return []
        number, times = self._num_taken // self.script.chunk_samples, []
        while self._num_told < number:
            begin = self._num_told
            seconds = self.script.chunk_samples / RATE
            times.append(TimedText(str(begin), begin * seconds, (begin + 1) * seconds, begin, begin + 1, "[S1]"))
            self._num_told += 1
        return times

    def cancel(self):
        if not self.is_done:
            self.canceled.set()
            self.engine.wake()

    def __iter__(self):
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._chunks or self.is_done)
                chunks, self._chunks = self._chunks, []
            yield from chunks
            if not chunks:
                if self.error is not None:
                    raise self.error
                return

    def kept_voices(self):
        return {}

    def run(self):
        text = self.request.text
        if isinstance(text, TextStream):
            text.bind(self.engine.wake)
            while not self.canceled.is_set():
                closed = text.is_closed
                while len(self.sentences) < len(text.sentences):
                    self.sentences.append(text.sentences[len(self.sentences)])
                    self.speak()
                    self.sentence_ends.append(self._num_samples)
                    self._tell()
                if closed:
                    break
                number = len(text.sentences)
                self.engine.wait_until(
                    lambda number=number: len(text.sentences) > number or text.is_closed or self.canceled.is_set()
                )
        else:
            self.speak()
        self.end()

    def speak(self):
        script = self.script
        for index in range(script.num_chunks):
            if index == script.hold_after:
                self.engine.wait_until(lambda: self.engine.is_released or self.canceled.is_set())
            if self.canceled.is_set():
                break
            with self._lock:
                self._chunks.append(tone(index, script.chunk_samples))
                self._num_samples += script.chunk_samples
                self.num_frames += script.chunk_samples // FRAME
            self._tell()
        if script.hold_after == script.num_chunks:
            self.engine.wait_until(lambda: self.engine.is_released or self.canceled.is_set())

    def end(self):
        script, reason = self.script, self.script.finish_reason
        if self.canceled.is_set():
            reason = "canceled"
        elif script.error is not None:
            self.error, reason = script.error, "error"
        self.finish_reason = reason
        self.engine.active.discard(self)
        self.ended.set()
        self._tell()

    def _tell(self):
        with self._lock:
            self._lock.notify_all()
        if self.on_change is not None:
            self.on_change()


@dataclass(eq=False)
class FakeDia:
    sampling_rate: int
    processor: SimpleNamespace
    heads: Exception | None = None  # raised where they are asked for
    num_asked: int = 0

    def alignment_heads(self):
        self.num_asked += 1
        if self.heads is not None:
            raise self.heads
        return [[0, 0]]


@dataclass
class FakeEngine:
    """The interface of `SpeechEngine`; each request has a thread, and runs by `script`."""

    script: Script = field(default_factory=Script)
    max_batch_size: int = 8

    def __post_init__(self):
        tokenizer = SimpleNamespace(speaker_tokens=["[S1]", "[S2]"], language_tokens=[], check_text=lambda text: None)
        self.dia = FakeDia(RATE, SimpleNamespace(tokenizer=tokenizer))
        self.handles = []
        self.active = set()
        self.num_queued = 0
        self.is_released = False
        self.is_closed = False
        self._condition = threading.Condition()

    @property
    def num_active(self):
        return len(self.active)

    def submit(self, request, on_change=None):
        if self.is_closed:
            raise EngineError("the engine is closed; make another one.")
        if self.script.refusal is not None:
            raise self.script.refusal
        handle = FakeHandle(self, request, self.script, on_change)
        self.handles.append(handle)
        self.active.add(handle)
        threading.Thread(target=handle.run, daemon=True).start()
        self.wake()
        return handle

    def warm_up(self):
        for _ in self.submit(SimpleNamespace(text="[S1] Hello.", seed=0, timestamps=None)):
            pass

    def release(self):
        """Let requests that hold go on."""
        self.is_released = True
        self.wake()

    def close(self, timeout=None):
        self.is_closed = True
        self.wake()
        for handle in list(self.active):
            handle.ended.wait(timeout)
        for handle in list(self.active):
            handle.cancel()
            handle.ended.wait(5)

    def wake(self):
        with self._condition:
            self._condition.notify_all()

    def wait_until(self, condition, timeout=30):
        with self._condition:
            return self._condition.wait_for(condition, timeout)


FULL = QueueFullError("8 calls (`max_queue`) are waiting already; try again later.")


class FakeVoices:
    """The interface of `ServedVoices`: one saved voice, "anna"."""

    def __init__(self):
        self.anna = SimpleNamespace(speakers=("[S1]",), speakers_of=lambda tags: ("[S1]",), name="anna")
        self.asked = []

    def list(self):
        return [VoiceInfo("voice_1", "anna", 1_700_000_000, "audio_sample")]

    def resolve(self, voice):
        self.asked.append(voice)
        if voice == "nobody":
            raise ValueError("there is no voice 'nobody'; there are anna.")
        return self.anna if voice in ("anna", "voice_1") else None

    def from_recording(self, content, transcript=None):
        if transcript is None:
            raise ValueError("the transcript of the recording is missing; send it.")
        return SimpleNamespace(
            speakers=("[S1]",), speakers_of=lambda tags: ("[S1]",), name=f"{len(content)} bytes, {transcript}"
        )

    def add(self, name, content, filename=None, transcript=None, consent=None):
        if name == "anna":
            raise ValueError("there is already a voice 'anna'; choose another name.")
        self.added = (name, content, filename, transcript, consent)
        return VoiceInfo("voice_2", name, 1_700_000_001, "audio_sample")

    def delete(self, voice):
        if voice not in ("anna", "voice_1"):
            raise KeyError(f"there is no saved voice {voice!r}")
        return self.list()[0]
