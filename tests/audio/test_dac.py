import copy
import json
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import DacConfig, DacModel

from dia_hf import native
from dia_hf.audio import dac as dac_module
from dia_hf.audio.dac import DacCodec, load_dac

RATIOS = {"even": [2, 4], "odd": [3, 5]}  # with odd strides a clip has fewer samples than T · hop_length


def small_dac(ratios):
    """Make a codec whose output depends on every weight: default ones give small outputs and zero biases."""
    generator = torch.Generator().manual_seed(0)
    sizes = {"encoder_hidden_size": 4, "decoder_hidden_size": 4 * 2 ** len(ratios), "n_codebooks": 3}
    dac = DacModel(DacConfig(downsampling_ratios=ratios, codebook_size=64, **sizes)).eval()
    for name, parameter in dac.named_parameters():
        if name.endswith("alpha"):
            nn.init.uniform_(parameter, 0.5, 2, generator=generator)
        elif parameter.ndim == 3:
            nn.init.normal_(parameter, std=0.75 * parameter[0].numel() ** -0.5, generator=generator)
            if parameter.shape[-1] > 1:
                parameter.data -= parameter.data.mean(-1, keepdim=True)  # or the constant part outshouts the signal
        else:
            nn.init.normal_(parameter, std=1 if "codebook" in name else 0.1, generator=generator)
    return dac


SMALL = {name: small_dac(ratios) for name, ratios in RATIOS.items()}


@torch.no_grad()
def encode_alone(dac, wave):
    """Encode one whole clip by the network's own functions."""
    wave = nn.functional.pad(wave, (0, -len(wave) % dac.config.hop_length)).to(dac.dtype)
    return dac.encode(wave[None, None]).audio_codes[0].T


@torch.no_grad()
def decode_alone(dac, codes):
    return dac.decode(audio_codes=codes.T[None]).audio_values[0].float() if len(codes) else torch.zeros(0)


def assert_same_sound(ours, alone, atol=1e-5):
    torch.testing.assert_close(ours, alone, rtol=0, atol=atol)


def random_wave(num_samples):
    return torch.randn(num_samples, generator=torch.Generator().manual_seed(num_samples))


def random_codes(num_frames, num_codebooks=3, codebook_size=64):
    shape = (num_frames, num_codebooks)
    return torch.randint(codebook_size, shape, generator=torch.Generator().manual_seed(num_frames))


@pytest.fixture(scope="module", autouse=True, params=["operator", "plan"])
def path(request):
    """Every test runs with the C++ operator and without."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "plan":
            patch.setattr(dac_module, "native_decoder_of", lambda model, plan: None)
        elif native.library() is None:
            pytest.skip(f"no C++ operator: {native.unavailable_reason()}")
        yield request.param


@pytest.fixture(scope="module")
def dac(pack):
    return DacModel.from_pretrained(pack / "dac_44khz").eval()


@pytest.fixture(scope="module")
def codec(dac):
    return DacCodec(dac)


def test_geometry_comes_from_the_codec(codec):
    """A hop length in two places was wrong for the second codec."""
    assert (codec.sampling_rate, codec.hop_length, codec.num_codebooks, codec.codebook_size) == (44100, 512, 9, 1024)
    assert codec.frame_rate == pytest.approx(86.13, abs=0.01)


@pytest.mark.parametrize("num_samples", [1, 511, 512, 513, 5000])
def test_encode_pads_to_whole_frames(codec, dac, num_samples):
    """The last part of a frame was dropped, or a whole frame of silence added."""
    wave = torch.randn(num_samples)
    (codes,) = codec.encode([wave])
    assert codes.shape == (-(-num_samples // 512), 9)
    padded = torch.zeros(len(codes) * 512)
    padded[:num_samples] = wave
    assert torch.equal(codes, dac.encode(padded[None, None]).audio_codes[0].T)


def test_clips_of_a_batch_equal_clips_alone(codec):
    """Zero padding up to the longest clip changes the codes near a shorter clip's end."""
    waves = [torch.randn(n) for n in (700, 3000, 1500)]
    for together, wave in zip(codec.encode(waves), waves, strict=True):
        assert torch.equal(together, codec.encode([wave])[0])
    codes = codec.encode(waves)
    for together, clip in zip(codec.decode(codes), codes, strict=True):
        assert torch.equal(together, codec.decode([clip])[0])


