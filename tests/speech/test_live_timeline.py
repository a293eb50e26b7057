"""Times of words while they are spoken."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dia_hf import Dia
from dia_hf.speech import SpeechEngine, SpeechRequest, SpeechWarning, TextStream, Voice
from dia_hf.speech.live_timeline import LiveTimeline
from dia_hf.speech.script import parse_script, render
from dia_hf.speech.timestamps import Timeline
from same_audio import assert_same_audio

TAGS = ["[S1]", "[S2]", "[nl]"]
TEXT = "[S1] Hello, I am Dia. [S2] Good morning, father. One two three."
SCRIPT = (
    "[S1] Hello, I am Dia. One two three four five six seven.\n[S2]  Good morning, father. "
    "Sunday, Monday, Tuesday, Wednesday.\n[S1] I have a cat and a dog. It is late."
)


@pytest.fixture(scope="module")
def dia():
    return Dia.from_pretrained()


@pytest.fixture(scope="module")
def engine(dia):
    with SpeechEngine(dia, max_batch_size=4) as engine:
        yield engine


def weights_of(path, num_bytes):
    return torch.nn.functional.one_hot(torch.tensor(path), num_bytes).float()


def gather(handle, sampling_rate):
    """Read a request: its audio, and its words, none of which ends after the audio read with it."""
    chunks, words = [], []
    for chunk in handle:
        chunks.append(chunk)
        words += handle.take_times()
        assert all(round(word.end * sampling_rate) <= sum(map(len, chunks)) for word in words)
    return np.concatenate(chunks), words


def as_sent(words, script):
    """Assert that words are where they say in a script."""
    assert all(script[word.start_char : word.end_char] == word.text for word in words)
    assert all(before.end_char <= word.start_char for before, word in itertools.pairwise(words))
    return [word.text for word in words]


def spoken_words(script):
    return [word for word in script.split() if word not in TAGS]


# --- the stream of one call ---


@pytest.mark.parametrize("unit", ["word", "char"])
@pytest.mark.parametrize("frames", [(1, 64), (3, 3)])
def test_a_stream_has_the_words_of_each_chunk(dia, unit, frames):
    """A word came with a chunk before its sound or after it, or the audio changed."""
    expected, times = dia.generate(TEXT, seed=3, return_timestamps=unit)
    chunks, streamed, num_samples = [], [], 0
    options = {"first_chunk_frames": frames[0], "chunk_frames": frames[1], "return_timestamps": unit}
    for chunk, found in dia.stream(TEXT, seed=3, **options):
        assert all(num_samples < round(one.end * dia.sampling_rate) <= num_samples + len(chunk) for one in found)
        num_samples += len(chunk)
        chunks.append(chunk)
        streamed += found
    assert_same_audio(np.concatenate(chunks), expected)
    assert streamed == times


def test_times_of_streams_are_those_of_the_whole(dia):
    """The words of a stream had other times than those of the same call that is not streamed."""
    texts = ["[S1] One two three four five.", "[S2] Good evening. I have a dog and a cat."]
    num_equal, num_words = 0, 0
    for seed, text in enumerate(texts * 3):
        whole = dia.generate(text, seed=seed, return_timestamps="word")[1]
        streamed = [one for _, words in dia.stream(text, seed=seed, return_timestamps="word") for one in words]
        assert [word.text for word in streamed] == [word.text for word in whole]
        num_words += len(whole)
        num_equal += sum(mine == theirs for mine, theirs in zip(streamed, whole, strict=True))
    assert num_equal >= 0.95 * num_words  # 2 of 1,126 differ over many texts: benchmarks/results/word_times.md


def test_a_batch_of_streams(dia):
    """Texts of a batch had the words of another one."""
    texts, found = [TEXT, "[S2] Welcome, Dia."], ([], [])
    for _, times in dia.stream(texts, seed=[1, 2], return_timestamps="word"):
        for mine, words in zip(found, times, strict=True):
            mine += words
    for text, seed, words in zip(texts, (1, 2), found, strict=True):
        assert words == dia.generate(text, seed=seed, return_timestamps="word")[1]


def test_a_stream_with_a_voice(dia):
    """The transcript of a voice was among the words, or the words of an `audio_prompt` had times."""
    _, codes = dia.generate("[S1] One two three four.", temperature=0, return_codes=True)
    codec = dia.processor.codec
    voice = Voice(codes, "[S1] One two three four.", codec.fingerprint, codec.sampling_rate, codec.hop_length)
    text = "[S1] Hello, I am Dia."
    streamed = [one for _, words in dia.stream(text, voice=voice, seed=1, return_timestamps="word") for one in words]
    assert streamed == dia.generate(text, voice=voice, seed=1, return_timestamps="word")[1]
    whole = f"{voice.transcript} {text[5:]}"
    prompted = dia.stream(whole, audio_prompt=codes, seed=1, return_timestamps="word")
    words = [one for _, words in prompted for one in words]
    assert as_sent(words, whole) == spoken_words(text)
    assert words == dia.generate(whole, audio_prompt=codes, seed=1, return_timestamps="word")[1]
    both = dia.stream([whole, text], audio_prompt=[codes, None], seed=[1, 2], return_timestamps="word")
    assert [one for _, (first, _) in both for one in first] == words


def test_an_iterator_of_text(dia):
    """Words had the places of sentences with single spaces, and not those of the pieces."""
    pieces = ["Hello,  I am", " Dia. Wel", "come,\n\tDia. [S2]", "Good morning."]
    plain = list(dia.stream(iter(pieces), seed=1))
    timed = list(dia.stream(iter(pieces), seed=1, return_timestamps="word"))
    assert_same_audio(np.concatenate([chunk for chunk, _ in timed]), np.concatenate(plain))
    words, text = [one for _, words in timed for one in words], "".join(pieces)
    assert as_sent(words, text) == spoken_words(text.replace("]", "] "))
    assert [word.speaker for word in words] == ["[S1]"] * 6 + ["[S2]"] * 2


def test_a_warning_names_the_line_of_the_caller(dia):
    """A warning about a stream with times named a line of this package."""
    with pytest.warns(SpeechWarning, match="is cut at") as caught:
        for _ in dia.stream(TEXT, seed=1, max_seconds=0.5, return_timestamps="word"):
            pass
    assert [Path(warning.filename).name for warning in caught] == ["test_live_timeline.py"]


def test_an_unknown_unit_is_refused(dia):
    """`return_timestamps=True` returned no times."""
    with pytest.raises(ValueError, match="`return_timestamps` is True; give 'word' or 'char'"):
        dia.stream(TEXT, return_timestamps=True)


# --- the engine ---


@pytest.mark.parametrize("is_streamed", [True, False])
def test_requests_have_times_and_the_same_audio(dia, engine, is_streamed):
    """Recording changed the audio, requests of a batch had the words of others, or a long text those of one chunk."""
    texts = [TEXT, SCRIPT, "Welcome,  Dia. "]
    asked = [SpeechRequest(text, seed=3, is_streamed=is_streamed, temperature=0) for text in texts]
    plain = [gather(handle, dia.sampling_rate)[0] for handle in map(engine.submit, asked)]
    timed = [engine.submit(SpeechRequest(**{**vars(one), "timestamps": "word"})) for one in asked]
    also = engine.submit(asked[0])  # without times, in the same batch
    for text, handle, expected in zip(texts, timed, plain, strict=True):
        waveform, words = gather(handle, dia.sampling_rate)
        assert_same_audio(waveform, expected)
        assert words == handle.timeline.words and handle.timeline.script == text
        assert as_sent(words, text) == spoken_words(text)
        assert words[0].speaker == "[S1]"
    assert_same_audio(gather(also, dia.sampling_rate)[0], plain[0])
    assert also.take_times() == [] and also.timeline is None


def test_times_of_a_request_are_those_of_a_dialogue(dia, engine):
    """Chunks of a long text had the times of the chunk, and not of the whole."""
    options = {"seed": 1, "temperature": 0}
    _, words = gather(engine.submit(SpeechRequest(SCRIPT, timestamps="word", **options)), dia.sampling_rate)
    dialogue = dia.dialogue(SCRIPT, timestamps=True, **options)
    dialogue.generate()
    expected = dialogue.timeline.words
    assert len(words) == len(expected)
    assert sum(mine == theirs for mine, theirs in zip(words, expected, strict=True)) >= 0.95 * len(words)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"timestamps": "words"}, "`timestamps` is 'words'; give 'word' or 'char'"),
        ({"timestamps": "word", "script": "Hello, I am."}, "they may differ in tags and white space alone"),
        ({"timestamps": "word", "script": ""}, "they may differ in tags and white space alone"),
        (
            {"timestamps": "char", "script": TEXT.replace("Hello", "Hullo")},
            "they may differ in tags and white space alone",
        ),
    ],
)
def test_requests_for_times_of_another_text_are_refused(engine, fields, message):
    """An unknown unit was taken for characters, and the words of another text had the times of what was spoken."""
    with pytest.raises(ValueError, match=message):
        engine.submit(SpeechRequest(TEXT, **fields))
    script = TEXT.replace("[S1] ", " \n").replace(" [S2]", "\r\n[S2] ")
    request = SpeechRequest(TEXT, timestamps="word", script=script, temperature=0, max_seconds=1.5)
    _, words = gather(engine.submit(request), engine.dia.sampling_rate)
    assert as_sent(words, script)[:2] == ["Hello,", "I"]


def test_a_text_stream_has_times_of_what_was_written(dia, engine):
    """Times of later sentences counted from their own beginning; a sentence waited for the next one's words."""
    text = TextStream()
    handle = engine.submit(SpeechRequest(text, seed=7, timestamps="char"))
    text.write("  Hello,\n I am Dia. ")
    num_samples, times = 0, []
    while not handle.sentence_ends or num_samples < handle.sentence_ends[0]:
        num_samples += len(next(handle))
        times += handle.take_times()
    assert "".join(one.text for one in times) == "Hello,IamDia."
    text.write("[S2] Wel")
    text.write("come, Dia.")
    text.close()
    for _ in handle:
        times += handle.take_times()
    script = "  Hello,\n I am Dia. [S2] Welcome, Dia."
    assert handle.timeline.script == script
    assert "".join(as_sent(times, script)) == "".join(spoken_words(script))
    assert times[13].start * dia.sampling_rate >= handle.sentence_ends[0]
    assert {one.speaker for one in times[13:]} == {"[S2]"}


