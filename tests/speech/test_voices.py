import json
import os
import stat
import sys
import threading
import time
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
)

from dia_hf import MINIATURE
from dia_hf.audio.effects import trim_silence
from dia_hf.audio.io import write_audio
from dia_hf.speech.voices import Voice, VoiceLibrary, load_voice, transcribe

RATE = 44100
shared_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)


def make_voice(transcript="[S1] Hello.", num_frames=431, codec="0123456789abcdef") -> Voice:
    generator = torch.Generator().manual_seed(num_frames)
    codes = torch.randint(0, 1024, (num_frames, 9), generator=generator)
    return Voice(codes, transcript, codec, RATE, 512)


codes = st.tuples(st.integers(1, 5), st.integers(1, 4)).flatmap(
    lambda shape: st.lists(
        st.lists(st.integers(0, 2**15 - 1), min_size=shape[1], max_size=shape[1]), min_size=shape[0], max_size=shape[0]
    ).map(torch.tensor)
)
transcripts = st.text().filter(lambda text: text.strip())
names = st.text(
    st.characters(categories=["Lu", "Ll", "Lo", "Nd", "Mn"], include_characters="-_.", codec="utf-8"),
    min_size=1,
    max_size=12,
).filter(lambda name: name[0] not in "-.")


# --- a voice


def test_from_a_recording(processor, tone):
    """Codes, transcript or fingerprint of a voice differed from those of recording and codec."""
    recording = tone(4.0, RATE)
    voice = Voice.from_audio(recording, "This is me.", processor, sampling_rate=RATE)
    (expected,) = processor.codec.encode([torch.from_numpy(trim_silence(recording, RATE))])
    assert torch.equal(voice.codes, expected)
    assert (voice.transcript, voice.codec) == ("This is me.", processor.codec.fingerprint)
    assert (voice.sampling_rate, voice.hop_length) == (RATE, 512)
    assert voice.seconds == pytest.approx(4.0, abs=512 / RATE)
    voice.check(processor.codec)


def test_any_clip_will_do(processor, tone, tmp_path):
    """Forms of audio that are valid as a prompt were refused for a voice."""
    write_audio(tmp_path / "voice.flac", np.stack([tone(4.0, 22050)] * 2), 22050)
    from_path = Voice.from_audio(tmp_path / "voice.flac", "Hello.", processor)
    array = {"array": tone(4.0, 22050), "sampling_rate": 22050}
    assert from_path.seconds == pytest.approx(4.0, abs=0.05)
    assert Voice.from_audio(array, "Hello.", processor).codes.shape == from_path.codes.shape
    undecoded = {"bytes": (tmp_path / "voice.flac").read_bytes(), "path": None}
    assert Voice.from_audio(undecoded, "Hello.", processor) == from_path
    pair = (22050, (tone(4.0, 22050) * 32767).astype(np.int16))
    assert Voice.from_audio(pair, "Hello.", processor).codes.shape == from_path.codes.shape


def test_silence_around_the_speech_is_cut_off(processor, tone):
    """A prompt that ends in silence was continued in silence."""
    silence = np.zeros(3 * RATE, dtype=np.float32)
    padded = np.concatenate([silence, tone(4.0, RATE), silence])
    voice = Voice.from_audio(padded, "Hello.", processor, sampling_rate=RATE)
    assert 3.9 < voice.seconds < 5.0


def test_a_silent_recording(processor):
    """A silent recording became a voice."""
    with pytest.raises(ValueError, match=r"silent for all of its 5\.0 s"):
        Voice.from_audio(np.zeros(5 * RATE, dtype=np.float32), "Hello.", processor, sampling_rate=RATE)


def test_a_recording_of_nothing_but_an_offset(processor):
    """A recording with a constant offset of 0.0034 was taken for speech."""
    with pytest.raises(ValueError, match=r"silent for all of its 3\.0 s"):
        Voice.from_audio(np.full(3 * RATE, 0.0034, np.float32), "Hello.", processor, sampling_rate=RATE)


