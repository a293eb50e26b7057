"""Text that comes in pieces: its sentences, and their speech."""

import asyncio
import copy
import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dia_hf import Dia, DiaTokenizer
from dia_hf.engine import EngineError
from dia_hf.engine.scheduler import FrameScheduler
from dia_hf.speech import SpeechEngine, SpeechRequest, SpeechWarning, TextStream, Voice
from dia_hf.speech.dialogue_run import DialogueRun
from dia_hf.speech.text_stream import SPLITS, SentenceSplitter, StreamedDialogue
from waiting import wait_for

FIRST, SECOND, THIRD = "Hello, I am Dia.", "Welcome, Dia.", "Yes, hello."
TEXT = f"{FIRST} {SECOND} [S2] {THIRD}"


def split(pieces, **options):
    splitter = SentenceSplitter(**options)
    return [sentence for piece in pieces for sentence in splitter.feed(piece)] + splitter.flush()


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Hello there. How are you?", ["Hello there.", "How are you?"]),
        ("Dr. Smith paid 3.14 dollars, e.g. in cash. Good.", ["Dr. Smith paid 3.14 dollars, e.g. in cash.", "Good."]),
        ('He said "Hi." She left!', ['He said "Hi."', "She left!"]),
        ("One\nline. Next\n\nparagraph", ["One line.", "Next", "paragraph"]),
        ("1. First. 2. Second. 42", ["1. First.", "2. Second.", "42"]),
        ("你好。“我是。”她说。", ["你好。", "“我是。”", "她说。"]),
        ("[S1] Hello [S2] Hi. (laughs) Yes", ["[S1] Hello", "[S2] Hi.", "(laughs) Yes"]),
        ("[nl] [S1] Dag. Nee.", ["[nl] [S1] Dag.", "Nee."]),
        ("A (short. or not.) word. And", ["A (short. or not.) word.", "And"]),
        ("Sorry :( never. Yes", ["Sorry :( never.", "Yes"]),
        ("Bye! … ", ["Bye!"]),
        (" \n", []),
    ],
)
def test_sentences(text, sentences):
    """An abbreviation or a number ended a sentence, a number was spoken alone, or a symbol without words."""
    assert split([text]) == sentences


def test_a_sentence_is_complete_at_its_space():
    """A sentence waited for the first word of the next one, or for the end of the text."""
    splitter = SentenceSplitter()
    assert splitter.feed("Hello there.") == [] and not splitter.is_empty
    assert splitter.feed(" ") == ["Hello there."] and splitter.is_empty
    assert splitter.feed("Dr. ") == []


def test_a_pause_after_the_end_of_a_sentence():
    """Text whose last sentence had no space after it was not spoken; or half a sentence was spoken after a pause."""
    splitter = SentenceSplitter()
    for text, settled in (
        ("Hello there.", ["Hello there."]),
        ("Hello", []),
        (" Mr.", []),
        (" X is in.", ["Hello Mr. X is in."]),
    ):
        assert splitter.feed(text) == [] and splitter.settle() == settled
    splitter.feed("1.")
    assert splitter.settle() == []
    whole = SentenceSplitter("none")
    assert whole.feed("Hello. ") == whole.settle() == [] and whole.flush() == ["Hello."]


def test_clauses():
    """A clause of a word was spoken alone, or none was found."""
    text = "Well, if it rains tomorrow, we stay here; else we go. Yes"
    assert split([text], split="clause") == ["Well, if it rains tomorrow,", "we stay here; else we go.", "Yes"]


def test_text_without_an_end_is_cut():
    """A list without punctuation was silent until its end."""
    splitter = SentenceSplitter()
    words = "item " * 100
    (first,) = splitter.feed(words)[:1]
    assert 200 < len(first) < 260 and first.endswith("item")
    (clause,) = SentenceSplitter().feed("some words, " + "item " * 50)[:1]
    assert clause == "some words,"


@pytest.mark.parametrize("text", ["7 " * 1000, "1. " * 1000, "5, 6, " * 400])
def test_numbers_without_an_end_are_cut(text):
    """Numbers, which have no letters, were one sentence to the end of the text, and took time by its square."""
    sentences = split([text])
    assert " ".join(sentences) == text.strip() and all(len(one) <= 210 for one in sentences)


def test_an_unknown_split():
    """A misspelled split was taken for the default."""
    with pytest.raises(ValueError, match="`split` is 'word'; give one of sentence, clause, none"):
        TextStream("word")


ALPHABET = st.sampled_from(
    ["Hello", "Dr", "1", ".", ". ", ", ", " ", "\n\n", "?", '"', "(", ")", "。", "[S1]", "[S2]", "é", "…"]
)