def test_decode(codec, dac, path):
    """Channels and frames swapped decode to noise of the right length."""
    codes = torch.randint(0, 1024, (20, 9))
    (wave,) = codec.decode([codes])
    assert wave.shape == (20 * 512,) and wave.dtype == torch.float32
    alone = decode_alone(dac, codes)
    assert_same_sound(1000 * wave, 1000 * alone)
    if path == "plan":
        assert torch.equal(wave, alone)


def test_no_frames(codec):
    """An end of speech in the first frame made the codec raise."""
    assert codec.decode([torch.zeros(0, 9, dtype=torch.long)])[0].shape == (0,)


@pytest.mark.parametrize(("code", "message"), [(1024, "0 to 1023"), (-1, "-1")])
def test_what_is_no_code_raises(codec, code, message):
    """Special tokens were mapped to code 0, and were audible as clicks."""
    codes = torch.zeros(4, 9, dtype=torch.long)
    codes[2, 3] = code
    with pytest.raises(ValueError, match=message):
        codec.decode([codes])


def test_wrong_number_of_channels(codec):
    """Codes with channels first went through where both lengths happened to be 9."""
    with pytest.raises(ValueError, match=r"expected \[frames, 9\]"):
        codec.decode([torch.zeros(9, 8, dtype=torch.long)])


def test_half_precision_codec(pack):
    """A bfloat16 codec failed on float32 audio."""
    codec = DacCodec(DacModel.from_pretrained(pack / "dac_44khz", dtype=torch.bfloat16))
    (codes,) = codec.encode([torch.randn(2000)])
    assert codes.shape == (4, 9)
    assert codec.decode([codes])[0].dtype == torch.float32


# Many clips in one pass, long clips in several

networks = st.sampled_from(sorted(SMALL))
num_extra_frames = st.integers(0, 50)  # by which a pass is longer than a single frame between its margins


def codec_with(dac, num_extra_frames):
    codec = DacCodec(dac)
    smallest = 2 * max(codec.encoder_margin, codec.decoder_margin) + 1
    return DacCodec(dac, max_frames_per_batch=smallest + num_extra_frames)


def test_small_networks_can_fail_these_tests():
    """A codec that is silent, saturated or of a single code passes any test of equality."""
    for dac in SMALL.values():
        assert 0.1 < decode_alone(dac, random_codes(100)).std() < 0.8
        assert all(len(channel.unique()) > 10 for channel in encode_alone(dac, random_wave(100 * 15)).T)


@settings(max_examples=30)
@given(networks, st.lists(st.integers(0, 500), max_size=6))
def test_any_batch_encodes_as_its_clips_alone(name, lengths):
    """Padding, as changed by the layers, leaked over a shorter clip's end through each convolution."""
    waves = [random_wave(length) for length in lengths]
    before = copy.deepcopy(waves)
    codes = DacCodec(SMALL[name]).encode(waves)
    for clip, wave, same in zip(codes, waves, before, strict=True):
        expected = encode_alone(SMALL[name], wave) if len(wave) else torch.zeros(0, 3, dtype=torch.long)
        assert clip.dtype == torch.long and clip.is_contiguous() and torch.equal(clip, expected)
        assert torch.equal(wave, same)


@settings(max_examples=30)
@given(networks, st.lists(st.integers(0, 60), max_size=6))
def test_any_batch_decodes_as_its_clips_alone(name, lengths):
    """A clip in a batch with a longer one ended in a click, or had the wrong length or position."""
    codes = [random_codes(length) for length in lengths]
    before = copy.deepcopy(codes)
    for wave, clip, same in zip(DacCodec(SMALL[name]).decode(codes), codes, before, strict=True):
        assert_same_sound(wave, decode_alone(SMALL[name], clip))
        assert torch.equal(clip, same)


@settings(max_examples=40)
@given(networks, st.integers(1, 150), num_extra_frames)
def test_windows_encode_as_the_whole_clip(name, num_frames, num_extra_frames):
    """Codes at the border of two windows differed from those of the whole clip."""
    codec = codec_with(SMALL[name], num_extra_frames)
    wave = random_wave(num_frames * codec.hop_length - 2)
    assert torch.equal(codec.encode([wave])[0], encode_alone(SMALL[name], wave))


