"""The C++ decoder against the network's own layers."""

import copy
import ctypes
import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers.models.dac.modeling_dac import Snake1d

from dia_hf import MINIATURE, native
from dia_hf.audio.dac import DacCodec, load_dac
from dia_hf.audio.layers import make_plan, run_plan
from dia_hf.audio.native_decoder import NativeDecoder, native_decoder_of

from .test_dac import SMALL, random_codes

pytestmark = pytest.mark.skipif(native.library() is None, reason=f"no C++ operator: {native.unavailable_reason()}")


def usable_libraries():
    """Load the operators for each instruction set that this processor has."""
    if native.library() is None:
        return {}
    folder, extensions = native._FOLDER, native._extensions_of_this_processor()
    loaded = {}
    for name, needed in native.VARIANTS.items():
        file = folder / native.library_name(name)
        if extensions.issuperset(needed) and file.is_file():
            loaded[name] = ctypes.CDLL(str(file))
            loaded[name].dia_set_openmp(native._openmp())
    return loaded


LIBRARIES = usable_libraries()


class ResidualUnit(nn.Sequential):
    """Known to `make_plan` by its name."""


class Quantizer(nn.Module):
    """One codebook, whose entries are the inputs of the network."""

    def __init__(self, entries, projection=None):
        super().__init__()
        self.codebook = nn.Embedding.from_pretrained(entries)
        channels = entries.shape[1]
        self.out_proj = nn.Conv1d(channels, channels, 1) if projection is None else projection
        if projection is None:
            self.out_proj.weight.data = torch.eye(channels)[:, :, None]
            self.out_proj.bias.data.zero_()


def model_of(*quantizers):
    return SimpleNamespace(quantizer=SimpleNamespace(quantizers=list(quantizers)), dtype=torch.float32)


def decode(decoder, codes, sizes=()):
    """Decode a clip in pieces."""
    clips, parts = [decoder.begin()], []
    for piece in codes.split([*sizes, len(codes) - sum(sizes)]):
        clips, samples = decoder.push(clips, [piece], [False])
        parts += samples
    _, samples = decoder.push(clips, [codes[:0]], [True])
    return torch.cat([*parts, *samples])