@given(st.lists(ALPHABET, max_size=40).map("".join), st.sampled_from(SPLITS), st.data())
def test_pieces_make_no_difference(text, how, data):
    """The sentences depended on how a model's tokens cut the text, or a character was lost."""
    ends = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[begin:end] for begin, end in zip([0, *ends], [*ends, len(text)], strict=True)]
    sentences = split(pieces, split=how)
    assert sentences == split([text], split=how)
    kept, whole = "".join("".join(sentences).split()), "".join(text.split())
    assert whole.startswith(kept) and not any(
        map(str.isalnum, whole[len(kept) :].replace("[S1]", "").replace("[S2]", ""))
    )


@pytest.fixture(scope="module")
def dia():
    dia = Dia.from_pretrained()
    dia.model.double()  # rounding depends on nothing then
    dia.processor.codec.model.double()
    return dia


@pytest.fixture
def engine(dia):
    with SpeechEngine(dia, max_batch_size=2) as engine:
        yield engine
        for handle in list(engine._handles):
            handle.cancel()


def hear(handle):
    return np.concatenate([np.zeros(0, np.float32), *handle])


def spoken(text, pieces):
    for piece in pieces:
        text.write(piece)
    text.close()
    return text


def test_the_first_sentence_sounds_before_the_second_is_written(dia, engine):
    """The audio waited for the text to be complete, or its last frames for the next sentence."""
    text = TextStream()
    handle = engine.submit(SpeechRequest(text, seed=1))
    text.write(f"{FIRST} ")
    wait_for(lambda: handle.sentence_ends)
    first = np.concatenate(handle.take())
    assert len(first) == handle.sentence_ends[0] and not handle.is_done
    np.testing.assert_allclose(first, dia.generate(f"[S1] {FIRST}", seed=1), rtol=0, atol=1e-6)
    text.write(SECOND)
    text.close()
    rest = hear(handle)
    assert handle.sentence_ends == [len(first), len(first) + len(rest)] and handle.finish_reason == "stop"
    assert handle.sentences == [FIRST, SECOND] and handle.num_text_ids > 20


def test_the_pace_of_the_text_makes_no_difference(engine):
    """With the same seed, the audio depended on when the words came."""
    at_once = hear(engine.submit(SpeechRequest(spoken(TextStream(), [TEXT]), seed=5)))
    text = TextStream()
    handle = engine.submit(SpeechRequest(text, seed=5))
    for number, end in enumerate((len(FIRST) + 1, len(FIRST) + len(SECOND) + 2, len(TEXT))):
        text.write(TEXT[text.num_characters : end])
        if number < 2:
            wait_for(lambda number=number: len(handle.sentence_ends) > number)
    text.close()
    np.testing.assert_allclose(hear(handle), at_once, rtol=0, atol=1e-6)


def test_sentences_are_prompted_with_those_before(engine, monkeypatch):
    """Each sentence was spoken by another voice; or a short one replaced the speech that made the voice."""
    prompts, call = [], DialogueRun.next_call

    def recorded(self, attempt=0):
        turns, codes = self._choose_prompt()
        prompts.append(([turn.text for turn in turns], 0 if codes is None else len(codes)))
        return call(self, attempt)

    monkeypatch.setattr(DialogueRun, "next_call", recorded)
    texts = ["It is late. ", "We should go home. ", "Come on. ", "[S2] I will stay. ", "[S1] Then good night."]
    handle = engine.submit(SpeechRequest(spoken(TextStream(), texts), seed=1))
    hear(handle)
    frames = handle._run.num_frames
    spoken_before = ["It is late.", "We should go home.", "Come on.", "I will stay."]
    assert [words for words, _ in prompts] == [spoken_before[:count] for count in range(5)]
    assert [number for _, number in prompts] == [sum(frames[:count]) for count in range(5)]


def test_the_language_is_that_of_the_beginning(dia):
    """The language was repeated within later sentences, or a speaker of its own."""
    processor = copy.copy(dia.processor)
    processor.tokenizer = DiaTokenizer(language_tokens={"[nl]": 14, "[en]": 3})
    pieces = ["[nl] Dat is goed. ", "[nl] [S2] Wat is dat? ", "[en] Is it? ", "Ja."]
    dialogue = StreamedDialogue(dia.model, processor, spoken(TextStream(), pieces))
    assert [dialogue.render(turns) for turns in dialogue.chunks] == [
        "[nl] [S1] Dat is goed.",
        "[nl] [S2] Wat is dat?",
        "[nl] [S2] [en] Is it?",
        "[nl] [S2] Ja.",
    ]