@pytest.mark.parametrize("is_streamed", [True, False])
def test_a_chunk_that_is_generated_again_has_the_times_of_the_last_attempt(dia, monkeypatch, is_streamed):
    """Words of a refused attempt were returned, too, and those after them had its frames."""
    from dia_hf.speech.dialogue_run import DialogueRun

    doubted = []

    def doubt(run, index, num_frames):
        doubted.append(index)
        return "too short" if doubted.count(index) == 1 else None

    monkeypatch.setattr(DialogueRun, "find_chunk_doubt", doubt)
    with SpeechEngine(dia, max_batch_size=1) as engine:
        handle = engine.submit(SpeechRequest(SCRIPT, timestamps="word", is_streamed=is_streamed))
        waveform, words = gather(handle, dia.sampling_rate)
    if not is_streamed:
        assert handle.num_retries == len(handle.sentences)
    assert as_sent(words, SCRIPT) == [word.text for word in handle.timeline.words]
    assert handle.timeline.num_frames == len(waveform) // dia.processor.codec.hop_length


def test_heads_are_found_once_for_all_threads(dia, monkeypatch):
    """Each of several first requests spoke the four sentences."""
    from concurrent.futures import ThreadPoolExecutor

    from dia_hf.speech import dia as module

    kept, calls = dia.model.generation_config.alignment_heads, []
    monkeypatch.setattr(module, "find_alignment_heads", lambda *args: calls.append(1) or kept)
    dia.model.generation_config.alignment_heads = None
    try:
        with ThreadPoolExecutor(4) as threads:
            assert all(found == kept for found in threads.map(lambda _: dia.alignment_heads(), range(8)))
    finally:
        dia.model.generation_config.alignment_heads = kept
    assert calls == [1]


