import io
import logging
import os
import struct
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import av
import numpy as np
import pytest
import soundfile as sf
import torch

from dia_hf import Dia
from dia_hf.audio.effects import trim_silence
from dia_hf.serving.recordings import read_recording
from dia_hf.serving.voices import OPENAI_VOICES, ServedVoices
from dia_hf.speech.voices import Voice, VoiceLibrary
from phone_recordings import encode_recording

RATE = 16000
WORDS = "[S1] Hello, I am Dia. Welcome, Dia."


@pytest.fixture(scope="module")
def dia() -> Dia:
    return Dia.from_pretrained()


@pytest.fixture
def voices(dia, tmp_path) -> ServedVoices:
    return ServedVoices(dia, tmp_path / "voices")


@pytest.fixture
def recording(tone) -> bytes:
    return encoded(tone(4.0, RATE))


def encoded(waveform, rate=RATE, file_format="WAV", subtype=None) -> bytes:
    """Encode `[N]` or `[channels, N]` with libsndfile."""
    file = io.BytesIO()
    num_channels = 1 if waveform.ndim == 1 else len(waveform)
    with sf.SoundFile(file, "w", rate, num_channels, subtype, format=file_format) as sound:
        for start in range(0, waveform.shape[-1], 1 << 14):  # Vorbis: minutes at once crash the process
            sound.write(waveform[..., start : start + (1 << 14)].T)
    return file.getvalue()


def frequency_of(waveform, rate) -> float:
    spectrum = np.abs(np.fft.rfft(waveform))
    return float(np.fft.rfftfreq(len(waveform), 1 / rate)[spectrum.argmax()])


# --- names


def test_an_added_voice_is_found_by_name_and_id(voices, recording, dia, tmp_path):
    """A client that added a voice could not speak with it, or not after the server's restart."""
    info = voices.add("Anna", recording, "anna.wav", WORDS)
    assert info in voices.list()
    assert (info.name, info.type) == ("Anna", "audio_sample")
    assert info.created_at == int((tmp_path / "voices" / "Anna.safetensors").stat().st_mtime)
    restarted = ServedVoices(dia, tmp_path / "voices")
    for found in (voices.resolve("anna"), voices.resolve(info.id), restarted.resolve({"id": info.id})):
        assert found is not None
        assert found.transcript == WORDS
        assert found == VoiceLibrary(tmp_path / "voices").get("Anna")
    assert restarted.list()[0] == info


def test_codes_are_those_of_the_recording(voices, tone, dia):
    """The recording was changed before it was encoded."""
    waveform = tone(4.0, RATE)
    voice = voices.from_recording(encoded(waveform, subtype="FLOAT"), WORDS)
    assert voice == Voice.from_audio(waveform, WORDS, dia.processor, sampling_rate=RATE)


@pytest.mark.parametrize("name", [*OPENAI_VOICES, "Alloy", "default", "", None, {"id": "alloy"}])
def test_names_of_openai_are_the_model_own_voice(voices, name):
    """A client that sends one of OpenAI's names was refused."""
    assert voices.resolve(name) is None


def test_names_of_openai_are_listed(voices):
    """A client's menu of voices was empty, or had a name twice."""
    assert [info.id for info in voices.list()] == list(OPENAI_VOICES)
    assert {info.type for info in voices.list()} == {"built_in"}


def test_names_can_stand_for_saved_voices(voices, recording, dia):
    """The operator's choice for a name was ignored, or an upload could replace it."""
    voices.add("anna", recording, None, WORDS)
    named = ServedVoices(dia, voices.library.folder, {"Alloy": "anna", "narrator": "ANNA", "nova": "default"})
    assert named.resolve("alloy") == named.resolve("Narrator") == named.resolve("anna")
    assert named.resolve("nova") is None
    assert "narrator" in [info.name for info in named.list()]
    with pytest.raises(ValueError, match="there is already a voice 'alloy'"):
        named.add("alloy", recording, None, WORDS)