def test_the_prompt_is_bounded(dia):
    """The prompt grew with the text until there was no room; or a sentence that went wrong was that of all others."""
    text = spoken(TextStream(), [f"{FIRST} "] * 8)
    run = DialogueRun(StreamedDialogue(dia.model, dia.processor, text))
    rate = dia.processor.codec.frame_rate
    for _ in range(8):
        run.add(torch.zeros(int(2 * rate), 9, dtype=torch.long))
    assert [one.order for one in run._prompts["[S1]"]] == [0, 1, 2]
    (voice,) = run.kept_voices().values()
    assert 5 <= voice.seconds <= 7 and voice.transcript == f"[S1] {' '.join([FIRST] * 3)}"


def test_a_voice_stays(dia, engine, monkeypatch):
    """A text in pieces left the voice that was asked for after the first sentence."""
    codec = dia.processor.codec
    codes = dia.generate(f"[S1] {FIRST}", seed=3, return_codes=True)[1]
    voice = Voice(codes, FIRST, codec.fingerprint, codec.sampling_rate, codec.hop_length)
    prompts, choose = [], DialogueRun._choose_prompt

    def recorded(self):
        prompts.append(choose(self)[1])
        return choose(self)

    monkeypatch.setattr(DialogueRun, "_choose_prompt", recorded)
    handle = engine.submit(SpeechRequest(spoken(TextStream(), [f"{SECOND} {FIRST}"]), voices={"[S1]": voice}, seed=1))
    hear(handle)
    assert len(prompts) >= 2 and all(torch.equal(prompt, codes) for prompt in prompts)
    text = handle.kept_voices()["[S1]"].transcript
    assert text == f"[S1] {FIRST} {SECOND} {FIRST}"  # the voice is short


@pytest.mark.parametrize("has_more", [True, False])
def test_an_interruption_ends_within_8_frames(engine, monkeypatch, has_more):
    """An assistant that was interrupted spoke on, in its sentence or in the next one."""
    steps, take = [], FrameScheduler._take_step
    text = TextStream()

    def counted(self, state):
        steps.append(self.num_active)
        if len(steps) == 40:
            handle.cancel()
        return take(self, state)

    monkeypatch.setattr(FrameScheduler, "_take_step", counted)
    handle = engine.submit(SpeechRequest(text, seed=1))
    text.write(f"{FIRST} " + has_more * f"{SECOND} {THIRD} ")
    hear(handle)
    wait_for(lambda: not engine.num_active)
    assert handle.finish_reason == "canceled" and 40 <= len(steps) <= 48
    text.write(f"{SECOND} ")  # of a writer that does not know
    text.close()
    assert not engine._handles and not engine._waiting


def test_a_text_that_waits_holds_no_place(engine):
    """Texts without words kept others out of the batch, or out of the queue; canceled, they stayed."""
    waiting = [engine.submit(SpeechRequest(TextStream(), seed=1)) for _ in range(5)]
    assert engine.num_active == engine.num_queued == 0
    assert hear(engine.submit(SpeechRequest(f"[S1] {FIRST}", seed=1))).size
    for handle in waiting:
        handle.cancel()
        assert handle.finish_reason == "canceled"


def test_errors(engine):
    """A text without words, or with a control character, waited for ever; or a text was given to two requests."""
    for pieces, told in ((["…"], "the text is empty"), ([f"{FIRST} ", "Hello\1."], "control character")):
        text = TextStream()
        handle = engine.submit(SpeechRequest(text, seed=1))
        spoken(text, pieces)
        with pytest.raises(ValueError, match=told):
            hear(handle)
        assert handle.finish_reason == "error"
    with pytest.raises(ValueError, match="the text is closed"):
        text.write("Hello")
    with pytest.raises(TypeError, match="give strings"):
        TextStream().write(b"Hello")
    with pytest.raises(ValueError, match="the text is empty"):
        engine.submit(SpeechRequest(spoken(TextStream(), [])))


@pytest.mark.parametrize("pieces", [[], [f"{FIRST} "]])
def test_a_refused_request_leaves_nothing(dia, pieces):
    """A text was given to two requests: the second one was spoken, or waited for ever, and so did `close`."""
    text = TextStream()
    for piece in pieces:
        text.write(piece)
    with SpeechEngine(dia, max_batch_size=1, max_queue=1) as engine:
        handle = engine.submit(SpeechRequest(text, seed=1))
        with pytest.raises(ValueError, match="another request"):
            engine.submit(SpeechRequest(text, seed=1))
        assert len({*engine._handles, *engine._waiting}) == 1
        text.close() if pieces else handle.cancel()
        hear(handle)
    later = TextStream()
    with pytest.raises(EngineError):
        engine.submit(SpeechRequest(later))
    with SpeechEngine(dia, max_batch_size=1) as engine:  # a refused text can be given to another one
        assert hear(engine.submit(SpeechRequest(spoken(later, [FIRST]), seed=1))).size


