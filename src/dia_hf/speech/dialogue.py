"""Long-form generation: scripts of any length, generated in chunks and decoded as one clip.

Each chunk is prompted with the last chunk of every speaker, or with the speaker's voice, so that voices stay the same;
only those chunks are kept in memory. All chunks are decoded as one growing clip of the codec, so that there is no step
at a join and no fading is needed. Called by `Dia`.

Legend: T frames, C channels, N samples.
"""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import torch

from ..engine import Engine
from ..generation import DiaCodesStreamer
from ..modeling_dia import DiaForConditionalGeneration
from ..processing_dia import DiaProcessor
from .chunk_folder import ChunkFolder
from .dialogue_run import DialogueRun, Segment
from .doubts import SpeechStats, tell
from .fingerprints import fingerprint_of_model, fingerprint_of_voice
from .progress import spoken_bar
from .script import (
    Turn,
    check_script,
    estimate_seconds,
    parse_part,
    parse_script,
    plan_chunks,
    remove_tags,
    render,
    split_prefix,
)
from .timestamps import Timeline
from .voices import Voice

__all__ = ["Dialogue", "DialogueError"]


class DialogueError(RuntimeError):
    """Error in a chunk of a dialogue.

    Attributes:
        waveform (`np.ndarray` of shape `[N]`): Audio generated before, float32.
    """

    waveform: np.ndarray