@pytest.mark.parametrize(("names", "error"), [({"alloy": "bob"}, "no voice 'bob'"), ({"Default": "echo"}, "'Default'")])
def test_names_are_checked_at_the_start(dia, tmp_path, names, error):
    """A mistyped name was reported by the first request that needed it."""
    with pytest.raises(ValueError, match=error):
        ServedVoices(dia, tmp_path, names)


def test_a_file_is_no_folder(dia, tmp_path):
    """A server whose folder of voices is a file started, and answered each upload with a status of 500."""
    file = tmp_path / "voices"
    file.write_text("", encoding="utf-8")
    with pytest.raises(OSError, match="is no folder of voices"):
        ServedVoices(dia, file)


def test_a_saved_voice_can_have_a_name_of_openai(voices, recording):
    """A voice that was added as "alloy" was not spoken with, was listed twice, or could not be deleted."""
    info = voices.add("alloy", recording, None, WORDS)
    assert voices.resolve("alloy") is not None
    assert [other.name for other in voices.list()].count("alloy") == 1
    assert voices.delete("alloy") == info
    assert voices.resolve("alloy") is None


def test_an_unknown_voice(voices, recording):
    """The error did not name what there is, had no bound, or revealed the server's folders."""
    voices.add("anna", recording, None, WORDS)
    for number in range(30):
        VoiceLibrary(voices.library.folder).add(f"b{number}", voices.resolve("anna"))
    with pytest.raises(ValueError, match=r"no voice 'bob'; there are anna, b0, .* and 24 more\.") as caught:
        voices.resolve("bob")
    assert "b29" not in str(caught.value)
    assert str(voices.library.folder) not in str(caught.value)
    with pytest.raises(ValueError, match="no voice") as caught:
        voices.resolve("x" * 10**6)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("voice", [{}, {"id": 3}, {"id": None}, {"name": "anna"}, 3, ["anna"]])
def test_voices_of_wrong_types(voices, voice):
    """A value of another type ended in a traceback."""
    with pytest.raises(ValueError, match="`voice` is"):
        voices.resolve(voice)


@pytest.mark.parametrize("name", ["../anna", "a/b", "", ".", "-x", "a\0b", "x" * 51, "x" * 10**6, "anna.safetensors"])
def test_hostile_names(voices, recording, name):
    """A client could write outside of the library, or hide a file in it."""
    with pytest.raises(ValueError, match="cannot be called") as caught:
        voices.add(name, recording, None, WORDS)
    assert len(str(caught.value)) < 400
    assert not voices.library.folder.exists()
    with pytest.raises((ValueError, KeyError)):
        assert voices.resolve(name or "..")
    with pytest.raises(KeyError):
        voices.delete(name)


@pytest.mark.parametrize("name", ["anna", "ANNA", "default", "Default"])
def test_taken_names(voices, recording, name):
    """An upload replaced the voice of another client, or the default of all."""
    before = voices.resolve(voices.add("anna", recording, None, WORDS).id)
    with pytest.raises(ValueError, match="already a voice") as caught:
        voices.add(name, recording, None, "Other words.")
    assert str(voices.library.folder) not in str(caught.value)
    assert voices.resolve("anna") == before


def test_an_id_is_no_name(voices, recording):
    """A client took the place of another client's voice by naming its own like the id of that one."""
    info = voices.add("anna", recording, None, WORDS)
    with pytest.raises(ValueError, match="already a voice"):
        voices.add(info.id, recording, None, "Other words.")
    VoiceLibrary(voices.library.folder).add(info.id, voices.from_recording(recording, "Other words."))
    assert voices.resolve(info.id).transcript == WORDS


