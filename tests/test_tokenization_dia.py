import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer
from transformers.models.dia.tokenization_dia import DiaTokenizer as TheirTokenizer

from dia_hf import DiaConfig, DiaTokenizer

OURS, THEIRS = DiaTokenizer(), TheirTokenizer()

# Any Unicode string without the three characters whose bytes mean padding and tags.
texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00\x01\x02"), max_size=60)
tagged = st.lists(st.one_of(texts, st.sampled_from(["[S1]", "[S2]", "[S3]", "(laughs)", "<pad>"]))).map("".join)


@given(tagged)
def test_ids_equal_transformers(text):
    """A byte more or less shifts every position the encoder sees."""
    assert OURS(text)["input_ids"] == THEIRS(text)["input_ids"]


@given(tagged)
def test_decoding_inverts_encoding(text):
    """Each byte was encoded once more, and "café" came back as "cafÃ©"."""
    assert OURS.decode(OURS(text)["input_ids"]) == text


def test_batch_padding():
    """Padding on the left would move the text's positions."""
    batch = OURS(["a", "[S1]bc"], padding=True)
    assert batch["input_ids"] == [[97, 0, 0], [1, 98, 99]]
    assert batch["attention_mask"] == [[1, 0, 0], [1, 1, 1]]
    assert OURS.decode(batch["input_ids"][0], skip_special_tokens=True) == "a"


def test_over_long_text_raises_with_both_lengths():
    """1,025 bytes were accepted, beyond the positions that the encoder was trained on."""
    assert len(OURS("x" * 1024)["input_ids"]) == 1024
    with pytest.raises(ValueError, match=r"1025 ids.*at most 1024"):
        OURS("x" * 1025)


@given(st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=30), st.integers(1, 40))
@pytest.mark.parametrize("side", ["right", "left"])
def test_truncation_never_cuts_a_character(side, text, max_length):
    """Half a character at the cut is a byte sequence that no training text contains."""
    tokenizer = DiaTokenizer(truncation_side=side)
    ids = tokenizer(text, truncation=True, max_length=max_length)["input_ids"]
    kept = tokenizer.decode(ids)
    assert len(ids) <= max_length
    assert "�" not in kept or "�" in text
    assert text.startswith(kept) if side == "right" else text.endswith(kept)
    if len(kept) < len(text):
        following = text[len(kept)] if side == "right" else text[-len(kept) - 1]
        assert len(ids) + len(following.encode()) > max_length, "more was cut than need be"


@pytest.mark.parametrize("character", ["\x00", "\x01", "\x02"])
def test_control_characters_that_mean_tags_raise(character):
    """A stray U+0001 was read as [S1]."""
    with pytest.raises(ValueError, match=r"U\+000[012]"):
        OURS(f"a{character}b")


def test_half_of_a_surrogate_pair_raises():
    """Half of an emoji, which JSON can hold, ended in an error of Python's encoder."""
    with pytest.raises(ValueError, match=r"^the text holds U\+D83D, half of a surrogate pair"):
        OURS("[S1] a \ud83d b")


def test_further_speakers(tmp_path):
    """Fine-tuned models with [S3] and [S4] lost these tags when saved and loaded."""
    tokenizer = DiaTokenizer(speaker_tokens=["[S1]", "[S2]", "[S3]", "[S4]"])
    tokenizer.save_pretrained(tmp_path)
    for again in (DiaTokenizer.from_pretrained(tmp_path), TheirTokenizer.from_pretrained(tmp_path)):
        assert again("[S3] a[S4]")["input_ids"] == [3, 32, 97, 4]
    assert OURS("[S3]")["input_ids"] == list(b"[S3]")


# Ids of bytes that text does not need, white space aside.
FREE = [*range(1, 9), 11, 12, *range(14, 32), 127, 192, 193, *range(245, 256)]
PUBLIC = {"en": 3, "de": 4, "fr": 5, "es": 6, "it": 7, "nl": 14, "pl": 15, "pt": 16, "tr": 17, "hu": 18}
names = st.text("S12nl[]-é<", min_size=1, max_size=3).map(lambda name: f"[{name}]")