class Dialogue:
    """Script, split into chunks and ready for generation.

    Args:
        model (`DiaForConditionalGeneration`): The model.
        processor (`DiaProcessor`): Its processor, with the codec.
        script (`str`): Text with speaker tags.
        voices (`Mapping[str, Voice]` or `Voice`, *optional*): Voice for some or all speaker tags; or one voice
            whose transcript has the tags of several speakers.
        chunk_length_s (`tuple[float, float]`, defaults to `(5.0, 15.0)`): Shortest and longest chunk in
            seconds of `estimate_seconds`, which may be off by a third: generated chunks last 5 to 20 s. A script that
            fits into the longest is one chunk. Otherwise a chunk takes at most half of a call's limit (positions of the
            model and `max_length` of the checkpoint), and its prompt the other half; if that is less than the longest,
            both lengths are reduced.
        language (`str`, defaults to `"en"`): Language for splitting sentences.
        closing_tag (`bool`, defaults to `False`): Whether each chunk ends with the tag of its second-to-last speaker,
            which nari-labs recommends against truncated ends.
        folder (`str` or `os.PathLike`, *optional*): Folder for the codes of finished chunks. The same dialogue with the
            same folder resumes after an interruption.
        seed (`int`, *optional*): Seed of the sampling; random, or that of the folder, unless given.
        max_seconds (`float`, *optional*): Limit of the whole dialogue.
        options (`dict`, *optional*): Of `generate`.
        engine (`Engine`, *optional*): Computes the chunks in one batch with other calls.
        alignment_heads (`Sequence[Sequence[int]]`, *optional*): Heads to find the times of words by, see
            `Dia.alignment_heads`; no times unless given.

    Attributes:
        issues (`list[str]`): Probable mistakes in the script, with their places; `Dia.dialogue` warns of them.
        prefix (`str`): Tags at the beginning of the script that are no speaker's, such as `[nl]`; each chunk begins
            with them.
        chunks (`list[list[Turn]]`): The turns of each chunk.
        expected_seconds (`list[float]`): Duration of each chunk by `estimate_seconds`.
        most_frames (`int`): Frames at which one call of the model is cut.
        seed (`int`): Seed in use.
        num_frames (`list[int]`): Frames of each chunk that the last call of `stream` or `generate` has generated or
            loaded.
        timeline (`Timeline`, *optional*): With `alignment_heads`, the times of the words of these chunks.

    Class attributes:
        is_open: Whether further chunks can come.
        min_prompt_seconds: If above 0, a speaker's first chunks, of these seconds together, are the prompt of all
            later ones, instead of the last chunk: the chunks are short, and one that goes wrong changes no other.

    Raises:
        ValueError: If the script is empty, it or a transcript has control characters that mean a tag, `max_seconds` is
            shorter than a frame or not finite, a voice belongs to no speaker, to another codec or is too long, or the
            folder has another dialogue.
    """

    is_open = False
    min_prompt_seconds = 0.0

    def __init__(
        self,
        model: DiaForConditionalGeneration,
        processor: DiaProcessor,
        script: str,
        voices: Mapping[str, Voice] | Voice | None = None,
        chunk_length_s: tuple[float, float] = (5.0, 15.0),
        language: str = "en",
        closing_tag: bool = False,
        folder: str | os.PathLike | None = None,
        seed: int | None = None,
        max_seconds: float | None = None,
        options: dict[str, Any] | None = None,
        engine: Engine | None = None,
        alignment_heads: Sequence[Sequence[int]] | None = None,
    ) -> None:
        self.model = model
        self.engine = engine
        self.processor = processor
        self.codec = processor.codec
        self.closing_tag = closing_tag
        self.options = options or {}
        self.max_seconds = max_seconds
        if max_seconds is not None and not math.isfinite(max_seconds * self.codec.frame_rate):
            raise ValueError(f"`max_seconds` is {max_seconds}; give a number of seconds, or none for no limit.")
        self.max_frames = None if max_seconds is None else int(max_seconds * self.codec.frame_rate)
        if self.max_frames == 0:
            raise ValueError(f"`max_seconds` is {max_seconds}; a frame lasts {1 / self.codec.frame_rate:.3f} s.")
        self.frame_limit = model.config.max_training_frames + 1
        self.max_prompt_frames = self.frame_limit // 2
        max_length = model.generation_config.max_length
        self.most_frames = self.frame_limit if max_length is None else min(self.frame_limit, max_length - 2)
        self.text_limit: int = processor.tokenizer.model_max_length

        self.speaker_tokens: list[str] = processor.tokenizer.speaker_tokens
        self.language_tokens: list[str] = processor.tokenizer.language_tokens
        self.prefix = ""
        self.issues: list[str] = []
        self.chunks: list[list[Turn]] = []
        self.expected_seconds: list[float] = []
        self.voices: dict[str, Segment] = {}
        self._read_script(script, voices, chunk_length_s, language)
        self.script = script
        self.alignment_heads = alignment_heads
        self.timeline: Timeline | None = None
        self.num_frames: list[int] = []
        self.seed = seed if seed is not None else secrets.randbits(31)
        self.folder = None if folder is None else ChunkFolder(folder, self.codec)
        if self.folder is not None:
            self._open_folder(voices, seed)

    def _read_script(
        self,
        script: str,
        voices: Mapping[str, Voice] | Voice | None,
        chunk_length_s: tuple[float, float],
        language: str,
    ) -> None:
        """Read script and voices into the attributes above."""
        tokenizer = self.processor.tokenizer
        self.prefix, spoken = split_prefix(script, self.language_tokens)
        self.issues = check_script(spoken, tokenizer.speaker_ids, tokenizer.language_ids)
        turns = parse_script(spoken, self.speaker_tokens)
        if not turns:
            raise ValueError("the script is empty; give a text, such as '[S1] Hello. [S2] Hi!'.")
        tokenizer.check_text(render(turns))  # without tabs and line ends, whose bytes a tag may have
        self.voices = self._take_voices(voices)
        self._add_chunks(self._plan(turns, chunk_length_s, language))

    def _add_chunks(self, chunks: list[list[Turn]]) -> None:
        self.expected_seconds += [
            sum(estimate_seconds(remove_tags(turn.text, self.language_tokens)) for turn in turns) for turns in chunks
        ]
        self.chunks += chunks  # last, as another thread may read it

    def _take_voices(self, voices: Mapping[str, Voice] | Voice | None) -> dict[str, Segment]:
        """Make one segment for each speaker; a voice of several speakers is the same segment for each."""
        if voices is None:
            return {}
        tags = self.speaker_tokens, self.language_tokens
        segments = {}
        if isinstance(voices, Voice) and len(speakers := voices.speakers_of(self.speaker_tokens)) < 2:
            voices = {speakers[0] if speakers else self.speaker_tokens[0]: voices}
        if isinstance(voices, Voice):
            whole = Segment(-1, parse_part(voices.transcript, *tags, self.prefix), voices.codes)
            segments = dict.fromkeys(speakers, whole)
        else:
            for order, (speaker, voice) in enumerate(voices.items(), start=-len(voices)):
                transcript = voice.transcript_as(speaker, self.speaker_tokens)
                segments[speaker] = Segment(order, parse_part(transcript, *tags, self.prefix), voice.codes)
        for speaker in segments:
            if speaker not in self.speaker_tokens:
                raise ValueError(f"a voice is given to {speaker!r}; the speakers are {', '.join(self.speaker_tokens)}.")
        for voice in [voices] if isinstance(voices, Voice) else voices.values():
            voice.check(self.codec)
            self.processor.tokenizer.check_text(voice.transcript)
            if len(voice.codes) > self.max_prompt_frames:
                raise ValueError(
                    f"{voice!r} is too long a prompt; this model takes {self.max_prompt_frames} frames, "
                    f"{self.max_prompt_frames / self.codec.frame_rate:.1f} s, at most."
                )
        return segments

    def _plan(self, turns: list[Turn], chunk_length_s: tuple[float, float], language: str) -> list[list[Turn]]:
        shortest, longest = chunk_length_s
        max_length = self.model.generation_config.max_length or self.model.config.decoder_config.max_position_embeddings
        in_one_go = min(self.frame_limit, max_length - self.model.config.max_delay) / self.codec.frame_rate
        voices = dict.fromkeys(self.voices.values())
        text_limit = self.text_limit - self.num_ids([turn for voice in voices for turn in voice.turns])
        seconds = sum(estimate_seconds(turn.text) for turn in turns)
        if seconds <= min(longest, in_one_go) and self.num_ids(turns) <= text_limit:
            return [turns]
        # Half of a call's limit is for the prompt; `plan_chunks` takes 2 s at least.
        limit = max(in_one_go / 2, 2.0)
        if longest > limit:
            shortest, longest = shortest * limit / longest, limit
        max_bytes = max(min(text_limit, self.text_limit // 2), 64)
        return plan_chunks(turns, longest, min(shortest, longest), max_bytes, language)

    def num_ids(self, turns: list[Turn]) -> int:
        """Count the token ids of the rendered turns: bytes, a tag counting as one."""
        return self.processor.tokenizer.count_ids(self.render(turns))

    def render(self, turns: list[Turn]) -> str:
        """Render turns with the tags of this dialogue."""
        return render(turns, self.closing_tag, self.prefix)

    # --- chunks in the folder ---

    def _open_folder(self, voices: Mapping[str, Voice] | Voice | None, seed: int | None) -> None:
        assert self.folder is not None
        held = {"": voices} if isinstance(voices, Voice) else dict(voices or {})
        content = {
            "script": self.script,
            "chunks": [render(turns) for turns in self.chunks],
            "closing_tag": self.closing_tag,
            "max_frames": self.max_frames,
            "options": {name: str(value) for name, value in sorted(self.options.items())},
            "voices": {tag: fingerprint_of_voice(voice) for tag, voice in held.items()},
            "model": str(self.model.name_or_path),
            "weights": fingerprint_of_model(self.model),
            "codec": self.codec.fingerprint,
        }
        self.seed = self.folder.open(content, seed, self.seed)

    @property
    def num_kept(self) -> int:
        """Number of chunks in the folder, which are not generated again."""
        return 0 if self.folder is None else sum(map(self.folder.has, range(len(self.chunks))))

    def remove_kept(self) -> None:
        """Remove this dialogue's files from the folder, and the folder if it is empty then."""
        if self.folder is not None:
            self.folder.remove()

    # --- generation ---

    def stream(
        self, first_chunk_frames: int = 1, chunk_frames: int = 64, verbose: bool = False
    ) -> Generator[np.ndarray, None, None]:
        """Generate speech, and yield it during generation.

        Args:
            first_chunk_frames, chunk_frames (`int`): See `DiaAudioStreamer`.
            verbose (`bool`, defaults to `False`): Whether to show a progress bar, in seconds of audio.

        Yields:
            `np.ndarray` of shape `[N]`, float32.

        Raises:
            DialogueError: If a chunk fails, after the audio before it was yielded.

        Warns:
            SpeechWarning: Once, if the whole or a chunk is empty, silent, cut at a limit, or much shorter or longer
                than `estimate_seconds`.
        """
        clip, run = self.codec.stream(), DialogueRun(self)
        next_frames, frame_rate = first_chunk_frames, self.codec.frame_rate
        self.num_frames = run.num_frames
        if self.alignment_heads is not None:
            self.timeline = Timeline(self.script, self.speaker_tokens, frame_rate, self.language_tokens)
        heard = SpeechStats(self.codec.sampling_rate)
        max_seconds = None if self.max_frames is None else self.max_frames / frame_rate

        def ready(is_last: bool = False) -> Iterator[np.ndarray]:
            nonlocal next_frames
            if is_last:
                clip.close()
            while clip.num_ready >= (1 if is_last else next_frames):
                samples = clip.pop(min(next_frames, clip.num_ready)).numpy()
                heard.add(samples)
                yield samples
                next_frames = min(2 * next_frames, chunk_frames)

        with spoken_bar(max_seconds, is_shown=verbose) as bar:
            while not run.is_complete:
                if len(self.chunks) > 1:
                    bar.set_description_str(f"speaking, chunk {run.index + 1} of {len(self.chunks)}")
                codes = None if self.folder is None else self.folder.load(run.index)
                weights = torch.zeros(0, 0)
                if codes is not None:
                    clip.push(codes)
                    if self.timeline is not None:
                        weights = run.attend(codes)
                    bar.update(len(codes) / frame_rate)
                    yield from ready()
                else:
                    frames = [torch.zeros(0, self.codec.num_codebooks, dtype=torch.long)]
                    try:
                        streamer = DiaCodesStreamer(self.model.config, first_chunk_frames=1, chunk_frames=1)
                        with closing(streamer.listen(self.model.generate, **run.next_call())) as spoken:
                            for frame in spoken:
                                frames.append(frame)
                                clip.push(frame)
                                bar.update(len(frame) / frame_rate)
                                yield from ready()
                    except Exception as error:
                        yield from ready(is_last=True)
                        advice = ""
                        if self.folder is not None and self.num_kept > 0:
                            advice = f". Those before it are kept in {str(self.folder.path)!r}."
                        raise DialogueError(
                            f"chunk {run.index + 1} of {len(self.chunks)} failed: {error}{advice}"
                        ) from error
                    codes, weights = torch.cat(frames), streamer.alignment.take()
                    if self.folder is not None:
                        self.folder.save(run.index, codes)
                if self.timeline is not None:
                    self.timeline.add(*run.next_texts(), weights[: len(codes)])
                run.add(codes)
            yield from ready(is_last=True)
        tell(run.find_doubts(heard), stacklevel=2)

    def generate(self, verbose: bool = False) -> np.ndarray:
        """Generate the whole dialogue.

        Args:
            verbose (`bool`, defaults to `False`): Whether to show a progress bar, in seconds of audio.

        Returns:
            `np.ndarray` of shape `[N]`, float32.

        Raises:
            DialogueError: If a chunk fails; its `waveform` is the audio before.
        """
        parts = [np.zeros(0, dtype=np.float32)]
        try:
            for part in self.stream(verbose=verbose):
                parts.append(part)  # one by one, to keep those before an error
        except DialogueError as error:
            error.waveform = np.concatenate(parts)
            raise
        return np.concatenate(parts)