def test_delete(voices, recording):
    """A deleted voice was spoken with, from the cache, or something else was deleted."""
    info, kept = voices.add("anna", recording, None, WORDS), voices.add("bob", recording, None, WORDS)
    assert voices.resolve("anna") is not None
    assert voices.delete(info.id) == info
    with pytest.raises(ValueError, match="no voice 'anna'"):
        voices.resolve("anna")
    for name in ("anna", info.id, "alloy", "default"):
        with pytest.raises(KeyError):
            voices.delete(name)
    assert voices.list()[0] == kept


def test_a_full_library(dia, tmp_path, recording):
    """Uploads without end filled the disk."""
    voices = ServedVoices(dia, tmp_path, max_voices=1)
    voices.add("anna", recording, None, WORDS)
    with pytest.raises(ValueError, match="at most 1 voices"):
        voices.add("bob", recording, None, WORDS)


# --- files


def test_files_are_loaded_once_and_again_when_they_change(voices, recording, monkeypatch):
    """Each request read the file, or a replaced voice was served from the cache."""
    voices.add("anna", recording, None, WORDS)
    first = voices.resolve("anna")
    assert voices.resolve("Anna") is first
    library = VoiceLibrary(voices.library.folder)
    library.add("anna", voices.from_recording(recording, "Welcome, Dia, and hello."), force=True)
    assert voices.resolve("anna").transcript == "Welcome, Dia, and hello."


def test_unusable_files_are_left_out(voices, recording, caplog):
    """One damaged file, or one of another codec, made the list of voices an error, or was offered in it."""
    good = voices.add("anna", recording, None, WORDS)
    (voices.library.folder / "damaged.safetensors").write_bytes(b"nothing")
    VoiceLibrary(voices.library.folder).add(
        "foreign", Voice(torch.zeros(50, 4, dtype=torch.long), WORDS, "0123456789abcdef", 44100, 512)
    )
    for _ in range(2):
        assert [info.id for info in voices.list()] == [good.id, *OPENAI_VOICES]
    messages = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(messages) == 2, "each is logged once"
    assert "damaged.safetensors" in messages[0] and "foreign.safetensors" in messages[1]
    for name in ("damaged", "foreign"):
        with pytest.raises(ValueError, match=f"'{name}' cannot be used") as caught:
            voices.resolve(name)
        assert str(voices.library.folder) not in str(caught.value)
        voices.delete(name)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_file_whose_name_is_no_text(voices, recording):
    """A file name in another encoding made the list of voices an error."""
    voices.add("anna", recording, None, WORDS)
    folder = os.fsencode(voices.library.folder)
    os.link(folder + b"/anna.safetensors", folder + b"/\xff.safetensors")
    names = [info.name for info in voices.list()]
    assert names == ["anna", *OPENAI_VOICES]
    with pytest.raises(ValueError, match="no voice"):
        voices.resolve("voice_unknown")


def test_many_at_once(voices, recording):
    """Two requests that added one name both succeeded, or one saw half of another's file."""

    def add(name):
        try:
            return voices.add(name, recording, None, f"{name}: {WORDS}")
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(add, ["anna", "bob", "anna", "Anna", "carl", "bob", "anna", "bob"]))
        listed = list(pool.map(lambda _: voices.list(), range(8)))
    added = [result for result in results if not isinstance(result, str)]
    assert sorted(info.name.casefold() for info in added) == ["anna", "bob", "carl"]
    assert all("already a voice" in result for result in results if isinstance(result, str))
    assert all(infos[:3] == sorted(added, key=lambda info: info.name) for infos in listed)


# --- recordings


@pytest.mark.parametrize("file_format", ["WAV", "FLAC", "OGG", "MP3", "AIFF"])
def test_formats_of_libsndfile(voices, tone, file_format):
    """A format that clients send was refused, or read at another speed."""
    stereo = np.stack([tone(4.0, 44100)] * 2)
    voice = voices.from_recording(encoded(stereo, 44100, file_format), WORDS)
    assert voice.seconds == pytest.approx(4.0, abs=0.1)
    waveform, rate = read_recording(encoded(stereo, 44100, file_format), 30)
    assert frequency_of(waveform.mean(axis=0), rate) == pytest.approx(220, abs=1)


