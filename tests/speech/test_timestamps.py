"""Times of words and characters in generated speech."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dia_hf import Dia, DiaTokenizer
from dia_hf.speech import Voice
from dia_hf.speech.script import parse_script, render
from dia_hf.speech.timestamps import Timeline

TAGS = ["[S1]", "[S2]", "[nl]"]
TEXT = "[S1] Hello, I am Dia. [S2] Good morning, father. One two three."


@pytest.fixture(scope="module")
def dia():
    return Dia.from_pretrained()


def weights_of(path, num_bytes):
    return torch.nn.functional.one_hot(torch.tensor(path), num_bytes).float()


def sounding(waveform, dia):
    """Whether each frame sounds."""
    hop = dia.processor.codec.hop_length
    frames = waveform[: len(waveform) // hop * hop].reshape(-1, hop)
    return np.sqrt((frames**2).mean(-1)) > 0.01


def test_words_are_where_the_sound_is(dia):
    """Times were those of other frames, such as of the delayed channels, or counted the beginning of speech."""
    waveform, words = dia.generate(TEXT, temperature=0, return_timestamps="word")
    sounds, rate = sounding(waveform, dia), dia.processor.codec.frame_rate
    assert [word.text for word in words] == [word for word in TEXT.split() if word not in TAGS]
    edges = np.flatnonzero(np.diff(np.concatenate([[False], sounds, [False]]).astype(int)))
    for before, word in itertools.pairwise(words):
        assert before.start < before.end <= word.start
        if before.text[-1] in ".,":  # a pause of the voice follows
            end, begin = before.end * rate, word.start * rate
            assert np.abs(edges - end).min() <= 4
            assert np.abs(edges - begin).min() <= 3
    assert words[-1].end <= len(waveform) / dia.sampling_rate


def test_speech_is_the_same_with_timestamps(dia):
    """Recording changed the draws."""
    expected = dia.generate(TEXT, seed=3)
    waveform, codes, words = dia.generate(TEXT, seed=3, return_codes=True, return_timestamps="word")
    assert np.array_equal(waveform, expected)
    assert len(codes) == len(waveform) // dia.processor.codec.hop_length
    assert words


def test_characters_make_up_the_words(dia):
    """Times of characters and of words were found by different rules."""
    _, words = dia.generate(TEXT, seed=3, return_timestamps="word")
    _, characters = dia.generate(TEXT, seed=3, return_timestamps="char")
    by_place = {character.start_char: character for character in characters}
    for word in words:
        own = [by_place[place] for place in range(word.start_char, word.end_char)]
        assert "".join(character.text for character in own) == word.text == TEXT[word.start_char : word.end_char]
        voiced = [character for character in own if character.text.isalnum()]
        assert (word.start, word.end) == (voiced[0].start, voiced[-1].end)
        assert {character.speaker for character in own} == {word.speaker}


def test_a_batch_has_the_times_of_each_text(dia):
    """Texts of a batch had the times of another one, or those of its padding."""
    texts = [TEXT, "[S2] Welcome, Dia."]
    _, together = dia.generate(texts, seed=[1, 2], return_timestamps="word")
    for text, seed, words in zip(texts, (1, 2), together, strict=True):
        assert words == dia.generate(text, seed=seed, return_timestamps="word")[1]


def test_times_begin_after_a_voice(dia):
    """The words of a voice's transcript were among those of the text, or its frames before them."""
    _, codes = dia.generate("[S1] One two three four.", temperature=0, return_codes=True)
    codec = dia.processor.codec
    voice = Voice(codes, "[S1] One two three four.", codec.fingerprint, codec.sampling_rate, codec.hop_length)
    text = "[S1] Hello, I am Dia."
    waveform, words = dia.generate(text, voice=voice, temperature=0, return_timestamps="word")
    assert [word.text for word in words] == text.split()[1:]
    assert all(text[word.start_char : word.end_char] == word.text for word in words)
    assert 0 <= words[0].start < 0.3
    assert words[-1].end <= len(waveform) / dia.sampling_rate
    # The same prompt without a voice: its transcript is a part of the text, and has no time.
    whole = f"{voice.transcript} {text[5:]}"
    _, of_prompt = dia.generate(whole, audio_prompt=codes, temperature=0, return_timestamps="word")
    assert [word.text for word in of_prompt][-4:] == text.split()[1:]
    assert len(of_prompt) <= 5  # the last word of the prompt may reach into the first new frame


def test_words_that_were_cut_have_no_time(dia):
    """Words that were never spoken had the time of the end."""
    _, words = dia.generate(TEXT, temperature=0, max_seconds=1.2, return_timestamps="word")
    assert 1 <= len(words) <= 4
    assert words[0].text == "Hello,"