def test_a_canceled_request_is_not_computed_when_its_text_grows(engine, monkeypatch):
    """A writer that did not know of the end had further sentences prepared for nobody."""
    text = TextStream()
    handle = engine.submit(SpeechRequest(text, seed=1))
    text.write(f"{FIRST} ")
    wait_for(lambda: handle._is_parked and handle.sentence_ends)
    handle.cancel()
    calls = []
    monkeypatch.setattr(engine, "_generate_chunk", calls.append)
    text.write(f"{SECOND} ")
    text.close()
    assert not engine._waiting and not calls


def test_a_limit_cuts_the_whole(engine):
    """`max_seconds` was a limit of each sentence."""
    handle = engine.submit(SpeechRequest(spoken(TextStream(), [TEXT]), seed=1, max_seconds=2.0))
    assert len(hear(handle)) == pytest.approx(2 * 16_000, abs=512)
    assert handle.finish_reason == "length" and "`max_seconds` (2)" in handle.doubt


def test_closing_finishes_what_is_there(dia):
    """An engine waited for a text that never ended, or threw away what had been written."""
    engine, text = SpeechEngine(dia, max_batch_size=1), TextStream()
    handle = engine.submit(SpeechRequest(text, seed=1))
    text.write(f"{FIRST} {SECOND} And")
    engine.close()
    assert handle.is_done and handle.sentences == [FIRST, SECOND, "And"]
    with pytest.raises(EngineError):
        engine.submit(SpeechRequest(TextStream()))


def words(text, gate=None):
    for number, word in enumerate(text.split()):
        if gate is not None and number == 4:
            assert gate.wait(60)
        yield f"{word} "


def test_stream_takes_an_iterator(dia):
    """`Dia.stream` of a language model's words waited for all of them, or their pace changed the audio."""
    gate = threading.Event()
    chunks = dia.stream(words(TEXT, gate), seed=5)
    first = next(chunks)  # while the words of the second sentence are withheld
    gate.set()
    waveform = np.concatenate([first, *chunks])
    np.testing.assert_allclose(waveform, np.concatenate(list(dia.stream(iter([TEXT]), seed=5))), rtol=0, atol=1e-6)


def test_stream_settles_what_stands_still(dia):
    """A sentence without a space after it was not spoken before the next word came."""
    gate = threading.Event()

    def pieces():
        yield FIRST
        assert gate.wait(60)

    chunks = dia.stream(pieces(), seed=5)
    assert next(chunks).size
    gate.set()
    assert sum(map(len, chunks))


def test_errors_of_an_iterator(dia):
    """A language model that failed looked like the end of its text."""

    def pieces():
        yield f"{FIRST} "
        raise ConnectionError("the model has gone")

    heard = []
    with pytest.raises(ConnectionError, match="the model has gone"):
        heard.extend(dia.stream(pieces(), seed=5))
    assert sum(map(len, heard)) > 8000

    def canceled():
        yield f"{FIRST} "
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):  # no `Exception`; the stream waited for ever
        list(dia.stream(canceled(), seed=5))
    with pytest.raises(TypeError, match="give strings"):
        list(dia.stream(iter([7])))
    with pytest.raises(ValueError, match="the text is empty"):
        list(dia.stream(iter([])))
    for options in ({"max_tokens": 9}, {"audio_prompt": "a.wav"}, {"use_torch_compile": True}):
        with pytest.raises(ValueError, match="is for a whole text"):
            dia.stream(iter([TEXT]), **options)


def test_warnings_of_an_iterator(dia):
    """Audio that was cut looked complete."""
    with pytest.warns(SpeechWarning, match=r"`max_seconds` \(0\.3\)"):
        list(dia.stream(iter(["Hello, zebra."]), seed=5, max_seconds=0.3))


def test_a_consumer_that_stops(dia):
    """A consumer that broke off left threads that generate."""
    before = {thread.name for thread in threading.enumerate()}
    for _ in dia.stream(words(TEXT * 4), seed=5):
        break
    wait_for(
        lambda: not [one for one in threading.enumerate() if one.name.startswith("dia-") and one.name not in before]
    )