# --- any text ---

turns = st.lists(
    st.tuples(st.sampled_from(TAGS), st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)),
    min_size=1,
    max_size=5,
)


def ids_of(text):
    """Ids of a text as the tokenizer counts them: bytes, a tag as one."""
    for tag in TAGS:
        text = text.replace(tag, "\x01")
    return len(text.encode())


@given(
    turns=turns,
    spaces=st.sampled_from([" ", "\n", "  \t"]),
    step=st.integers(1, 9),
    lag=st.sampled_from([0, 1, 3, 6, 30]),
    unit=st.sampled_from(["word", "char"]),
    data=st.data(),
)
@settings(max_examples=150, deadline=None)
def test_live_times_are_exact_in_any_text(turns, spaces, step, lag, unit, data):
    """Live times differed from those of the whole, or a character of several bytes moved the places after it."""
    parts = [f"{tag}{spaces}{text}{spaces}" for tag, text in turns]
    script = "".join(parts)
    whole = Timeline(script, TAGS, frame_rate=10)
    live = LiveTimeline("" if data.draw(st.booleans()) else script, TAGS, 10, lag, unit)
    is_growing, taken, prompt = live.script == "", [], "[S1] Ünd "
    for part in parts:
        if is_growing:
            live.append(part)
        spoken = parse_script(part, TAGS)
        if not spoken:
            continue
        own = render(spoken)
        text = prompt + own
        num_before, num_ids = ids_of(prompt), ids_of(text)
        path = sorted(data.draw(st.lists(st.integers(num_before, num_ids - 1), max_size=20)))
        weights = weights_of(path, num_ids) if path else torch.zeros(0, num_ids)
        whole.add(text, own, weights)
        live.begin(text, own)
        if data.draw(st.booleans()):  # an attempt that is taken back
            live.extend(weights[: len(weights) // 2])
            live.drop()
            live.begin(text, own)
        for begin in range(0, len(weights), step):
            live.extend(weights[begin : begin + step])
            taken += live.take(live.num_frames)
        live.end()
        taken += live.take(live.num_frames)
    taken += live.take(live.num_frames, is_last=True)
    assert live.script == script and live.num_frames == whole.num_frames
    assert len(live._starts) == len(live._ends) == len(live._limits)
    assert all(script[one.start_char : one.end_char] == one.text for one in taken)
    assert taken == sorted(taken, key=lambda one: one.start_char)
    found = live.words if unit == "word" else live.characters
    assert taken == found
    if lag == 30:
        assert found == (whole.words if unit == "word" else whole.characters)
