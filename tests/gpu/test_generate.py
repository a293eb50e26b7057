"""`generate()` on a GPU: the fast loop against the slow one, seeds, threads, streams, dtypes and compilers."""

import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from transformers import CompileConfig

from dia_hf import MINIATURE, DiaForConditionalGeneration, DiaProcessor
from dia_hf.generation import DiaAudioStreamer
from dia_hf.speech import Dia
from tiny import as_inputs, assert_same_speech, random_config, random_model

pytestmark = pytest.mark.gpu

GREEDY = {"do_sample": False, "guidance_scale": 2.0, "top_k": 9}
SAMPLED = GREEDY | {"do_sample": True, "temperature": 1.2, "top_p": 0.95}
LENGTHS = [0, 4, 1, 0, 7]
LIMITS = [40, 19, 30, 52, 25]


def make_model(seed=0, is_first_release=False):
    config = random_config(seed)
    config.decoder_config.cross_attention_rope = is_first_release
    return random_model(config, seed).cuda()


def make_inputs(config, lengths=LENGTHS):
    """Make a request for each of the prompts' lengths; every other text is longer."""
    draw, channels = torch.Generator().manual_seed(0), config.decoder_config.num_channels
    prompts = [torch.randint(0, 11, (length, channels), generator=draw) for length in lengths]
    texts = [b"Hello." if number % 2 else b"And who are you?" for number in range(len(lengths))]
    return {name: value.cuda() for name, value in as_inputs(config, texts, prompts).items()}


def assert_fast_is_slow(model, inputs, make_generator=lambda: None, **options):
    """In float32 two tokens may be too close to call on a GPU; then they must be the same in float64."""

    def run(use_fast_path):
        return model.generate(**inputs, **options, generator=make_generator(), use_fast_path=use_fast_path)

    fast, slow = run(True), run(False)
    if fast.shape != slow.shape or not torch.equal(fast, slow):
        model.double()
        fast, slow = run(True), run(False)
        model.float()
    assert torch.equal(fast, slow)
    return fast


@pytest.mark.parametrize("is_first_release", [False, True])
@pytest.mark.parametrize("scale", [None, 2.0])
@pytest.mark.parametrize("seed", range(9))
def test_greedy_codes_are_the_slow_loops(seed, scale, is_first_release):
    """A graph that computes something else than its steps, or reads what is no longer there."""
    model = make_model(seed, is_first_release)
    limits = [limit + max(model.config.delay_pattern) for limit in LIMITS]
    options = GREEDY | {"guidance_scale": scale, "max_new_tokens": limits, "sample_from_guided": is_first_release}
    for _ in range(2):
        assert_fast_is_slow(model, make_inputs(model.config), **options)


@pytest.mark.parametrize("source", ["generator", "generators"])
@pytest.mark.parametrize("seed", range(3))
def test_sampled_codes_are_the_slow_loops(seed, source):
    """A generator that is ahead after a capture, or noise that belongs to another sample."""
    model = make_model(seed).double()

    def make_generator():
        generators = [torch.Generator("cuda").manual_seed(number) for number in range(len(LENGTHS))]
        return generators if source == "generators" else generators[0]

    limits = [limit + max(model.config.delay_pattern) for limit in LIMITS]
    assert_fast_is_slow(model, make_inputs(model.config), make_generator, **SAMPLED, max_new_tokens=limits)


def test_a_seed_is_a_result():
    """Another result at the second call, when graphs are there, or from the global generator."""
    model = make_model()
    inputs = make_inputs(model.config)
    options = SAMPLED | {"max_new_tokens": 300, "min_new_tokens": 270, "use_fast_path": True}

    def run(seed):
        return model.generate(**inputs, **options, generator=torch.Generator("cuda").manual_seed(seed))

    first = run(0)
    assert torch.equal(run(0), first)
    assert not torch.equal(run(1), first)
    torch.manual_seed(0)
    assert torch.equal(model.generate(**inputs, **options), first)