@pytest.mark.filterwarnings("ignore::dia_hf.speech.SpeechWarning")
@pytest.mark.parametrize("unit", ["word", "char"])
def test_marks_that_were_cut_have_no_time(dia, unit):
    """Dashes and points after the end of speech that was cut were spoken at its last moment, one after the other."""
    text = "[S1] Good morning, father. - [S2] One two three, four - five ... six. [S1] - Hello."
    for seconds in (0.6, 1.2):
        options = {"temperature": 0, "max_seconds": seconds, "return_timestamps": unit}
        _, found = dia.generate(text, **options)
        streamed = [one for _, times in dia.stream(text, **options) for one in times]
        assert found and streamed == found
        assert found[-1].end_char <= text.index(" -")
    _, found = dia.generate(text, temperature=0, return_timestamps="word")
    assert [word.text for word in found] == [word for word in text.split() if word not in ("[S1]", "[S2]")]


@pytest.mark.parametrize(
    "text", ["[S1] The children went to bed before the storm began", "[S2] Where did you put the garden keys."]
)
def test_the_last_word_has_a_time(dia, text):
    """In the silence after it the heads look at the space before the last word, which got no time."""
    waveform, words = dia.generate(text, temperature=0, return_timestamps="word")
    assert [word.text for word in words] == text.split()[1:]
    last = np.flatnonzero(sounding(waveform, dia))[-1] / dia.processor.codec.frame_rate
    assert last - 0.15 <= words[-1].end <= (last + 0.15 if text.endswith(".") else len(waveform) / dia.sampling_rate)
    assert words[-1].end - words[-1].start > 0.1


def test_silence_before_the_first_word_is_not_its_own():
    """A sentence that begins with silence had its first word from 0 s on."""
    timeline = Timeline("[S1] ab", TAGS, 10)
    timeline.add("[S1] ab", "[S1] ab", weights_of([1, 1, 1, 2, 3, 3], 4))
    assert [(word.start, word.end) for word in timeline.words] == [(0.3, 0.6)]


def test_a_vowel_sign_belongs_to_its_word():
    """Vowel signs, which are no letters in Unicode, were pauses: a word ended before its last one."""
    text = "[S1] \u0928\u092e\u0938\u094d\u0924\u0947"  # "namaste"; its last character is a vowel sign
    timeline = Timeline(text, TAGS, 10)
    timeline.add(text, text, weights_of(range(20), 20))
    assert [(word.start, word.end) for word in timeline.words] == [(0.2, 2.0)]


SCRIPT = (
    "[S1] Hello, I am Dia. One two three four five six seven.\n[S2]  Good morning, father. "
    "Sunday, Monday, Tuesday, Wednesday.\n[S1] Nine ten eleven twelve. The cat and the dog."
)


@pytest.fixture(scope="module")
def spoken(dia):
    dialogue = dia.dialogue(SCRIPT, seed=1, chunk_length_s=(2.0, 4.0), temperature=0, timestamps=True)
    assert len(dialogue.chunks) > 2
    return dialogue.generate(), dialogue


def test_a_dialogue_has_the_times_of_its_chunks(dia, spoken):
    """Times of a chunk were counted from its own beginning, or its prompt's words were taken for its own."""
    waveform, dialogue = spoken
    words = dialogue.timeline.words
    assert [word.text for word in words] == [word for word in SCRIPT.split() if word not in TAGS]
    assert all(SCRIPT[word.start_char : word.end_char] == word.text for word in words)
    assert dialogue.timeline.num_frames == len(waveform) // dia.processor.codec.hop_length
    sounds, rate = sounding(waveform, dia), dia.processor.codec.frame_rate
    edges = np.flatnonzero(np.diff(np.concatenate([[False], sounds, [False]]).astype(int)))
    for before, word in itertools.pairwise(words):
        assert before.end <= word.start
        if before.text[-1] in ".,":
            assert np.abs(edges - before.end * rate).min() <= 0.2 * rate
    assert {word.text: word.speaker for word in words}["Sunday,"] == "[S2]"


def test_a_dialogue_sounds_the_same_with_times(dia, spoken):
    """Recording changed the chunks."""
    plain = dia.dialogue(SCRIPT, seed=1, chunk_length_s=(2.0, 4.0), temperature=0)
    assert np.array_equal(plain.generate(), spoken[0])
    assert plain.timeline is None