@given(st.dictionaries(names, st.sampled_from(FREE)), st.integers(0, 9), st.data())
def test_any_set_of_tags(tags, num_speakers, data):
    """Tags at bytes with gaps, or of which one begins with another, were not decoded to the text, or counted wrong."""
    tags = {tag: number for number, tag in {number: tag for tag, number in tags.items()}.items()}  # an id each
    pairs = list(tags.items())
    speakers = dict(pairs[:num_speakers]) or {"[speaker]": min(set(FREE) - set(tags.values()))}
    tokenizer = DiaTokenizer(speaker_tokens=speakers, language_tokens=dict(pairs[num_speakers:]))
    allowed = st.characters(exclude_categories=("Cs",), exclude_characters=[chr(number) for number in [0, *FREE]])
    parts = st.one_of(st.text(allowed, max_size=9), st.sampled_from([*speakers, *tags]))
    text = data.draw(st.lists(parts, max_size=9).map("".join))
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert tokenizer.count_ids(text) == len(ids)
    for tag, number in (speakers | tags).items():
        assert tokenizer(tag)["input_ids"] == [number]
    assert tokenizer.speaker_ids == speakers
    assert tokenizer.language_ids == dict(pairs[num_speakers:])


def test_tags_of_public_fine_tunes(tmp_path):
    """Their languages have bytes with gaps up to 18, and other styles 19 and 30; all of them were read as letters."""
    speakers, languages = {"[S1]": 1, "[S2]": 2, "[anna]": 30}, {f"[{name}]": byte for name, byte in PUBLIC.items()}
    tokenizer = DiaTokenizer(speaker_tokens=speakers, language_tokens={**languages, "[whisper]": 19})
    text, ids = "[nl] [anna] a[S2][whisper]", [14, 32, 30, 32, 97, 2, 19]
    tokenizer.save_pretrained(tmp_path)
    DiaConfig().save_pretrained(tmp_path)
    for again in (tokenizer, DiaTokenizer.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)):
        assert again(text)["input_ids"] == ids
        assert (again.speaker_ids, again.language_ids) == (speakers, {**languages, "[whisper]": 19})
    assert TheirTokenizer.from_pretrained(tmp_path)(text)["input_ids"] == ids


def test_tags_in_files_of_other_programs(tmp_path):
    """transformers keeps tags in `added_tokens_decoder` alone: the tokenizer knew them, and scripts did not."""
    DiaTokenizer(speaker_tokens=["[S1]", "[S2]", "[S3]"], language_tokens={"[nl]": 14}).save_pretrained(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    content = json.loads(file.read_text())
    del content["speaker_tokens"], content["language_tokens"]
    file.write_text(json.dumps(content))
    tokenizer = DiaTokenizer.from_pretrained(tmp_path)
    assert tokenizer("[S3] [nl]")["input_ids"] == [3, 32, 14]
    assert tokenizer.speaker_tokens == ["[S1]", "[S2]", "[S3]"]
    assert tokenizer.language_ids == {"[nl]": 14}
    changed = DiaTokenizer.from_pretrained(tmp_path, speaker_tokens=["[S1]"], language_tokens={"[de]": 14})
    assert changed("[nl][de][S3]")["input_ids"] == [*b"[nl]", 14, *b"[S3]"]


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"language_tokens": {"[nl]": 65}}, "text needs the others"),
        ({"language_tokens": {"[nl]": 0}}, "id is 1 to 31"),
        ({"language_tokens": {"[nl]": 256}}, "id is 1 to 31"),
        ({"language_tokens": {"[nl]": True}}, "id is 1 to 31"),
        ({"language_tokens": {"[nl]": 2}}, r"\[S2\].* has; give each its own"),
        ({"language_tokens": {"[S2]": 3}}, r"one of the tags before"),
        ({"language_tokens": ["[nl]", "[nl]"]}, "twice"),
        ({"language_tokens": {"[n l]": 3}}, "without spaces"),
        ({"language_tokens": {"x": 3}}, "without spaces"),
        ({"language_tokens": {"<pad>": 3}}, "means padding"),
        ({"language_tokens": "[nl]"}, "give a list of tags"),
        ({"speaker_tokens": ["[S1]"] * 2}, "twice"),
    ],
)
def test_impossible_tags(tags, message):
    """A tag at the byte of a letter made each such letter a tag."""
    with pytest.raises(ValueError, match=message):
        DiaTokenizer(**tags)