@pytest.mark.parametrize("seconds", [1.0, 16.0])
def test_an_unwise_length_warns(processor, tone, seconds):
    """A prompt that is too short or too long was accepted without a warning."""
    with pytest.warns(UserWarning, match=rf"{seconds:.1f} s .* 5 to 10 s") as caught:
        Voice.from_audio(tone(seconds, RATE), "Hello.", processor, sampling_rate=RATE)
    assert caught[0].filename == __file__, "the warning points at the caller"


@pytest.mark.parametrize("seconds", [3.5, 14.5])
@pytest.mark.filterwarnings("error::UserWarning")
def test_a_good_length_does_not_warn(processor, tone, seconds):
    """A good recording caused a warning."""
    Voice.from_audio(tone(seconds, RATE), "Hello, this is what I said in it, all of it.", processor, sampling_rate=RATE)


@pytest.mark.parametrize("transcript", ["", " \n", "[S1]", " [S1] [S2] "])
def test_without_words(processor, tone, transcript):
    """A voice without a transcript was accepted, and the first words of texts were lost."""
    with pytest.raises(ValueError, match="`transcribe`"):
        Voice.from_audio(tone(4.0, RATE), transcript, processor, sampling_rate=RATE)


def test_several_clips(processor, tone):
    """The first clip of a list was used silently."""
    clip = {"array": tone(4.0, RATE), "sampling_rate": RATE}
    with pytest.raises(ValueError, match="2 clips"):
        Voice.from_audio([clip, clip], "Hello.", processor)


def test_unknown_rate(processor, tone):
    """The rate of a recording was guessed."""
    with pytest.raises(ValueError, match="`sampling_rate`"):
        Voice.from_audio(tone(4.0, RATE), "Hello.", processor)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"codes": torch.zeros(9, dtype=torch.long)}, r"\(9,\)"),
        ({"codes": torch.zeros(0, 9, dtype=torch.long)}, r"\(0, 9\)"),
        ({"codes": torch.zeros(2, 9)}, "float32"),
        ({"codes": torch.full((2, 9), -1)}, "from -1 to -1"),
        ({"codes": torch.full((2, 9), 2**15)}, "0 to 32767"),
        ({"transcript": "[S1]"}, "has no words"),
        ({"sampling_rate": 0}, "0 Hz"),
        ({"hop_length": -1}, "-1 samples"),
    ],
)
def test_what_is_no_voice(fields, message):
    """Codes beyond int16 were saved as other codes."""
    with pytest.raises(ValueError, match=message):
        Voice(**{**vars(make_voice()), **fields})


def test_voices_are_compared_and_shown():
    """A dataclass compares tensors by truth value, and prints all codes."""
    assert make_voice() == make_voice()
    assert make_voice() != make_voice(num_frames=430)
    assert make_voice() != make_voice(transcript="[S1] Hallo.")
    assert make_voice() != "voice"
    assert repr(make_voice()) == "<Voice of 5.0 s: '[S1] Hello.'>"
    assert len(repr(make_voice("word " * 100))) < 80


def test_another_codec(processor):
    """A voice of another codec was accepted."""
    voice = make_voice()
    with pytest.raises(ValueError, match=r"0123456789abcdef at 44100 Hz") as caught:
        voice.check(processor.codec)
    assert processor.codec.fingerprint in str(caught.value)
    assert "from its recording" in str(caught.value)
    voice.check(SimpleNamespace(fingerprint="0123456789abcdef"))


def test_a_voice_goes_through_the_codec(processor, tone):
    """The axes of codes were exchanged."""
    voice = Voice.from_audio(tone(4.0, RATE), "Hello.", processor, sampling_rate=RATE)
    (waveform,) = processor.codec.decode([voice.codes])
    assert len(waveform) / RATE == pytest.approx(voice.seconds, abs=0.02)