@pytest.mark.parametrize(
    ("container", "codec", "pictures"),
    [
        ("webm", "libopus", False),
        ("webm", "libopus", True),
        ("mp4", "aac", False),
        ("ipod", "aac", False),
        ("mov", "alac", False),
        ("adts", "aac", False),
        ("ogg", "libopus", False),
        ("mp3", "libmp3lame", False),
    ],
)
def test_formats_of_browsers_and_phones(voices, tone, container, codec, pictures):
    """A recording of a browser or a telephone was refused, or read at another speed."""
    content = encode_recording(tone(4.0, 48000), container, codec, 48000, "vp8" if pictures else None)
    assert voices.from_recording(content, WORDS).seconds == pytest.approx(4.0, abs=0.1)
    waveform, rate = read_recording(content, 30)
    assert frequency_of(waveform[0], rate) == pytest.approx(220, abs=1)


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x7FFFFFFF])
def test_streamed_wav(recording, length):
    """A wav file whose header was written before its length was known was refused."""
    data = recording.index(b"data") + 4
    streamed = recording[:4] + struct.pack("<I", length) + recording[8:data] + struct.pack("<I", length)
    waveform, rate = read_recording(streamed + recording[data + 4 :], 30)
    assert waveform.shape[-1] / rate == pytest.approx(4.0, abs=0.01)


def test_streamed_flac(tone):
    """A flac file without a length in its header was refused."""
    content = bytearray(encoded(tone(4.0, RATE), file_format="FLAC"))
    content[21] &= 0xF0  # the length, 36 bits
    content[22:26] = bytes(4)
    waveform, rate = read_recording(bytes(content), 30)
    assert waveform.shape[-1] / rate == pytest.approx(4.0, abs=0.01)


@pytest.mark.parametrize("file_format", ["WAV", "FLAC", "OGG", "MP3", "webm"])
def test_a_recording_that_is_too_long(voices, file_format):
    """A small file of hours of silence took all memory, or the whole of it was decoded before it was refused."""
    rate = 48000
    minute = np.zeros(60 * rate, np.float32)
    minute[:rate] = 0.1
    webm = file_format == "webm"
    content = encode_recording(minute, "webm", "libopus", rate) if webm else encoded(minute, rate, file_format)
    with pytest.raises(ValueError, match=r"'a\.x': the recording is longer than 30 s"):
        voices.add("anna", content, "a.x", WORDS)


def test_decoding_ends_at_the_limit(monkeypatch, tone):
    """The rest of a recording that was already too long was decoded, too."""
    num_reads = []
    read = sf.SoundFile.read

    def counting(file, *args, **kwargs):
        part = read(file, *args, **kwargs)
        num_reads.append(len(part))
        return part

    content = encoded(np.zeros(300 * RATE, np.float32), file_format="FLAC")
    monkeypatch.setattr(sf.SoundFile, "read", counting)
    with pytest.raises(ValueError, match="longer than 2 s"):
        read_recording(content, 2)
    assert sum(num_reads) <= 3 * RATE


def damaged_flac() -> bytes:
    content = bytearray(encoded(np.zeros(RATE, np.float32), file_format="FLAC"))
    content[21] |= 0x0F
    content[22:26] = b"\xff" * 4
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "cannot be read as audio"),
        (b"RIFF", "cannot be read as audio"),
        (b"\xff" * 1000, "cannot be read as audio"),
        (b"no audio at all, but long enough to be something", "cannot be read as audio"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.wav\n", "cannot be read as audio"),
        (encoded(np.zeros(0, np.float32)), "0 samples|cannot be read"),
        (encoded(np.zeros(RATE, np.float32)), "silent"),
        (encoded(np.full(RATE, np.nan, np.float32), subtype="FLOAT"), "goes up to nan"),
        (encoded(np.full(RATE, 3e4, np.float32), subtype="FLOAT"), "goes up to 30000"),
        (encoded(np.full((9, RATE), 0.1, np.float32)), "9 channels"),
        (encoded(np.full(RATE, 0.1, np.float32), 400_000), "400000 Hz"),
        (encoded(np.full(RATE, 0.1, np.float32), 100), "100 Hz"),
    ],
)
def test_hostile_recordings(voices, content, error):
    """Content that is no recording ended in a traceback, or in a voice."""
    with pytest.raises(ValueError, match=error) as caught:
        voices.add("anna", content, "x" * 10**6, WORDS)
    assert len(str(caught.value)) < 500
    assert not voices.library.folder.exists()