def test_further_tags():
    """Tags that were added by name moved those before, or took an id that another one was to have."""
    tokenizer = OURS.with_tags({"[S3]": None, "[nl]": 3, "[anna]": None}, ["[anna]"])
    assert tokenizer.speaker_ids == {"[S1]": 1, "[S2]": 2, "[S3]": 4, "[anna]": 5}
    assert tokenizer.language_ids == {"[nl]": 3}
    assert tokenizer.with_tags(["[nl]"]).language_ids == {"[nl]": 3}
    assert tokenizer.with_tags(["[nl]", "[S1]"]) is tokenizer
    grown = DiaTokenizer()
    grown.add_tokens(["[laugh]"])
    assert grown.with_tags({"[nl]": 14})("[laugh][nl]")["input_ids"] == [256, 14]
    with pytest.raises(ValueError, match=r"'\[nl\]' is to have the id 14, but has 3"):
        tokenizer.with_tags({"[nl]": 14})
    with pytest.raises(ValueError, match=r"\[xx\] are more than the 8 tags.*give further tags their ids"):
        tokenizer.with_tags(["[de]", "[fr]", "[it]", "[xx]"])
    for wrong in ([None], {None: 3}, [7]):
        with pytest.raises(ValueError, match="a tag is a word without spaces"):
            tokenizer.with_tags(wrong)


def test_added_tokens_count_and_outlive_saving(tmp_path):
    """`add_tokens` gave id 256 to each token, `len` stayed 256, and saving lost them."""
    tokenizer = DiaTokenizer()
    assert tokenizer.add_tokens(["[laugh]", "[nl]", "好"]) == 3
    assert len(tokenizer) == 259
    text = "[S1] 好é [laugh] [nl]"
    ids = tokenizer(text)["input_ids"]
    assert ids == [1, 32, 258, *"é".encode(), 32, 256, 32, 257]
    tokenizer.save_pretrained(tmp_path)
    for again in (tokenizer, DiaTokenizer.from_pretrained(tmp_path)):
        assert (len(again), again(text)["input_ids"], again.decode(ids)) == (259, ids, text)
    assert TheirTokenizer.from_pretrained(tmp_path)(text)["input_ids"] == ids


def test_too_many_speakers():
    """A ninth tag would use the tab's byte."""
    with pytest.raises(ValueError, match=r"9 tags; at most 8"):
        DiaTokenizer(speaker_tokens=[f"[S{i}]" for i in range(9)])


def test_loads_the_published_files(pack):
    """`model_max_length` 1e30 in the published file switched the length check off."""
    assert DiaTokenizer.from_pretrained(pack).model_max_length == 1024


@pytest.mark.parametrize(
    "field",
    [
        {"added_tokens_decoder": {"0": {"content": "x", "special": "yes"}}},
        {"added_tokens_decoder": {"0": {"content": []}}},
    ],
)
def test_a_damaged_file(tmp_path, field):
    """A field of a wrong type ended in a TypeError of transformers' that named no file."""
    DiaTokenizer().save_pretrained(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | field))
    with pytest.raises(ValueError, match=r"tokenizer_config.json"):
        DiaTokenizer.from_pretrained(tmp_path)


def test_an_argument_with_the_name_of_a_method(tmp_path):
    """The caller's mistake was reported as a damaged file of the checkpoint."""
    DiaTokenizer().save_pretrained(tmp_path)
    with pytest.raises(AttributeError, match="add_special_tokens conflicts"):
        DiaTokenizer.from_pretrained(tmp_path, add_special_tokens=True)


def test_a_length_that_is_none():
    """A `None` length was compared with a number, and raised a TypeError."""
    with pytest.raises(TypeError, match="`max_length` is 'ten'"):
        DiaTokenizer()("[S1] Hi.", max_length="ten")
