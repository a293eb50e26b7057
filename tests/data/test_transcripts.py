"""Transcripts: normalized, tagged, or refused with a reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dia_hf.data import PrepareConfig
from dia_hf.data.rows import RowError
from dia_hf.data.transcripts import Texts
from dia_hf.tokenization_dia import DiaTokenizer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello.", "[S1] Hello."),
        ("  Two\n lines\tand more ", "[S1] Two lines and more"),
        ("Cafe\u0301", "[S1] Café"),
        ("[S2] Hi. [S1] Oh.", "[S2] Hi. [S1] Oh."),
        ("[x] Hello.", "[x] [S1] Hello."),
        ("He counted 7.", "[S1] He counted 7."),
        ("It is in readme.wav", "[S1] It is in readme.wav"),
    ],
)
def test_texts(processor, text, expected):
    """The same words in two Unicode forms had different bytes."""
    texts = Texts(processor.tokenizer, PrepareConfig(extra_tags=["[x]"]))
    assert texts.make(text, None, None) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[s1] Hello there. [s2] Hi.", r"\[s1\] would be read as letters; .* write \[S1\]"),
        ("[S1] Hello there. [s2] Hi.", r"\[s2\] would be read as letters; .* write \[S2\]"),
        ("[s3] Hello there.", r"'\[s3\]' would be read as letters; replace it with one of \[S1\], \[S2\]"),
        ("SPEAKER_00: Hello there.", r"'SPEAKER_00:' would be read as letters; .*--speaker-tag"),
        ("[S1] Hello there. SPEAKER_01: Hi.", "'SPEAKER_01:'"),
        ("Speaker 1: Hello there.\nSpeaker 2: Hi.", "'Speaker 1:'"),
        ("[SPEAKER_00] Hello there.", r"'\[SPEAKER_00\]'"),
        ("[SPEAKER_00]: Hello there.", r"'\[SPEAKER_00\]:'"),
        ("[Speaker 1] Hello there.", r"'\[Speaker 1\]'"),
        ("S1: Hello there.", "'S1:'"),
        ("[S3] Hello there.", r"\[S3\] is not one of \[S1\], \[S2\]"),
    ],
)
def test_what_other_programs_write_for_a_tag(processor, text, message):
    """[S3] was refused, while [s1] and SPEAKER_00: followed a tag, as text to be generated."""
    texts = Texts(processor.tokenizer, PrepareConfig())
    with pytest.raises(RowError, match=message) as caught:
        texts.make(text, None, None)
    assert caught.value.code == "unknown_tag"


@pytest.mark.parametrize(
    "text",
    [
        "He has an S4: it is old.",
        "The speaker 2: who?",
        "Ends 5: yes.",
        "[sigh] Well.",
        "See s. 3: it is there.",
        "Speaker: me.",
    ],
)
def test_what_is_no_tag(processor, text):
    """Words in a sentence that resemble a tag were refused."""
    assert Texts(processor.tokenizer, PrepareConfig()).make(text, None, None) == f"[S1] {text}"


@pytest.mark.parametrize("text", ["... ?!", "[S1] ♪ ♪", "\u200b\u200b \u202e", "[S1] - [S2]", "😂"])
def test_texts_without_words(processor, text):
    """Marks, notes of music and characters that cannot be seen were the transcript of a whole clip."""
    with pytest.raises(RowError, match="has no words") as caught:
        Texts(processor.tokenizer, PrepareConfig()).make(text, None, None)
    assert caught.value.code == "empty_text"


@pytest.mark.parametrize("text", ["日本語", "नमस्ते", "שלום", "Nº 5", "(laughs)", "3 × x"])
def test_words_of_any_script(processor, text):
    """A text in another script, or with few letters, was taken for one without words."""
    assert Texts(processor.tokenizer, PrepareConfig()).make(text, None, None) == f"[S1] {text}"


def test_a_tag_that_is_declared_is_one(processor):
    """A declared tag [s1] or [SPEAKER_00] was refused as a misspelled one."""
    texts = Texts(processor.tokenizer, PrepareConfig(extra_tags=["[s1]", "[SPEAKER_00]"]))
    assert texts.make("[s1] Hi. [SPEAKER_00] Oh.", None, None) == "[s1] [S1] Hi. [SPEAKER_00] Oh."


@given(
    text=st.text(st.sampled_from("aé \n[]S12x日.\3\ud800")),
    language=st.sampled_from([None, "nl", "[de]", "x y"]),
    speaker=st.sampled_from([None, "anna", "ben"]),
)
def test_texts_fit_the_tokenizer(processor, text, language, speaker):
    """An accepted text was refused by the tokenizer, had no tag at its beginning, or changed when prepared again."""
    texts = Texts(processor.tokenizer, PrepareConfig(extra_tags=["[x]"]))
    try:
        made = texts.make(text, speaker, language)
    except RowError:
        return
    ids = DiaTokenizer(speaker_tokens=texts.tags)(made)["input_ids"]
    assert 1 <= ids[0] <= len(texts.tags)
    assert any(tag in made for tag in texts.tags)
    assert texts.make(made, speaker, language) == made