def test_a_header_that_claims_too_many_samples():
    """Memory for what the header claims was allocated."""
    waveform, rate = read_recording(damaged_flac(), 30)
    assert waveform.shape[-1] == rate


def test_a_list_of_files_is_no_recording(recording, tmp_path):
    """FFmpeg read a file of the server that the uploaded content named."""
    (tmp_path / "secret.wav").write_bytes(recording)
    content = f"ffconcat version 1.0\nfile {tmp_path}/secret.wav\n".encode()
    with av.open(io.BytesIO(content), options={"safe": "0"}) as container:
        assert container.streams.audio, "without the list of allowed formats it would be read"
    with pytest.raises(ValueError, match="cannot be read as audio"):
        read_recording(content, 30)


# --- transcripts


@pytest.mark.parametrize("transcript", [None, "", "  "])
def test_a_missing_transcript(voices, recording, transcript):
    """The error did not say which field to send."""
    with pytest.raises(ValueError, match="field `transcript`, or `audio_prompt_transcript`"):
        voices.add("anna", recording, None, transcript)


def test_a_transcript_is_written_by_the_recognizer(dia, tmp_path, recording, tone):
    """A recording without a transcript was refused although there is a recognizer, or a given one was overwritten."""
    heard = []

    def recognize(waveform, sampling_rate):
        heard.append((waveform, sampling_rate))
        return "Welcome, Dia, and hello."

    recognizer = SimpleNamespace(sampling_rate=8000, transcribe=recognize)
    voices = ServedVoices(dia, tmp_path, transcribe_model=recognizer)
    voices.add("anna", recording)
    assert voices.resolve("anna").transcript == "Welcome, Dia, and hello."
    ((waveform, rate),) = heard
    assert rate == 8000 and len(waveform) == 4 * 8000
    voices.add("bob", recording, None, WORDS)
    assert voices.resolve("bob").transcript == WORDS and len(heard) == 1
    recognizer.transcribe = lambda waveform, sampling_rate: ""
    with pytest.raises(ValueError, match="the recognizer recognizes no words"):
        voices.add("carl", recording)


def test_an_unknown_recognizer_is_reported_at_the_start(dia, tmp_path):
    """A mistyped recognizer was reported by the first upload."""
    with pytest.raises(OSError, match="nowhere"):
        ServedVoices(dia, tmp_path, transcribe_model=tmp_path / "nowhere")


@pytest.mark.parametrize(("transcript", "error"), [("x" * 1201, "1201 characters"), ("[S1] [S2]", "no words")])
def test_transcripts_that_cannot_be(voices, recording, transcript, error):
    """A book was stored as the transcript of a recording, or tags without words."""
    with pytest.raises(ValueError, match=error):
        voices.add("anna", recording, None, transcript)


@pytest.mark.filterwarnings("error")
def test_odd_lengths_are_logged(voices, tone, caplog):
    """A warning of the library was an error of the request, or appeared nowhere."""
    waveform = tone(1.0, RATE)
    voice = voices.from_recording(encoded(waveform), "x" * 100)
    assert voice.seconds == pytest.approx(len(trim_silence(waveform, RATE)) / RATE, abs=0.1)
    assert [("1.0 s" in record.message) for record in caplog.records] == [True, True]