def random_layers(draw, channels):
    """Draw layers of a decoder; every parameter is random."""
    layers = []
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["conv", "transposed", "unit"]))
        out = draw(st.sampled_from([1, 3, 16, 50, 100]))
        kernel, dilation = draw(st.sampled_from([1, 3, 7])), draw(st.sampled_from([1, 3, 9]))
        same = {"padding": dilation * (kernel - 1) // 2, "dilation": dilation}
        has_bias = draw(st.booleans())
        if kind == "conv":
            layers.append(nn.Conv1d(channels, out, kernel, bias=has_bias, **same))
            channels = out
        elif kind == "transposed":
            stride = draw(st.integers(2, 8))
            layers.append(Snake1d(channels))
            layers.append(
                nn.ConvTranspose1d(channels, out, 2 * stride, stride, padding=math.ceil(stride / 2), bias=has_bias)
            )
            channels = out
        else:
            if not layers or not isinstance(layers[-1], ResidualUnit):
                layers.append(nn.Conv1d(channels, channels, 3, padding=1))
            conv = nn.Conv1d(channels, channels, kernel, bias=has_bias, **same)
            layers.append(ResidualUnit(Snake1d(channels), conv, Snake1d(channels), nn.Conv1d(channels, channels, 1)))
    layers += [Snake1d(channels), nn.Conv1d(channels, 1, 7, padding=3), nn.Tanh()]
    network = nn.Sequential(*layers)
    for name, parameter in network.named_parameters():
        if name.endswith("alpha"):
            nn.init.uniform_(parameter, -2, 2)
        else:
            nn.init.normal_(parameter, std=0.8 * parameter[0].numel() ** -0.5 if parameter.ndim == 3 else 0.1)
    return network


@settings(deadline=None, max_examples=60)
@given(data=st.data())
@torch.no_grad()
def test_any_network_is_its_layers(data):
    """Widths beside a panel, odd strides, wide dilations or a missing bias were wrong beside the published codec."""
    torch.manual_seed(data.draw(st.integers(0, 99)))
    channels = data.draw(st.sampled_from([3, 17, 40]))
    plan = make_plan(random_layers(data.draw, channels))
    entries = torch.randn(64, channels)
    sizes = data.draw(st.lists(st.integers(0, 9), max_size=6))
    codes = torch.randint(64, (sum(sizes) + data.draw(st.integers(1, 40)), 1))
    expected = run_plan(plan, entries[codes[:, 0]].T[None].clone(), [len(codes)])[0].flatten()
    for library in LIBRARIES.values():
        decoder = NativeDecoder(model_of(Quantizer(entries)), plan, library)
        whole = decode(decoder, codes)
        torch.testing.assert_close(whole, expected, rtol=0, atol=3e-6)
        assert torch.equal(decode(decoder, codes, sizes), whole)


@pytest.mark.parametrize("variant", LIBRARIES)
@pytest.mark.parametrize("alpha", [1.0, 0.05, 30.0, -2.0, 0.0, 1e-12])
@torch.no_grad()
def test_snake_of_any_argument(variant, alpha):
    """A short polynomial was wrong for large arguments, where the sine of a float32 needs many digits of pi."""
    sizes = torch.logspace(-6, 9, 1 << 13)
    values = torch.cat([sizes, -sizes, torch.linspace(-50, 50, 1 << 14), torch.tensor([0.0, math.inf, math.nan])])
    entries = values[:, None].repeat(1, 3)
    snake, select = Snake1d(3), nn.Conv1d(3, 1, 1, bias=False)
    snake.alpha.fill_(alpha)
    select.weight.copy_(torch.tensor([[[0.0], [1.0], [0.0]]]))
    entries[:, [0, 2]] = 0.0
    decoder = NativeDecoder(model_of(Quantizer(entries)), make_plan(nn.Sequential(snake, select)), LIBRARIES[variant])
    found = decode(decoder, torch.arange(len(values))[:, None])
    wave = (snake.alpha.flatten()[1] * values).double().sin()
    expected = values.double() + wave.square() / (snake.alpha.flatten()[1] + 1e-9).double()
    assert (found.isnan() == expected.isnan()).all()
    is_number = ~expected.isnan()
    scale = expected.abs() + 1 / (abs(alpha) + 1e-9)
    error = ((found.double() - expected) / scale)[is_number].abs().max()
    assert error < 2e-7


def test_a_clip_has_the_same_bits_in_any_company():
    """The same request sounded different, by the last bit, from one call to the next, because of the load."""
    codec = DacCodec(SMALL["odd"])
    codes = [random_codes(length) for length in (70, 1, 33, 12)]
    for wave, clip in zip(codec.decode(codes), codes, strict=True):
        assert torch.equal(wave, codec.decode([clip])[0])
    streams, portions = [codec.stream() for _ in codes], [[] for _ in codes]
    for begin in range(0, 70, 5):
        for stream, clip in zip(streams, codes, strict=True):
            if not stream.is_closed:
                stream.push(clip[begin : begin + 5])
                if begin + 5 >= len(clip):
                    stream.close()
        for portion, wave in zip(portions, codec.pop_many(streams, [s.num_ready for s in streams]), strict=True):
            portion.append(wave)
    for portion, clip in zip(portions, codes, strict=True):
        assert torch.equal(torch.cat(portion), codec.decode([clip])[0])


def test_threads_do_not_change_bits():
    """Sums were split among threads."""
    codec, codes, before = DacCodec(SMALL["even"]), [random_codes(60)], torch.get_num_threads()
    results = []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            results += codec.decode(codes)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@pytest.mark.parametrize(
    "change",
    [
        lambda dac: dac.decoder.block[0].res_unit1.conv1.weight.data.mul_(1.5),
        lambda dac: nn.init.ones_(dac.decoder.conv1.bias),
        lambda dac: nn.init.zeros_(dac.decoder.snake1.alpha),
        lambda dac: dac.quantizer.quantizers[1].codebook.weight.data.neg_(),
        lambda dac: dac.load_state_dict({name: 0.9 * value for name, value in dac.state_dict().items()}),
        lambda dac: setattr(dac.decoder.conv2, "weight", nn.Parameter(2 * dac.decoder.conv2.weight)),
        lambda dac: dac.decoder.conv2.register_forward_hook(lambda *arguments: 2 * arguments[-1]),
    ],
    ids=["data", "bias", "alpha", "codebook", "load", "parameter", "hook"],
)
@torch.no_grad()
def test_weights_that_change(change):
    """The copy of the weights was older than the weights."""
    dac, codes = copy.deepcopy(SMALL["even"]), random_codes(20)
    codec = DacCodec(dac)
    before = codec.decode([codes])[0]
    change(dac)
    (after,) = codec.decode([codes])
    torch.testing.assert_close(after, dac.decode(audio_codes=codes.T[None]).audio_values[0], rtol=0, atol=1e-5)
    assert not torch.equal(before, after)


def test_the_copy_is_kept_while_weights_stay():
    """The weights were packed again for each chunk of a stream."""
    codec = DacCodec(copy.deepcopy(SMALL["even"]))
    first = native_decoder_of(codec.model, codec._decoder)
    assert first is not None and native_decoder_of(codec.model, codec._decoder) is first
    codec.model.to(torch.float64)
    assert native_decoder_of(codec.model, codec._decoder) is None


def relative_rms(found, expected):
    return float((found - expected).square().mean().sqrt() / expected.square().mean().sqrt())


@pytest.mark.parametrize("name", [*SMALL, "miniature"])
@torch.no_grad()
def test_bfloat16_is_closer_to_float32_than_the_layers(name):
    """Residuals rounded to bfloat16 after each unit added up."""
    dac = load_dac(MINIATURE, subfolder="audio_tokenizer") if name == "miniature" else copy.deepcopy(SMALL[name])
    codes = random_codes(200, dac.config.n_codebooks, dac.config.codebook_size)
    (exact,) = DacCodec(dac).decode([codes])
    dac.to(torch.bfloat16)
    (found,) = DacCodec(dac).decode([codes])
    layers = dac.decode(audio_codes=codes.T[None]).audio_values[0].float()
    error = relative_rms(found, exact)
    assert error < min(0.02, relative_rms(layers, exact))
    assert error > 0 or native.variant_name() != "avx512-bf16"  # the others compute bfloat16 weights in float32


def test_a_stream_goes_on_after_the_dtype_has_changed():
    """The state of a stream in float32 was read as bfloat16."""
    dac, codes = copy.deepcopy(SMALL["even"]), random_codes(60)
    codec = DacCodec(dac)
    (exact,) = codec.decode([codes])
    stream = codec.stream()
    stream.push(codes)
    stream.close()
    parts = [stream.pop(20)]
    for dtype in (torch.bfloat16, torch.float16):
        dac.to(dtype)
        parts.append(stream.pop(20))
    torch.testing.assert_close(torch.cat(parts), exact, rtol=0, atol=0.1)


def test_memory_does_not_grow_with_the_clip():
    """Ten minutes of speech needed the memory of all their samples in 96 channels."""
    sizes = []
    for length in (320, 3200):
        codec = DacCodec(copy.deepcopy(SMALL["even"]))
        codec.decode([random_codes(length)])
        sizes.append([len(scratch) for scratch in native_decoder_of(codec.model, codec._decoder)._scratch])
    assert sizes[0] == sizes[1] and len(sizes[0]) == 1


@pytest.mark.parametrize(
    ("place", "layer"),
    [
        ("conv1", nn.Conv1d(64, 16, 7, padding=3, groups=4)),
        ("conv2", nn.Conv1d(4, 1, 7, padding=2)),
        ("conv2", nn.Conv1d(4, 1, 7, padding=3, stride=2)),
        ("conv2", nn.Conv1d(4, 2, 7, padding=3)),
    ],
    ids=["groups", "valid", "strided", "stereo"],
)
def test_what_the_operator_does_not_compute_is_left_to_the_layers(place, layer):
    """A layer of another geometry was computed as one of the usual."""
    dac = copy.deepcopy(SMALL["even"])
    old = getattr(dac.decoder, place)
    if place == "conv1":
        layer = nn.Conv1d(old.in_channels, old.out_channels, 7, padding=3, groups=4)
    setattr(dac.decoder, place, layer)
    codec = DacCodec(dac)
    assert native_decoder_of(dac, codec._decoder) is None
    if place == "conv1":
        codes = random_codes(20)
        expected = dac.decode(audio_codes=codes.T[None]).audio_values[0].detach()
        torch.testing.assert_close(codec.decode([codes])[0], expected, rtol=0, atol=1e-5)