def test_a_resumed_dialogue_has_the_times_of_kept_chunks(dia, spoken, tmp_path):
    """Chunks of the run before had no time, and all later words that of earlier ones."""
    options = {"seed": 1, "chunk_length_s": (2.0, 4.0), "temperature": 0, "folder": tmp_path}
    dia.dialogue(SCRIPT, **options).generate()
    (tmp_path / "chunk-00002.safetensors").unlink()
    resumed = dia.dialogue(SCRIPT, **options, timestamps=True)
    assert np.array_equal(resumed.generate(), spoken[0])
    for mine, theirs in zip(resumed.timeline.words, spoken[1].timeline.words, strict=True):
        assert mine.text == theirs.text
        assert (mine.start, mine.end) == pytest.approx((theirs.start, theirs.end), abs=0.04)


def test_times_of_changed_audio():
    """Subtitles of a faster file ran behind it."""
    timeline = Timeline("[S1] ab cd", TAGS, 10)
    timeline.add("[S1] ab cd", "[S1] ab cd", weights_of([2, 2, 2, 3, 3, 5, 5, 6, 6, 6], 7))
    assert [(word.start, word.end) for word in timeline.words] == [(0, 0.5), (0.5, 1.0)]
    assert [(word.start, word.end) for word in timeline.shifted(-0.2, 0.5)] == [
        (0, pytest.approx(0.15)),
        (pytest.approx(0.15), pytest.approx(0.4)),
    ]


def test_an_unknown_kind_is_refused(dia):
    """`return_timestamps=True` returned no times."""
    with pytest.raises(ValueError, match="`return_timestamps` is True; give 'word' or 'char'"):
        dia.generate("[S1] Hello.", return_timestamps=True)


def test_heads_are_found_where_a_checkpoint_has_none(dia, monkeypatch):
    """A published checkpoint, which has no `alignment_heads`, was refused."""
    from dia_hf.speech import dia as module

    monkeypatch.setattr(module, "TEXTS", ["[S1] One two three four five.", "[S2] Hello, I am Dia."])
    kept = dia.model.generation_config.alignment_heads
    dia.model.generation_config.alignment_heads = None
    try:
        assert dia.alignment_heads()[0] in kept
        assert dia.model.generation_config.alignment_heads == dia.alignment_heads()
    finally:
        dia.model.generation_config.alignment_heads = kept


turns = st.lists(
    st.tuples(st.sampled_from(TAGS), st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)),
    min_size=1,
    max_size=5,
)


@given(turns=turns, spaces=st.sampled_from([" ", "\n", "  \t"]), data=st.data())
@settings(max_examples=150)
def test_offsets_are_exact_in_any_text(turns, spaces, data):
    """A character of several bytes, white space or a tag moved the places of those after it."""
    script = spaces.join(f"{tag}{spaces}{text}" for tag, text in turns)
    spoken = parse_script(script, TAGS)
    timeline = Timeline(script, TAGS, frame_rate=10)
    first = 0
    while first < len(spoken):  # in chunks, each after a prompt
        last = data.draw(st.integers(first + 1, len(spoken)))
        own, prompt = render(spoken[first:last]), "[S1] Ein Prömpt." * data.draw(st.integers(0, 1))
        text = f"{prompt} {own}".strip()
        ids = sum(1 if part in TAGS else len(part.encode()) for part in _split(text))
        timeline.add(text, own, weights_of(range(ids), ids))
        first = last
    assert "".join(character.text for character in timeline.characters) == "".join(
        part for part in _split(script) if part not in TAGS and not part.isspace()
    )
    before = 0.0
    for character in timeline.characters:
        assert script[character.start_char : character.end_char] == character.text
        assert before <= character.start <= character.end
        assert character.end - character.start > len(character.text.encode()) / 10 - 1e-9
        before = character.end
    for word in timeline.words:
        assert script[word.start_char : word.end_char] == word.text
        assert not any(map(str.isspace, word.text))


def test_a_language_is_no_speaker_and_has_no_time():
    """A tag of a language was a word of the subtitles, or the speaker of the words after it."""
    script = "[nl] [S1] Hoi. [en] Yes. [S2] Ja."
    timeline = Timeline(script, ["[S1]", "[S2]"], frame_rate=10, language_tokens=["[nl]", "[en]"])
    ids = len(DiaTokenizer(language_tokens=["[nl]", "[en]"])(script)["input_ids"])
    timeline.add(script, script, weights_of(range(ids), ids))
    assert [(word.text, word.speaker) for word in timeline.words] == [
        ("Hoi.", "[S1]"),
        ("Yes.", "[S1]"),
        ("Ja.", "[S2]"),
    ]


def _split(text):
    """Tags and characters."""
    parts, place = [], 0
    while place < len(text):
        tag = next((tag for tag in TAGS if text.startswith(tag, place)), text[place])
        parts.append(tag)
        place += len(tag)
    return parts