# --- who speaks


@pytest.mark.parametrize(
    ("transcript", "speakers", "as_second"),
    [
        ("Hello.", (), "[S2] Hello."),
        ("  Hello.\n", (), "[S2] Hello."),
        ("[S1] Hello.", ("[S1]",), "[S2] Hello."),
        ("[S2] Hello.", ("[S2]",), "[S2] Hello."),
        ("[S1]Hello. [S1] And on.", ("[S1]",), "[S2]Hello. [S2] And on."),
        ("Hello. [S1] And on.", ("[S1]",), "[S2] Hello. [S2] And on."),
        ("[S4] Hallo. (laughs) [sic]", ("[S4]",), "[S2] Hallo. (laughs) [sic]"),
    ],
)
def test_one_speaker_can_be_any(transcript, speakers, as_second):
    """A voice recorded as [S1] and used for [S2] kept its tag, or lost it."""
    voice = make_voice(transcript)
    assert voice.speakers == speakers
    assert voice.transcript_as("[S2]") == as_second


def test_a_dialogue_is_nobody_in_particular():
    """A transcript of two speakers was put under one tag."""
    voice = make_voice("[S2] Hello. [S1] Hi. [S2] So.")
    assert voice.speakers == ("[S2]", "[S1]")
    with pytest.raises(ValueError, match=r"2 speakers \(\[S2\], \[S1\]\).*as it is"):
        voice.transcript_as("[S1]")


@pytest.mark.parametrize("speaker", ["S1", "1", "[S1] ", "", "[s1]", "[S]"])
def test_only_a_tag_is_a_speaker(speaker):
    """A word that is no tag was accepted as a speaker."""
    with pytest.raises(ValueError, match=r"give a tag, such as '\[S1\]'"):
        make_voice().transcript_as(speaker)


# --- files


@shared_folder
@given(codes=codes, transcript=transcripts, rate=st.integers(1, 10**6), hop=st.integers(1, 10**4))
def test_what_is_saved_is_loaded(tmp_path, codes, transcript, rate, hop):
    """Transcripts with emoji, line breaks or NUL, or large codes, changed in a file."""
    try:
        voice = Voice(codes, transcript, "ab" * 8, rate, hop)
    except ValueError:
        assert not transcript.replace("[S1]", "").strip()
        return
    voice.save(tmp_path / "voice.safetensors")
    loaded = Voice.load(tmp_path / "voice.safetensors")
    assert loaded == voice
    assert loaded.codes.dtype == torch.int64


def test_a_view_is_saved(tmp_path):
    """safetensors refuses non-contiguous codes, such as transposed ones."""
    voice = Voice(torch.arange(18).reshape(9, 2).T, "Hello.", "ab", RATE, 512)
    voice.save(tmp_path / "voice.safetensors")
    assert Voice.load(tmp_path / "voice.safetensors") == voice


def test_the_file_is_small_and_plain(tmp_path, monkeypatch):
    """A file was large, or had safetensors' mode 0600."""
    monkeypatch.chdir(tmp_path)
    umask = os.umask(0o027)
    try:
        make_voice(num_frames=862).save("new/folder/voice.safetensors")
    finally:
        os.umask(umask)
    status = (tmp_path / "new/folder/voice.safetensors").stat()
    assert status.st_size < 17_000
    if os.name == "posix":
        assert stat.S_IMODE(status.st_mode) == 0o640


def test_a_full_disk_keeps_the_old_voice(tmp_path):
    """A failed write destroyed an existing voice."""
    resource = pytest.importorskip("resource")
    path = tmp_path / "voice.safetensors"
    make_voice().save(path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))  # the kernel stops any file there
    try:
        with pytest.raises(OSError, match="too large"):
            make_voice("[S1] A new one.").save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert Voice.load(path) == make_voice()
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_file(tmp_path):
    """The error of safetensors did not name the path; a folder raised an OSError."""
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(FileNotFoundError, match=path.name):
            Voice.load(path)