@settings(max_examples=40)
@given(networks, st.integers(1, 150), num_extra_frames)
def test_windows_decode_as_the_whole_clip(name, num_frames, num_extra_frames):
    """The border of two windows clicked; with odd strides it was shifted by a sample, or the end was cut."""
    codes = random_codes(num_frames)
    (wave,) = codec_with(SMALL[name], num_extra_frames).decode([codes])
    assert_same_sound(wave, decode_alone(SMALL[name], codes))


@settings(max_examples=20)
@given(networks, st.lists(st.integers(0, 100), max_size=5), num_extra_frames)
def test_windows_of_many_clips_share_passes(name, lengths, num_extra_frames):
    """Windows were returned sorted by length instead of in the order of the clips."""
    codec = codec_with(SMALL[name], num_extra_frames)
    waves = [random_wave(length * codec.hop_length) for length in lengths]
    for clip, wave in zip(codec.encode(waves), waves, strict=True):
        assert len(wave) == 0 or torch.equal(clip, encode_alone(SMALL[name], wave))
    codes = [random_codes(length) for length in lengths]
    for wave, clip in zip(codec.decode(codes), codes, strict=True):
        assert_same_sound(wave, decode_alone(SMALL[name], clip))


@settings(max_examples=20)
@given(lengths=st.lists(st.integers(1, 300), min_size=1, max_size=12))
def test_passes_are_bounded(lengths):
    """Ten minutes of audio in one batch ran out of memory, as did many short clips padded to a long one."""
    dac = copy.deepcopy(SMALL["even"])
    passes = []
    dac.decoder.conv1.register_forward_pre_hook(lambda _, inputs: passes.append(inputs[0].shape))
    codec = DacCodec(dac, max_frames_per_batch=100)
    codec.decode([random_codes(length) for length in lengths])
    num_windows = sum(-(-length // (100 - 2 * codec.decoder_margin)) for length in lengths)
    assert all(batch[0] * batch[-1] <= 100 for batch in passes)
    with_margins = sum(lengths) + 2 * codec.decoder_margin * num_windows
    assert sum(batch[0] * batch[-1] for batch in passes) <= 4 / 3 * with_margins


def test_clips_of_one_length_share_a_pass():
    """A batch of clips went through the network one at a time."""
    dac = copy.deepcopy(SMALL["even"])
    passes = []
    dac.decoder.conv1.register_forward_pre_hook(lambda _, inputs: passes.append(inputs[0].shape))
    DacCodec(dac).decode([random_codes(20)] * 5)
    assert [batch[0] for batch in passes] == [5]


def test_a_clip_that_fits_is_not_cut():
    """A clip as long as a batch was computed in two windows, with its margins twice."""
    dac = copy.deepcopy(SMALL["even"])
    passes = []
    dac.decoder.conv1.register_forward_pre_hook(lambda _, inputs: passes.append(inputs[0].shape[-1]))
    DacCodec(dac, max_frames_per_batch=100).decode([random_codes(100)])
    assert passes == [100]


def test_a_pass_holds_a_frame_and_its_margins():
    """Windows of 0 frames made an endless loop."""
    with pytest.raises(ValueError, match=r"is 38; .* takes 39"):
        DacCodec(SMALL["even"], max_frames_per_batch=38)
    DacCodec(SMALL["even"], max_frames_per_batch=39)


def test_a_codec_of_the_published_size(codec, dac):
    """Four blocks of strides 2, 4, 8 and 8 have edge cases that two blocks have not."""
    codes = [random_codes(length, 9, 1024) for length in (50, 23, 49, 1)]
    windowed = DacCodec(dac, max_frames_per_batch=30)
    for batch in (codec.decode(codes), windowed.decode(codes)):
        for wave, clip in zip(batch, codes, strict=True):
            assert_same_sound(1000 * wave, 1000 * decode_alone(dac, clip))
    waves = [random_wave(length) for length in (20000, 11111, 1)]
    for batch in (codec.encode(waves), windowed.encode(waves)):
        for clip, wave in zip(batch, waves, strict=True):
            assert torch.equal(clip, encode_alone(dac, wave))


# The margins


def test_margins_of_the_published_codec():
    """The documentation states these margins, which set the latency of a stream."""
    with torch.device("meta"):
        codec = DacCodec(DacModel(DacConfig()))
    assert (codec.encoder_margin, codec.decoder_margin) == (8, 10)


@pytest.mark.parametrize("ratios", [[2, 4], [3, 5], [2, 4, 8, 8]], ids=str)
def test_margins_are_sufficient_and_necessary(ratios):
    """A margin that is too small causes clicks; one that is too large delays each stream."""
    # In float64, as an edge of the receptive field is worth little. The network's own functions, undivided.
    dac = small_dac(ratios).double()
    codec = DacCodec(dac)
    hop_length = codec.hop_length

    @torch.no_grad()
    def latents_of(samples):
        return dac.encoder(samples.view(1, 1, -1))[0].T

    @torch.no_grad()
    def sound_of(codes):
        return (
            dac.decode(audio_codes=codes.T[None]).audio_values[0, : (len(codes) - 1) * hop_length].view(-1, hop_length)
        )

    for margin, network, clip in (
        (codec.encoder_margin, latents_of, random_wave(60 * hop_length).double().view(-1, hop_length)),
        (codec.decoder_margin, sound_of, random_codes(60)),
    ):
        expected = network(clip)[30]

        def changes(frame, network=network, clip=clip, expected=expected):
            changed = clip.clone()
            changed[frame] = clip[frame].flip(0) + 1 if clip.is_floating_point() else (clip[frame] + 1) % 64
            return not torch.equal(network(changed)[30], expected)

        assert not any(changes(frame) for frame in (0, 29 - margin, 31 + margin, 59))
        assert changes(30 - margin) or changes(30 + margin)


# A growing clip


@settings(max_examples=40)
@given(networks, st.lists(st.integers(0, 40), max_size=8), num_extra_frames, st.data())
def test_a_stream_is_the_clip_in_portions(name, chunks, num_extra_frames, data):
    """Borders of portions clicked, and with odd strides samples were shifted against the codes."""
    codes = random_codes(sum(chunks))
    codec = codec_with(SMALL[name], num_extra_frames)
    stream = codec.stream()
    portions = []
    num_popped = 0
    for chunk in codes.split(chunks):
        stream.push(chunk)
        num_popped += (count := data.draw(st.integers(0, stream.num_ready)))
        portions.append(stream.pop(count))
        assert portions[-1].shape == (count * codec.hop_length,) and portions[-1].dtype == torch.float32
    assert stream.num_ready <= max(len(codes) - codec.decoder_margin - num_popped, 0)
    stream.close()
    assert stream.num_ready == len(codes) - num_popped
    while stream.num_ready > 0:
        portions.append(stream.pop(data.draw(st.integers(1, stream.num_ready))))
    assert stream.pop(0).shape == (0,)
    assert_same_sound(torch.cat([torch.zeros(0), *portions]), decode_alone(SMALL[name], codes))


@settings(max_examples=15)
@given(networks, st.lists(st.integers(0, 50), min_size=1, max_size=5), st.data())
def test_streams_popped_together_are_popped_alone(name, lengths, data):
    """A clip shorter than the others of its batch ended with their samples."""
    codec = DacCodec(SMALL[name])
    streams, portions = [codec.stream() for _ in lengths], [[] for _ in lengths]
    codes = [random_codes(length) for length in lengths]
    for stream, clip in zip(streams, codes, strict=True):
        stream.push(clip)
    for is_closed in (False, True):
        for stream in streams:
            if is_closed:
                stream.close()
        counts = [stream.num_ready if is_closed else data.draw(st.integers(0, stream.num_ready)) for stream in streams]
        for portion, wave in zip(portions, codec.pop_many(streams, counts), strict=True):
            portion.append(wave)
    for portion, clip in zip(portions, codes, strict=True):
        assert_same_sound(torch.cat(portion), decode_alone(SMALL[name], clip))


def test_all_but_the_margin_is_ready():
    """One frame too many delays a stream; one too few causes clicks."""
    codec = DacCodec(SMALL["even"])
    stream = codec.stream()
    stream.push(random_codes(codec.decoder_margin))
    assert stream.num_ready == 0
    stream.push(random_codes(5))
    assert stream.num_ready == 5
    stream.pop(3)
    assert stream.num_ready == 2


def test_a_stream_keeps_what_it_needs():
    """A stream of an hour kept an hour of codes, as the storage behind a slice."""
    codec = DacCodec(SMALL["even"])
    stream = codec.stream()
    for _ in range(20):
        stream.push(random_codes(40))
        stream.pop(stream.num_ready)
        (kept,) = [value for value in vars(stream).values() if isinstance(value, torch.Tensor)]
        assert kept.untyped_storage().nbytes() <= 2 * codec.decoder_margin * 3 * 8


def test_a_stream_keeps_codes_of_its_own():
    """The stream kept the caller's buffer, which was overwritten with the next codes."""
    codec = DacCodec(SMALL["even"])
    codes, stream = random_codes(30), codec.stream()
    buffer = codes.clone()
    stream.push(buffer)
    buffer.zero_()
    stream.close()
    assert_same_sound(stream.pop(30), decode_alone(SMALL["even"], codes))


@pytest.mark.parametrize("name", sorted(SMALL))
def test_an_empty_stream(name):
    """An end of speech in the first frame made the stream raise."""
    stream = DacCodec(SMALL[name]).stream()
    assert stream.num_ready == 0 and stream.pop(0).shape == (0,)
    stream.push(random_codes(0))
    stream.close()
    assert stream.num_ready == 0 and stream.pop(0).shape == (0,)


def test_misuse_of_a_stream_raises_and_changes_nothing():
    """Missing frames were decoded as silence, and a failed pop lost samples of the other clips."""
    codec = DacCodec(SMALL["even"])
    stream, other = codec.stream(), codec.stream()
    stream.push(random_codes(30))
    other.push(random_codes(30))
    ready = stream.num_ready
    for count in (ready + 1, -1):
        with pytest.raises(ValueError, match=f"{ready} are ready"):
            codec.pop_many([other, stream], [1, count])
    with pytest.raises(ValueError, match="twice"):
        codec.pop_many([stream, stream], [1, 1])
    with pytest.raises(ValueError, match="another codec"):
        DacCodec(SMALL["odd"]).pop_many([stream], [1])
    with pytest.raises(ValueError, match="shorter"):
        codec.pop_many([other, stream], [1])
    with pytest.raises(ValueError, match=r"expected \[frames, 3\]"):
        stream.push(torch.zeros(3, 4, dtype=torch.long))
    with pytest.raises(ValueError, match="0 to 63"):
        stream.push(torch.full((1, 3), 64))
    assert stream.num_ready == other.num_ready == ready
    stream.close()
    with pytest.raises(ValueError, match="closed"):
        stream.push(random_codes(1))


# Dtypes, networks, threads


@pytest.mark.parametrize(
    ("dtype", "atol"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05), (torch.float16, 0.005)], ids=str
)
def test_any_dtype_of_the_codec(dtype, atol):
    """A half-precision codec failed on float32 audio, or returned half-precision samples."""
    dac = copy.deepcopy(SMALL["odd"]).to(dtype)
    codec = codec_with(dac, 20)
    waves = [random_wave(length).to(kind) for length, kind in ((1200, torch.float64), (300, torch.bfloat16))]
    for codes, wave in zip(codec.encode(waves), waves, strict=True):
        assert codes.dtype == torch.long
        assert (codes == encode_alone(dac, wave)).float().mean() > (0.999 if dtype == torch.float32 else 0.9)
    clips = [random_codes(80).to(torch.int32), random_codes(20).to(torch.uint8)]
    for wave, clip in zip(codec.decode(clips), clips, strict=True):
        assert wave.dtype == torch.float32
        assert_same_sound(wave, decode_alone(dac, clip.long()), atol)


def test_weight_norm_works_by_itself():
    """Convolutions with weight norm are parametrized: other class names, and children."""
    dac = copy.deepcopy(SMALL["odd"])
    dac.apply_weight_norm()
    codes = [random_codes(30), random_codes(24)]
    for wave, clip in zip(DacCodec(dac).decode(codes), codes, strict=True):
        assert_same_sound(wave, decode_alone(SMALL["odd"], clip))


@pytest.mark.parametrize("num_dims", [0, 2])
def test_a_waveform_has_one_dimension(num_dims):
    """A waveform `[1, N]` became a batch of its samples."""
    with pytest.raises(ValueError, match=r"expected \[samples\]"):
        DacCodec(SMALL["even"]).encode([torch.zeros([1] * num_dims)])


def test_codes_are_integers():
    """Floats were truncated silently."""
    with pytest.raises(ValueError, match=r"float32; expected integers"):
        DacCodec(SMALL["even"]).decode([torch.full((4, 3), 0.5)])


@pytest.mark.parametrize(
    "layer", [nn.GELU(), nn.Conv1d(4, 4, 3, padding=1, padding_mode="reflect")], ids=["GELU", "reflect"]
)
def test_an_unknown_layer_raises(layer):
    """An unknown layer, called wrongly, gave a small error that is hard to notice."""
    dac = copy.deepcopy(SMALL["even"])
    dac.decoder.block[1].snake1 = layer
    with pytest.raises(TypeError, match=f"not known here, {type(layer).__name__}"):
        DacCodec(dac)


def test_two_threads_share_a_codec():
    """Lengths of one thread's clips, stored on the model, truncated those of another."""
    codec = DacCodec(SMALL["odd"])
    batches = [[random_codes(n) for n in (40, 37, 31)], [random_codes(n) for n in (29, 23, 30)]]
    expected = [codec.decode(batch) for batch in batches]
    barrier, results = threading.Barrier(2), [[], []]

    def work(number):
        barrier.wait()
        for _ in range(10):
            results[number].append(codec.decode(batches[number]))

    threads = [threading.Thread(target=work, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for waves, rounds in zip(expected, results, strict=True):
        assert len(rounds) == 10
        for round in rounds:
            for wave, same in zip(round, waves, strict=True):
                assert_same_sound(wave, same)


def test_the_fingerprint_tells_codebooks_apart():
    """A voice of another codec was accepted, or one of the same codec in bfloat16 refused."""
    fingerprint = DacCodec(SMALL["odd"]).fingerprint
    assert len(fingerprint) == 16 and set(fingerprint) <= set("0123456789abcdef")
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert DacCodec(copy.deepcopy(SMALL["odd"]).to(dtype)).fingerprint == fingerprint
    other = copy.deepcopy(SMALL["odd"])
    with torch.no_grad():
        other.quantizer.quantizers[2].codebook.weight[63, 7].neg_()
    assert DacCodec(other).fingerprint != fingerprint


def test_the_fingerprint_stays(codec):
    """A release with another computation would refuse all saved voices."""
    assert codec.fingerprint == "72d0d2aa3b384a02"


# A codec's files


def _cut(file):
    file.write_bytes(file.read_bytes()[:-1000])


def _edit(change):
    def edit(file):
        weights = load_file(file)
        change(weights)
        save_file(weights, file, metadata={"format": "pt"})

    return edit


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        (
            "model.safetensors",
            _edit(lambda w: w.pop("decoder.conv1.bias")),
            r"lacks 1 tensors, such as 'decoder\.conv1",
        ),
        ("model.safetensors", _edit(lambda w: w.update(more=torch.zeros(2))), "beyond those of a DacModel, 1 tensors"),
        ("model.safetensors", _edit(lambda w: w.update({"decoder.conv1.bias": torch.zeros(7)})), "cannot be loaded"),
        ("model.safetensors", _cut, "cannot be loaded"),
        ("config.json", lambda file: file.write_text("[1]"), "config.json cannot be used: it holds a list"),
        ("config.json", lambda file: file.write_text("{"), "config.json cannot be used"),
        ("config.json", lambda file: file.write_text("[" * 10**5), "config.json cannot be used"),
        ("config.json", lambda file: file.write_text('{"model_type": "dia"}'), "`model_type` is 'dia'"),
        ("config.json", lambda file: file.write_text('{"n_codebooks": "nine"}'), "n_codebooks"),
        ("config.json", lambda file: file.write_text('{"n_codebooks": 9000000000}'), "is 9000000000; a codec has 1 to"),
    ],
)
def test_a_damaged_codec(tmp_path, name, damage, message):
    """Missing tensors were initialized at random, with a log entry only, and the output was noise."""
    SMALL["even"].save_pretrained(tmp_path)
    assert DacCodec(load_dac(tmp_path)).fingerprint == DacCodec(SMALL["even"]).fingerprint
    damage(tmp_path / name)
    with pytest.raises(ValueError, match=message) as info:
        load_dac(tmp_path)
    assert str(tmp_path) in str(info.value)


def test_a_codec_without_config(tmp_path):
    """Default sizes were used instead of the missing file."""
    SMALL["even"].save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(OSError, match=r"config\.json"):
        load_dac(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(SMALL["even"].config.to_dict()))
    assert load_dac(tmp_path).config.n_codebooks == 3
