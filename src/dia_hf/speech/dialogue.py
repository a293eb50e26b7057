"""Long-form generation: scripts of any length, generated in chunks and decoded as one clip.

Each chunk is prompted with the last chunk of every speaker, or with the speaker's voice, so that voices stay the same;
only those chunks are kept in memory. All chunks are decoded as one growing clip of the codec, so that there is no step
at a join and no fading is needed. Called by `Dia`.

Legend: T frames, C channels, N samples.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..atomic_write import atomic_write, is_leftover
from ..engine import Engine
from ..generation import DiaCodesStreamer, attend_to_text
from ..modeling_dia import DiaForConditionalGeneration
from ..processing_dia import DiaProcessor
from ..text_files import first_line, read_json, shortened
from .doubts import SpeechStats, find_doubt, tell
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

__all__ = [
    "Dialogue",
    "DialogueError",
    "DialogueRun",
    "fingerprint_of_model",
    "fingerprint_of_voice",
    "remove_chunks",
]


def remove_chunks(folder: Path) -> None:
    """Remove a dialogue's files from a folder, and the folder if it is empty then."""
    dialogue = folder / "dialogue.json"
    if dialogue.is_file():
        for file in [*folder.glob("chunk-?????.safetensors"), dialogue]:
            file.unlink(missing_ok=True)
        with suppress(OSError):
            folder.rmdir()


class DialogueError(RuntimeError):
    """Error in a chunk of a dialogue.

    Attributes:
        waveform (`np.ndarray` of shape `[N]`): Audio generated before, float32.
    """

    waveform: np.ndarray


# Factor by which a chunk may exceed its estimate; a prompt leaves room for that.
_PACE_RESERVE = 1.5


@dataclass(frozen=True, eq=False)
class _Segment:
    """Speech as a prompt for later chunks."""

    order: int  # voices: below 0; chunks: their index
    turns: list[Turn]
    codes: torch.Tensor


def _seed_of_chunk(seed: int, index: int, attempt: int = 0) -> int:
    """Derive a seed for each chunk and attempt; the first one has the dialogue's, as a single call would."""
    if index == attempt == 0:
        return seed
    name = f"{seed}/{index}/{attempt}" if attempt else f"{seed}/{index}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")