def write_altered(path, **changes):
    """Write the file of a voice with other metadata or tensors; `None` removes an entry."""
    voice = make_voice()
    entries = {
        "codes": voice.codes.short(),
        "format": "dia_hf voice",
        "version": "1",
        "transcript": voice.transcript,
        "codec": voice.codec,
        "sampling_rate": "44100",
        "hop_length": "512",
        **changes,
    }
    entries = {name: entry for name, entry in entries.items() if entry is not None}
    tensors = {name: entry for name, entry in entries.items() if isinstance(entry, torch.Tensor)}
    save_file(tensors, path, {name: entry for name, entry in entries.items() if isinstance(entry, str)})


def test_the_format_is_what_it_was(tmp_path):
    """A change of the format without a new version made saved voices unreadable."""
    write_altered(tmp_path / "voice.safetensors")
    assert Voice.load(tmp_path / "voice.safetensors") == make_voice()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "pt"}, "safetensors file but no voice: it holds 1 tensors"),
        ({"format": None}, "safetensors file but no voice"),
        ({"version": "2"}, "version 2.*reads version 1: update"),
        ({"version": None}, "version None"),
        ({"codes": None, "other": torch.zeros(2)}, "codes"),
        ({"codes": torch.zeros(2, 9)}, "damaged voice.*float32"),
        ({"codes": torch.full((2, 9), -5, dtype=torch.int16)}, "damaged voice.*from -5"),
        ({"transcript": None}, "damaged voice.*transcript"),
        ({"sampling_rate": "fast"}, "damaged voice.*fast"),
        ({"hop_length": "0"}, "damaged voice.*0 samples"),
    ],
)
def test_other_safetensors(tmp_path, changes, message):
    """A checkpoint raised a KeyError; a newer version was read as the current one."""
    path = tmp_path / "voice.safetensors"
    write_altered(path, **changes)
    with pytest.raises(ValueError, match=message) as caught:
        Voice.load(path)
    assert str(path) in str(caught.value)


def test_a_checkpoint_is_no_voice():
    """Weights of a model, without metadata, were taken for a voice."""
    with pytest.raises(ValueError, match="no voice: it holds"):
        Voice.load(os.path.join(MINIATURE, "model.safetensors"))


@pytest.mark.parametrize("num_bytes", [0, 5, 40, 600, -1])
def test_a_truncated_file(tmp_path, num_bytes):
    """An incomplete download raised a parser's error without the path."""
    path = tmp_path / "voice.safetensors"
    make_voice().save(path)
    path.write_bytes(path.read_bytes()[:num_bytes])
    with pytest.raises(ValueError, match="damaged, cut off, or another kind of file") as caught:
        Voice.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"[S1] Hello.\n" * 9, b"RIFF\x00\x00\x00\x00WAVEfmt " * 4])
def test_another_kind_of_file(tmp_path, content):
    """The error for a transcript or a recording in place of a voice gave no remedy."""
    (tmp_path / "voice").write_bytes(content)
    with pytest.raises(ValueError, match="another kind of file"):
        Voice.load(tmp_path / "voice")


# --- the library


@pytest.fixture
def library(tmp_path) -> VoiceLibrary:
    return VoiceLibrary(tmp_path / "voices")


def test_add_get_list_remove(library):
    """The library was unsorted, or returned another voice."""
    assert list(library) == [] and library.list() == {}
    voices = {name: make_voice(num_frames=n) for n, name in enumerate(["Zoë", "anna", "m.c-2_b", "मीरा", "李"], 1)}
    for name, voice in voices.items():
        assert library.add(name, voice) == library.folder / f"{name}.safetensors"
    assert list(library) == sorted(voices)
    assert library.list() == dict(sorted(voices.items()))
    assert {name: library.get(name) for name in library} == voices
    library.remove("anna")
    assert "anna" not in library and len(list(library)) == 4