@pytest.mark.parametrize("max_batch_size", [1, 2, 3, 5])
def test_requests_that_wait_are_answered_as_if_alone(max_batch_size):
    """A request let into a batch while its graphs are at work, and its end seen some steps late."""
    model = make_model().double()
    inputs = make_inputs(model.config)
    expected = model.generate(**inputs, **GREEDY, max_new_tokens=LIMITS, use_fast_path=False)
    answers = model.generate(
        **inputs, **GREEDY, max_new_tokens=LIMITS, max_batch_size=max_batch_size, use_fast_path=True
    )
    for answer, one in zip(answers, expected, strict=True):
        assert_same_speech(answer, one, model.config)


def test_two_threads_sample_with_their_own_seeds():
    """One call's noise drawn into the other's batch."""
    model, answers, start = make_model(), {}, threading.Barrier(2)
    inputs = make_inputs(model.config)
    options = SAMPLED | {"max_new_tokens": 60, "use_fast_path": True}

    def run(seed):
        return model.generate(**inputs, **options, generator=torch.Generator("cuda").manual_seed(seed))

    def run_many(seed):
        start.wait()
        answers[seed] = [run(seed) for _ in range(4)]

    expected = {seed: run(seed) for seed in range(2)}
    threads = [threading.Thread(target=run_many, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, codes in expected.items():
        assert all(torch.equal(answer, codes) for answer in answers[seed])


@pytest.fixture(scope="module")
def miniature():
    return DiaForConditionalGeneration.from_pretrained(MINIATURE).eval().cuda()


@pytest.fixture(scope="module")
def processor(miniature):
    processor = DiaProcessor.from_pretrained(MINIATURE)
    processor.audio_tokenizer.to("cuda")
    return processor


def test_sound_while_it_is_spoken(processor):
    """The codec at work in one thread while the other captures a graph: CUDA refuses either, or sound is torn."""
    model = DiaForConditionalGeneration.from_pretrained(MINIATURE).eval().cuda()  # without graphs yet
    inputs = processor("[S1] Hello there. [S2] Hello.").to("cuda")
    options = GREEDY | {"max_new_tokens": 400, "min_new_tokens": 380, "use_fast_path": True}
    for _ in range(2):
        heard = list(DiaAudioStreamer(processor, 1, 16).listen(model.generate, **inputs, **options))
        (whole,) = processor.batch_decode(model.generate(**inputs, **options), audio_prompt_len=1)
        np.testing.assert_allclose(np.concatenate(heard), whole.cpu().numpy(), atol=1e-3)


def test_streams_at_once(processor, miniature):
    """Two streams that share the model and the codec."""
    inputs = processor("[S1] Hello there.").to("cuda")
    options = GREEDY | {"max_new_tokens": 120, "min_new_tokens": 100, "use_fast_path": True}
    (whole,) = processor.batch_decode(miniature.generate(**inputs, **options), audio_prompt_len=1)
    streams = [DiaAudioStreamer(processor, 1, 8).listen(miniature.generate, **inputs, **options) for _ in range(2)]
    heard = [[], []]
    for chunks in zip(*streams, strict=True):
        for number, chunk in enumerate(chunks):
            heard[number].append(chunk)
    for chunks in heard:
        np.testing.assert_allclose(np.concatenate(chunks), whole.cpu().numpy(), atol=1e-3)


def test_a_stream_that_is_left():
    """A thread that still launches steps when its consumer has gone."""
    stream = Dia.from_pretrained(device="cuda").stream("[S1] Hello.", seed=1)
    next(stream)
    stream.close()
    assert torch.ones(1, device="cuda").item() == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_half_precision_runs(dtype, options):
    """A dtype that a kernel, a mask or a cache does not have."""
    model = make_model().to(dtype)
    limits = {"max_new_tokens": LIMITS, "use_fast_path": True}
    codes = model.generate(**make_inputs(model.config), **options, **limits)
    assert codes.shape[0] == len(LENGTHS)
    assert ((codes >= 0) & (codes < model.config.decoder_config.vocab_size)).all()


@pytest.mark.parametrize(
    "compile_config",
    [CompileConfig(), CompileConfig(mode="default"), CompileConfig(backend="aot_eager")],
    ids=["reduce-overhead", "default", "aot_eager"],
)
def test_compiled_steps(compile_config):
    """A step that does not compile, or computes something else when it is."""
    model = make_model(3)
    inputs = make_inputs(model.config)
    options = GREEDY | {"max_new_tokens": LIMITS, "compile_config": compile_config}
    first = assert_fast_is_slow(model, inputs, **options)
    assert torch.equal(model.generate(**inputs, **options, use_fast_path=True), first)


@pytest.mark.parametrize("scheme", ["int8", "int4", "fp8"])
def test_quantized_weights(scheme):
    """Weights that the fast loop does not know how to multiply, or that cannot be captured."""
    pytest.importorskip("torchao")
    from dia_hf.quantization import quantize_model

    model = DiaForConditionalGeneration.from_pretrained(MINIATURE, dtype=torch.bfloat16).eval().cuda()
    try:
        quantize_model(model, scheme)
    except ImportError as error:
        pytest.skip(str(error))
    inputs = make_inputs(model.config)
    for options in (GREEDY, SAMPLED):
        codes = model.generate(**inputs, **options, max_new_tokens=[limit + 15 for limit in LIMITS], use_fast_path=True)
        assert ((codes >= 0) & (codes < model.config.decoder_config.vocab_size)).all()


def test_weights_that_have_changed():
    """A graph captured with the old weights is replayed."""
    model = make_model()
    inputs = make_inputs(model.config)
    before = assert_fast_is_slow(model, inputs, **GREEDY, max_new_tokens=LIMITS)
    weight = model.model.decoder.layers[0].mlp.down_proj.weight
    weight.data.mul_(-2)
    after = assert_fast_is_slow(model, inputs, **GREEDY, max_new_tokens=LIMITS)
    assert not torch.equal(before, after)


def test_broken_logits_are_named_and_leave_nothing():
    """NaN drawn from, or still there in memory that the next call uses."""
    model = make_model()
    model.model.encoder.embedding.weight.data[7] = float("nan")
    nothing = torch.zeros(0, 9, dtype=torch.long)
    sound = {name: value.cuda() for name, value in as_inputs(model.config, [b"abc"], [nothing]).items()}
    long_prompt = torch.zeros(20, 9, dtype=torch.long)
    broken = as_inputs(model.config, [b"abc\x07" + b"d" * 30], [long_prompt])
    options = SAMPLED | {"max_new_tokens": 30, "use_fast_path": True}

    def run():
        return model.generate(**sound, **options, generator=torch.Generator("cuda").manual_seed(0))

    before = run()
    with pytest.raises(ValueError, match="no token could be sampled: the logits hold NaN"):
        model.generate(**{name: value.cuda() for name, value in broken.items()}, **options)
    assert torch.equal(run(), before)


# What goes wrong here takes the process' device with it, so each has a process of its own.
ALONE = """
import torch
from tiny import as_inputs, random_config, random_model
config = random_config(0)
{change}
model = random_model(config).cuda()
inputs = as_inputs(config, [b"Hi"], [torch.zeros(0, 9, dtype=torch.long)])
inputs = {{name: value.cuda() for name, value in inputs.items()}}
options = {{"do_sample": False, "guidance_scale": 2.0, "top_k": 9, "use_fast_path": True}} | {options}
try:
    {break_it}
    model.generate(**inputs, **options)
except ValueError as error:
    print(error)
torch.cuda.synchronize()
print("sound", torch.ones(1, device="cuda").item())
"""


@pytest.mark.parametrize(
    ("change", "break_it", "options"),
    [
        ("pass", "model.logits_dense.weight.data[0] = float('nan')", {"max_new_tokens": 30}),
        ("config.decoder_config.max_position_embeddings = 40", "pass", {"max_new_tokens": 60, "min_new_tokens": 50}),
    ],
    ids=["NaN", "beyond the last position"],
)
def test_the_device_survives(change, break_it, options):
    """An index outside of a table: an assertion on the device, after which the process can do nothing with it."""
    code = ALONE.format(change=change, break_it=break_it, options=options)
    paths = f"import sys; sys.path[:0] = {[path for path in sys.path if path]!r}\n"
    command = [sys.executable, "-c", paths + code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert "sound 1.0" in done.stdout, done.stderr[-2000:]