def fingerprint_of_model(model: torch.nn.Module) -> str:
    """Return a fingerprint of the weights: sixteen values of each, dtype and class. A name does not identify them."""
    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        digest.update(f"{name} {type(weight.data).__name__} {weight.dtype} {tuple(weight.shape)}".encode())
        if type(weight.data) is torch.Tensor:  # not quantized
            values = weight.detach().flatten()[:: max(1, weight.numel() // 16)][:16]
            digest.update(values.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def fingerprint_of_voice(voice: Voice) -> str:
    """Return a fingerprint of a voice: its codes and its transcript."""
    return hashlib.sha256(voice.codes.numpy().tobytes() + voice.transcript.encode()).hexdigest()[:16]


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
        self.voices: dict[str, _Segment] = {}
        self._read_script(script, voices, chunk_length_s, language)
        self.script = script
        self.alignment_heads = alignment_heads
        self.timeline: Timeline | None = None
        self.num_frames: list[int] = []
        self.seed = seed if seed is not None else secrets.randbits(31)
        self.folder = None if folder is None else Path(folder)
        if self.folder is not None:
            self._open_folder(script, voices, seed)

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

    def _take_voices(self, voices: Mapping[str, Voice] | Voice | None) -> dict[str, _Segment]:
        """Make one segment for each speaker; a voice of several speakers is the same segment for each."""
        if voices is None:
            return {}
        tags = self.speaker_tokens, self.language_tokens
        segments = {}
        if isinstance(voices, Voice) and len(speakers := voices.speakers_of(self.speaker_tokens)) < 2:
            voices = {speakers[0] if speakers else self.speaker_tokens[0]: voices}
        if isinstance(voices, Voice):
            whole = _Segment(-1, parse_part(voices.transcript, *tags, self.prefix), voices.codes)
            segments = dict.fromkeys(speakers, whole)
        else:
            for order, (speaker, voice) in enumerate(voices.items(), start=-len(voices)):
                transcript = voice.transcript_as(speaker, self.speaker_tokens)
                segments[speaker] = _Segment(order, parse_part(transcript, *tags, self.prefix), voice.codes)
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

    def _open_folder(self, script: str, voices: Mapping[str, Voice] | Voice | None, seed: int | None) -> None:
        assert self.folder is not None
        held = {"": voices} if isinstance(voices, Voice) else dict(voices or {})
        dialogue = {
            "script": script,
            "chunks": [render(turns) for turns in self.chunks],
            "closing_tag": self.closing_tag,
            "max_frames": self.max_frames,
            "options": {name: str(value) for name, value in sorted(self.options.items())},
            "voices": {tag: fingerprint_of_voice(voice) for tag, voice in held.items()},
            "model": str(self.model.name_or_path),
            "weights": fingerprint_of_model(self.model),
            "codec": self.codec.fingerprint,
        }
        file = self.folder / "dialogue.json"
        if file.exists():
            before = read_json(file)
            if not isinstance(before.get("seed"), int):
                raise ValueError(
                    f"{str(file)!r} has the `seed` {shortened(before.get('seed'))}; remove the folder to begin anew."
                )
            changed = [name for name in dialogue if before.get(name) != dialogue[name]]
            if seed is not None and before.get("seed") != seed:
                changed.append("seed")
            if changed:
                raise ValueError(
                    f"{str(self.folder)!r} holds a dialogue that differs in {', '.join(changed)}; choose another "
                    "folder, or remove this one (`dia-hf generate --force` does so) to begin anew."
                )
            self.seed = before["seed"]
        else:
            if self.folder.is_dir() and not all(map(is_leftover, self.folder.iterdir())):
                raise ValueError(
                    f"{str(self.folder)!r} is not empty and holds no dialogue; its files could be taken for chunks, "
                    "and be removed. Choose another folder, or empty it."
                )
            self.folder.mkdir(parents=True, exist_ok=True)
            text = json.dumps(dialogue | {"seed": self.seed}, indent=1, ensure_ascii=False)
            with atomic_write(file) as beside:
                beside.write_text(text, "utf-8")

    @property
    def num_kept(self) -> int:
        """Number of chunks in the folder, which are not generated again."""
        files = (self._chunk_file(index) for index in range(len(self.chunks)))
        return sum(file is not None and file.exists() for file in files)

    def remove_kept(self) -> None:
        """Remove this dialogue's files from the folder, and the folder if it is empty then."""
        if self.folder is not None:
            remove_chunks(self.folder)

    def _chunk_file(self, index: int) -> Path | None:
        return None if self.folder is None else self.folder / f"chunk-{index + 1:05}.safetensors"

    def _load_chunk(self, index: int) -> torch.Tensor | None:
        file = self._chunk_file(index)
        if file is None or not file.exists():
            return None
        try:
            with safe_open(file, "pt") as tensors:
                codes = tensors.get_tensor("codes")
            shape, is_code = tuple(codes.shape), codes.dtype == torch.int16
            if not is_code or codes.ndim != 2 or shape[1] != self.codec.num_codebooks:
                raise ValueError(f"{codes.dtype} of shape {shape}, and no codes of {self.codec.num_codebooks} channels")
            if codes.numel() and not 0 <= codes.min() <= codes.max() < self.codec.codebook_size:
                raise ValueError(f"codes from {codes.min()} to {codes.max()}; there are {self.codec.codebook_size}")
        except (SafetensorError, ValueError, OSError) as error:
            raise ValueError(
                f"{str(file)!r} is damaged ({first_line(error)}); remove it to generate it again."
            ) from error
        return codes.long()

    def _save_chunk(self, index: int, codes: torch.Tensor) -> None:
        if (file := self._chunk_file(index)) is not None:
            with atomic_write(file) as beside:
                beside.write_bytes(save({"codes": codes.to(torch.int16)}))

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
                codes = self._load_chunk(run.index)
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
                        is_kept = self.folder is not None and self.num_kept > 0
                        advice = f". Those before it are kept in {str(self.folder)!r}." if is_kept else ""
                        raise DialogueError(
                            f"chunk {run.index + 1} of {len(self.chunks)} failed: {error}{advice}"
                        ) from error
                    codes, weights = torch.cat(frames), streamer.alignment.take()
                    self._save_chunk(run.index, codes)
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


class DialogueRun:
    """One pass over the chunks of a dialogue: what has been generated, and the next call of `generate()`.

    Args:
        dialogue (`Dialogue`): The chunks.

    Attributes:
        num_frames (`list[int]`): Frames of each chunk that has been added.
        is_cut (`bool`): Whether the dialogue's `max_seconds` has cut it.
    """

    def __init__(self, dialogue: Dialogue) -> None:
        self.dialogue = dialogue
        self.num_frames: list[int] = []
        self.is_cut = False
        self._prompts: dict[str, list[_Segment]] = {}  # of each speaker, from what was generated
        self._has_warned = False

    @property
    def index(self) -> int:
        """Index of the next chunk."""
        return len(self.num_frames)

    @property
    def has_next(self) -> bool:
        """Whether the next chunk is there."""
        return self.index < len(self.dialogue.chunks)

    @property
    def is_complete(self) -> bool:
        """Whether no chunk is left to generate, or no time for it."""
        is_open = self.dialogue.is_open  # before the chunks, which another thread may add
        if self.index == len(self.dialogue.chunks) and not is_open:
            return True
        left = self._frames_left()
        self.is_cut = self.is_cut or (left is not None and left <= 0)
        return self.is_cut

    def _frames_left(self) -> int | None:
        limit = self.dialogue.max_frames
        return None if limit is None else limit - sum(self.num_frames)

    def next_call(self, attempt: int = 0) -> dict[str, Any]:
        """Make the arguments of `generate()` for the next chunk.

        Args:
            attempt (`int`, defaults to 0): Number of earlier attempts at this chunk; each has another seed.
        """
        dialogue = self.dialogue
        model, processor = dialogue.model, dialogue.processor
        text, prompt = self.next_input()
        inputs = processor(text=[text], audio=[prompt]).to(model.device)
        options, max_frames = dict(dialogue.options), self._frames_left()
        if max_frames is not None or prompt is not None:
            # `max_length` of the checkpoint limits new frames; the positions limit prompt and new frames together.
            room = dialogue.frame_limit - 1 - (0 if prompt is None else len(prompt))
            limits = [room, max_frames, model.generation_config.max_length]
            num_frames = min(limit for limit in limits if limit is not None)
            options["max_new_tokens"] = model.config.steps_for_frames(num_frames)
        seed = _seed_of_chunk(dialogue.seed, self.index, attempt)
        generator = torch.Generator(model.device).manual_seed(seed)
        if dialogue.alignment_heads is not None:
            options |= {"return_alignment": True, "alignment_heads": dialogue.alignment_heads}
        return {**inputs, **options, "generator": generator, "engine": dialogue.engine}

    def next_input(self) -> tuple[str, torch.Tensor | None]:
        """Return the text that the model reads for the next chunk, transcripts of its prompt first, and the prompt."""
        turns, prompt = self._choose_prompt()
        return self.dialogue.render([*turns, *self.dialogue.chunks[self.index]]), prompt

    def next_texts(self) -> tuple[str, str]:
        """Return the text that the model reads for the next chunk, and the chunk's own text at its end."""
        return self.next_input()[0], self.dialogue.render(self.dialogue.chunks[self.index])

    def attend(self, codes: torch.Tensor) -> torch.Tensor:
        """Return the mean weights `[T, S]` of the alignment heads for codes `[T, C]` of the next chunk."""
        dialogue, (text, prompt) = self.dialogue, self.next_input()
        assert dialogue.alignment_heads is not None
        whole = codes if prompt is None else torch.cat([prompt, codes])
        inputs = dialogue.processor(text=[text], audio=[whole])
        frames = inputs["decoder_input_ids"]
        weights = attend_to_text(dialogue.model, inputs["input_ids"], frames, dialogue.alignment_heads)
        return weights[0, len(whole) - len(codes) : len(whole)].mean(1).cpu()

    def _choose_prompt(self) -> tuple[list[Turn], torch.Tensor | None]:
        """Choose the last segment of each speaker, the chunk's own speakers first, as far as there is room."""
        dialogue, index = self.dialogue, self.index
        turns, frame_rate = dialogue.chunks[index], dialogue.codec.frame_rate
        seconds = _PACE_RESERVE * dialogue.expected_seconds[index] + 1
        max_frames = max(dialogue.max_prompt_frames, dialogue.frame_limit - int(seconds * frame_rate))
        chosen: list[_Segment] = []
        speakers = dict.fromkeys([*(turn.speaker for turn in turns), *dialogue.voices, *self._prompts])
        for speaker, segment in [(one, segment) for one in speakers for segment in self._segments_of(one)]:
            if segment in chosen:
                continue
            trial = sorted([*chosen, segment], key=lambda segment: segment.order)
            num_frames = sum(len(segment.codes) for segment in trial)
            num_ids = dialogue.num_ids([*(turn for segment in trial for turn in segment.turns), *turns])
            if num_frames <= max_frames and num_ids <= dialogue.text_limit:
                chosen = trial
            elif not self._has_warned and any(turn.speaker == speaker for turn in turns):
                self._has_warned = True
                warnings.warn(
                    f"chunk {index + 1}: what {speaker} said last ({len(segment.codes) / frame_rate:.1f} s) "
                    "does not fit into the prompt, and the voice may change; a voice for each speaker prevents that. "
                    "Shown once a dialogue.",
                    stacklevel=4,
                )
        if not chosen:
            return [], None
        turns = [turn for segment in chosen for turn in segment.turns]
        return turns, torch.cat([segment.codes for segment in chosen])

    def _segments_of(self, speaker: str) -> list[_Segment]:
        """Return the speech of a speaker to prompt with, the most important first."""
        voice = self.dialogue.voices.get(speaker)
        return [voice] if voice is not None else self._prompts.get(speaker, [])

    def kept_voices(self) -> dict[str, Voice]:
        """Return the speech of each speaker to prompt with, after its voice if that is short, for another dialogue.

        A voice of `min_prompt_seconds` or more is returned as it is, so that it does not change from one to the next.
        """
        dialogue, codec, voices = self.dialogue, self.dialogue.codec, {}
        for speaker, segments in self._prompts.items():
            given = dialogue.voices.get(speaker)
            if given is not None:
                is_long = len(given.codes) >= dialogue.min_prompt_seconds * codec.frame_rate
                segments = [given] if is_long else [given, *segments]
            segments = [one for one in segments if {turn.speaker for turn in one.turns} == {speaker}]
            while sum(len(one.codes) for one in segments) > dialogue.max_prompt_frames:
                segments = segments[1:]
            if segments:
                transcript = render([turn for one in segments for turn in one.turns])
                codes = torch.cat([one.codes for one in segments])
                voices[speaker] = Voice(codes, transcript, codec.fingerprint, codec.sampling_rate, codec.hop_length)
        return voices

    def would_cut(self, num_frames: int) -> bool:
        """Return whether a next chunk of this length would be cut by the dialogue's `max_seconds`."""
        left = self._frames_left()
        return left is not None and num_frames >= left

    def add(self, codes: torch.Tensor) -> None:
        """Add the codes `[T, C]` of the next chunk."""
        turns = self.dialogue.chunks[self.index]
        self.is_cut = self.is_cut or self.would_cut(len(codes))
        if len(codes) > 0:
            segment = _Segment(self.index, turns, codes)
            needed = self.dialogue.min_prompt_seconds * self.dialogue.codec.frame_rate
            for speaker in {turn.speaker for turn in turns}:
                before = self._prompts.get(speaker, [])
                if needed == 0:
                    self._prompts[speaker] = [segment]
                elif sum(len(one.codes) for one in before) < needed:
                    self._prompts[speaker] = [*before, segment]
        self.num_frames.append(len(codes))

    def find_chunk_doubt(self, index: int, num_frames: int) -> str | None:
        """Describe why the length of a chunk is implausible for its text; see `find_doubt`."""
        one = SpeechStats(self.dialogue.codec.sampling_rate)
        one.seconds = one.sounding = num_frames / self.dialogue.codec.frame_rate
        cut_at = "the limit of one call of the model" if num_frames >= self.dialogue.most_frames else None
        return find_doubt(one, self.dialogue.expected_seconds[index], cut_at=cut_at)

    def find_doubts(self, heard: SpeechStats) -> list[str]:
        """Describe why the whole, or chunks, are implausible for their text.

        Args:
            heard (`SpeechStats`): Of the whole.
        """
        dialogue, number = self.dialogue, len(self.dialogue.chunks)
        limit = None
        if self.is_cut and dialogue.max_seconds is not None:
            limit = f"`max_seconds` ({dialogue.max_seconds:g})"
            if number > 1:
                limit += f": {len(self.num_frames)} of {number} chunks"
        elif number == 1 and sum(self.num_frames) >= dialogue.most_frames:
            limit = "the limit of one call of the model"
        if number == 0:
            return []
        if (doubt := find_doubt(heard, sum(dialogue.expected_seconds), cut_at=limit)) is not None:
            return [doubt]
        doubts = (self.find_chunk_doubt(index, num_frames) for index, num_frames in enumerate(self.num_frames))
        return [f"chunk {index + 1} of {number}: {doubt}" for index, doubt in enumerate(doubts) if doubt is not None]