@shared_folder
@given(name=names)
def test_any_name_is_found_again(tmp_path, name):
    """A name in another Unicode form or case was not found."""
    library = VoiceLibrary(tmp_path / "any")
    library.add(name, make_voice(name))
    for form in ("NFC", "NFD"):
        assert library.get(unicodedata.normalize(form, name)) == make_voice(name)
    library.remove(name)
    assert list(library) == []


@shared_folder
@given(name=st.text(max_size=60))
def test_a_name_is_a_file_in_the_folder_or_nothing(tmp_path, name):
    """A name with a path separator was written outside the library."""
    library = VoiceLibrary(tmp_path / "outer" / "voices")
    try:
        path = library.add(name, make_voice(), force=True)
    except ValueError:
        return
    assert path.parent == library.folder and path.is_file()
    assert os.listdir(tmp_path / "outer") == ["voices"]
    library.remove(name)


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", ".hidden", "-x", "a/b", "../a", "a\\b", "a b", "a:b", "a\0b", "a\n", "😀", "\ud800", "x" * 51),
        *("anna.safetensors", "anna.SAFETENSORS"),
    ],
)
def test_names_that_cannot_be(library, name):
    """A name like an option, a path or a hidden file was accepted."""
    with pytest.raises(ValueError, match="cannot be called"):
        library.add(name, make_voice())
    assert not library.folder.exists()


def test_the_longest_name(library):
    """A name of 4-byte letters exceeded the limit of 255 bytes."""
    library.add("𠀀" * 50, make_voice())
    assert library.get("𠀀" * 50) == make_voice()


def test_nothing_is_replaced_unasked(library):
    """A second voice of a name replaced the first one silently."""
    library.add("anna", make_voice())
    with pytest.raises(ValueError, match=r"already a voice 'anna'.*`force=True`"):
        library.add("anna", make_voice("[S1] New."))
    assert library.get("anna") == make_voice()
    library.add("anna", make_voice("[S1] New."), force=True)
    assert library.get("anna") == make_voice("[S1] New.")


def test_two_add_one_name(library, monkeypatch):
    """Two processes added one name at once, and one voice was lost."""
    save, started = Voice.save, threading.Event()

    def save_late(self, path):
        started.set()
        time.sleep(0.3)
        save(self, path)

    monkeypatch.setattr(Voice, "save", save_late)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(library.add, "anna", make_voice())
        started.wait()
        with pytest.raises(ValueError, match="already a voice 'anna'"):
            library.add("Anna", make_voice("[S1] New."))
        first.result()
    assert library.get("anna") == make_voice()
    assert len(os.listdir(library.folder)) == 1


@pytest.mark.parametrize(("name", "same"), [("Anna", "aNNa"), ("Zo\u00eb", "Zoe\u0308"), ("Zoe\u0308", "ZO\u00cb")])
def test_the_same_name_on_some_file_system(library, name, same):
    """Names that differ in case collide on other file systems."""
    library.add(name, make_voice())
    assert library.get(same) == make_voice()
    with pytest.raises(ValueError, match="already a voice"):
        library.add(same, make_voice("[S1] New."))
    library.add(same, make_voice("[S1] New."), force=True)
    assert len(list(library)) == len(os.listdir(library.folder)) == 1
    library.remove(same)
    assert list(library) == []


def test_files_put_there_by_hand(library):
    """Files that were copied by hand, with names that differ in case, were not distinguished."""
    make_voice().save(library.folder / "my voice.safetensors")
    make_voice().save(library.folder / "._anna.safetensors")  # a Mac's shadow of a file
    (library.folder / "notes.txt").write_text("Anna is me.")
    (library.folder / "folder.safetensors").mkdir()
    assert list(library) == ["my voice"]
    assert library.get("my voice") == make_voice()
    make_voice("[S1] Low.").save(library.folder / "anna.safetensors")
    make_voice("[S1] High.").save(library.folder / "Anna.safetensors")
    if len(list(library)) == 3:  # not on a Mac
        assert library.get("anna") == make_voice("[S1] Low.")
        assert library.get("Anna") == make_voice("[S1] High.")


def test_a_broken_file_hides_nothing(library):
    """One damaged file made the list of all voices fail."""
    library.add("anna", make_voice())
    (library.folder / "bert.safetensors").write_bytes(b"bad")
    library.add("zoe", make_voice())
    voices = library.list()
    assert voices["anna"] == voices["zoe"] == make_voice()
    assert "bert.safetensors" in voices["bert"] and "damaged" in voices["bert"]
    with pytest.raises(ValueError, match="damaged"):
        library.get("bert")
    library.remove("bert")
    assert list(library) == ["anna", "zoe"]


@pytest.mark.parametrize("look_up", ["get", "remove"])
def test_an_unknown_name(library, look_up):
    """The error for an unknown name did not list the existing ones."""
    with pytest.raises(ValueError, match=r"no voice 'ana' in the library.*it is empty"):
        getattr(library, look_up)("ana")
    for name in ("bert", "Anna", "zoe"):
        library.add(name, make_voice())
    with pytest.raises(ValueError, match=r"no voice 'ana'.*it has 'Anna', ") as caught:
        getattr(library, look_up)("ana")
    assert str(library.folder) in str(caught.value)
    for outside in ("../voices/Anna", str(library.folder / "Anna"), ""):
        with pytest.raises(ValueError, match="no voice"):
            getattr(library, look_up)(outside)


def test_where_the_library_is(tmp_path, monkeypatch):
    """The folder of the library was not configurable."""
    monkeypatch.setenv("DIA_HF_VOICES", str(tmp_path / "elsewhere"))
    assert VoiceLibrary().folder == tmp_path / "elsewhere"
    assert VoiceLibrary(tmp_path).folder == tmp_path
    for nothing in ("", None):
        if nothing is None:
            monkeypatch.delenv("DIA_HF_VOICES")
        else:
            monkeypatch.setenv("DIA_HF_VOICES", nothing)
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
        folder = VoiceLibrary().folder
        assert folder.name == "voices" and "dia_hf" in folder.parts
        if sys.platform == "linux":
            assert folder == tmp_path / "data" / "dia_hf" / "voices"
        assert not folder.exists(), "a look at the library must not make it"


def test_a_voice_from_wherever_it_is(tmp_path, monkeypatch):
    """A string that may be a name or a file was resolved inconsistently."""
    monkeypatch.setenv("DIA_HF_VOICES", str(tmp_path / "voices"))
    (tmp_path / "desk").mkdir()
    monkeypatch.chdir(tmp_path / "desk")
    named, filed = make_voice(num_frames=2), make_voice(num_frames=3)
    VoiceLibrary().add("anna", named)
    filed.save("other.safetensors")
    filed.save("bare")
    assert load_voice(filed) is filed
    assert load_voice("anna") == named
    os.mkdir("anna")
    assert load_voice("anna") == named, "a folder is no voice"
    assert load_voice("other.safetensors") == load_voice(tmp_path / "desk" / "bare") == load_voice("bare") == filed
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        load_voice("none.safetensors")
    with pytest.raises(FileNotFoundError, match="none"):
        load_voice(tmp_path / "none")
    with pytest.raises(ValueError, match="it has 'anna'"):
        load_voice("other")


# --- the transcript


@pytest.fixture
def make_recognizer(tmp_path):
    """Untrained recognizer that returns `letter` for any audio, or nothing (`"<pad>"`)."""

    def make(letter: str) -> str:
        vocabulary = {"<pad>": 0, "<unk>": 1, "|": 2, "H": 3, "I": 4}
        (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
        folder = tmp_path / f"hears-{vocabulary[letter]}"
        config = Wav2Vec2Config(
            vocab_size=len(vocabulary),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            conv_dim=(8, 8),
            conv_stride=(16, 20),
            conv_kernel=(16, 20),
            num_conv_pos_embeddings=4,
            num_conv_pos_embedding_groups=2,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=0,
        )
        model = Wav2Vec2ForCTC(config)
        with torch.no_grad():
            model.lm_head.weight.zero_()
            model.lm_head.bias.zero_()
            model.lm_head.bias[vocabulary[letter]] = 1.0
        model.save_pretrained(folder)
        Wav2Vec2CTCTokenizer(
            str(tmp_path / "vocab.json"), bos_token=None, eos_token=None, pad_token="<pad>"
        ).save_pretrained(folder)
        Wav2Vec2FeatureExtractor(sampling_rate=16000).save_pretrained(folder)
        return str(folder)

    return make


def test_the_recognizer_writes_the_transcript(make_recognizer, tone, tmp_path):
    """A transcript from an array differed from that of a file."""
    model = make_recognizer("H")
    assert transcribe(tone(0.5, 16000), model, sampling_rate=16000) == "H"
    write_audio(tmp_path / "voice.wav", tone(0.5, RATE), RATE)
    assert transcribe(tmp_path / "voice.wav", model, device="cpu") == "H"


def test_the_recognizer_hears_its_own_rate(make_recognizer, tone, monkeypatch):
    """The pipeline resamples only with torchaudio; without it, 44.1 kHz failed or was taken for another rate."""
    heard = []
    forward = Wav2Vec2ForCTC.forward

    def listen(self, input_values, *args, **kwargs):
        heard.append(input_values.shape[-1])
        return forward(self, input_values, *args, **kwargs)

    monkeypatch.setattr(Wav2Vec2ForCTC, "forward", listen)
    transcribe(np.stack([tone(0.5, RATE)] * 2), make_recognizer("I"), sampling_rate=RATE)
    assert heard == [8000]


def test_nothing_heard(make_recognizer, tone):
    """An empty transcript was returned, and used for a voice."""
    model = make_recognizer("<pad>")
    with pytest.raises(ValueError, match=r"recognizes no words in the recording of 0\.5 s"):
        transcribe(tone(0.5, RATE), model, sampling_rate=RATE)


def test_what_cannot_be_transcribed(make_recognizer, tone):
    """Two clips, or a clip of unknown rate."""
    model = make_recognizer("H")
    clip = {"array": tone(0.5, RATE), "sampling_rate": RATE}
    with pytest.raises(ValueError, match="2 clips"):
        transcribe([clip, clip], model)
    with pytest.raises(ValueError, match="`sampling_rate`"):
        transcribe(tone(0.5, RATE), model)


def test_no_such_recognizer(tone, tmp_path):
    """The error for a missing model did not name it."""
    with pytest.raises(OSError, match="nowhere"):
        transcribe(tone(0.5, RATE), tmp_path / "nowhere", sampling_rate=RATE)


@pytest.mark.parametrize("transcript", ["Hi.", "This is far too much to be said. " * 10])
def test_a_transcript_of_another_recording(processor, tone, transcript):
    """A voice with a wrong transcript was saved without a warning; `prepare` rejects such a clip."""
    with pytest.warns(UserWarning, match="characters for each of the 5.0 s"):
        Voice.from_audio(tone(5.0, 44100), transcript, processor, sampling_rate=44100)


def test_a_recording_is_no_voice(tmp_path):
    """The error for a recording in place of a voice was "damaged, cut off, or another kind of file"."""
    (tmp_path / "anna.wav").write_bytes(b"RIFF    WAVE")
    with pytest.raises(ValueError, match=r"is a recording and no voice; make one of it, `dia-hf voices add NAME"):
        load_voice(str(tmp_path / "anna.wav"))
