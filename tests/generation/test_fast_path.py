"""The fast path through `generate()`, with the reference path as its oracle."""

import threading
from contextlib import contextmanager

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from transformers import (
    CompileConfig,
    GenerationConfig,
    LogitsProcessor,
    MaxLengthCriteria,
    StaticCache,
    StoppingCriteria,
    TemperatureLogitsWarper,
    pipeline,
)
from transformers.generation import BaseStreamer, GenerateEncoderDecoderOutput

from dia_hf import MINIATURE, DiaConfig, DiaForConditionalGeneration
from dia_hf._compat import CACHE_NAME
from dia_hf.engine import FrameScheduler, runners
from dia_hf.generation import fast_path, generation_dia, logits_process
from host_syncs import HostSyncCounter
from tiny import as_inputs, random_config, random_model

GUIDED = {"guidance_scale": 2.5, "top_k": 5}
CALLS = {
    "greedy": {"do_sample": False},
    "greedy guided": {"do_sample": False, **GUIDED},
    "greedy guided without filter": {"do_sample": False, "guidance_scale": 1.7},
    "sampled": {"do_sample": True, "top_k": 6, "temperature": 0.7},
    "sampled guided": {"do_sample": True, "guidance_scale": 3.0, "top_k": 7, "top_p": 0.9, "temperature": 1.3},
    "weak guidance": {"do_sample": True, "guidance_scale": 0.4, "top_k": 4},
    "v0.1": {"do_sample": True, "guidance_scale": 2.0, "top_k": 9, "top_p": 0.8}
    | {"sample_from_guided": True, "eos_logit_scale": 0.8},
    "least length": {"do_sample": True, **GUIDED, "min_new_tokens": 9},
    "several": {"do_sample": True, **GUIDED, "num_return_sequences": 2},
    "lists": {"do_sample": True, "guidance_scale": [3.0, None, 0.5], "top_k": [4, None, 9], "top_p": [0.9, 0.5, None]}
    | {"temperature": [1.0, 0.6, 1.4], "max_new_tokens": [40, 25, 33]},
    "lists without filter": {"do_sample": True, "temperature": [1.0, 0.6, 1.4], "top_k": [None, 3, 7]},
}


def speak(model, inputs, options, seed=0, **more):
    torch.manual_seed(seed)
    return model.generate(**inputs, **({"max_new_tokens": 40} | options | more))


def make(seed, era="0626"):
    config = random_config(seed)
    if era == "v0.1":
        config.decoder_config.cross_attention_rope = True
    config.delay_pattern = [0, *config.delay_pattern[1:]]
    decoder = config.decoder_config
    generator = torch.Generator().manual_seed(seed)
    prompts = [
        torch.randint(0, decoder.eos_token_id, (n, decoder.num_channels), generator=generator) for n in (0, 5, 2)
    ]
    model = random_model(config, seed)
    # Attention with keys that turn and weights so wide amplifies what float32 rounds until tokens differ.
    model = model.double() if era == "v0.1" else model
    return model, as_inputs(config, [b"hello", b"a longer text", b"x"], prompts)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("era", ["0626", "v0.1"])
@pytest.mark.parametrize("call", CALLS)
def test_codes_are_those_of_the_reference_path(call, era, seed):
    """A step that omits a rule, or reads another row's cache, gives other codes: greedy and from a seed."""
    model, inputs = make(seed, era)
    fast = speak(model, inputs, CALLS[call], use_fast_path=True)
    assert torch.equal(fast, speak(model, inputs, CALLS[call], use_fast_path=False))


def test_a_generator_draws_as_in_the_reference_path():
    """Draws that depend on the path make recorded seeds useless."""
    model, inputs = make(1)
    for generators in (
        lambda: torch.Generator().manual_seed(3),
        lambda: [torch.Generator().manual_seed(seed) for seed in (3, 4, 5)],
    ):
        options = {"do_sample": True, **GUIDED}
        fast = speak(model, inputs, options, generator=generators(), use_fast_path=True)
        assert torch.equal(fast, speak(model, inputs, options, seed=9, generator=generators(), use_fast_path=False))


class OwnRule(LogitsProcessor):
    def __call__(self, input_ids, scores):
        return scores


class OwnCriterion(StoppingCriteria):
    def __call__(self, input_ids, scores, **kwargs):
        return torch.zeros(len(input_ids), dtype=torch.bool)


UNSUPPORTED = {
    "logits_processor": ({"logits_processor": [OwnRule()]}, "`logits_processor`"),
    "stopping_criteria": ({"stopping_criteria": [OwnCriterion()]}, "OwnCriterion"),
    "rule": ({"repetition_penalty": 1.2}, "RepetitionPenalty"),
    "min_p": ({"do_sample": True, "min_p": 0.1}, "MinP"),
    "dictionary": ({"return_dict_in_generate": True, "output_scores": True}, "return_dict_in_generate"),
    "cache": ({"cache_implementation": "static"}, "cache"),
    "no cache": ({"use_cache": False}, "cache"),
    "time": ({"max_time": 100.0}, "MaxTime"),
    "end": ({"eos_token_id": 3}, "`eos_token_id`"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_it_cannot_express_goes_to_the_reference_path(name, monkeypatch):
    """A caller's rule that the fast path does not implement would be dropped silently."""
    model, inputs = make(0)
    options, reason = UNSUPPORTED[name]
    with pytest.raises(ValueError, match=f"`use_fast_path` is True, but .*{reason}"):
        speak(model, inputs, options, use_fast_path=True)
    monkeypatch.setattr(FrameScheduler, "run", lambda self, call: pytest.fail("the fast path took it"))
    speak(model, inputs, options)


def test_a_dictionary_of_codes_alone():
    """`pipeline("text-to-speech")` requests a dictionary, and ran on the reference path for it."""
    model, inputs = make(0)
    options = {"do_sample": True, **GUIDED}
    expected = speak(model, inputs, options, use_fast_path=False)
    output = speak(model, inputs, options, use_fast_path=True, return_dict_in_generate=True)
    assert torch.equal(output.sequences, expected)
    assert output["sequences"] is output.sequences and output.scores is None


def count_runs(monkeypatch):
    """Count the calls that the fast path takes."""
    run, runs = FrameScheduler.run, []
    monkeypatch.setattr(FrameScheduler, "run", lambda self, call: (runs.append(1), run(self, call))[1])
    return runs


@pytest.mark.parametrize("options", [{}, {"output_scores": False, "output_attentions": False}])
def test_a_dictionary_takes_the_fast_path(options, monkeypatch):
    """Every call with `return_dict_in_generate=True` ran on the reference path, at half the speed."""
    model, inputs = make(0)
    runs = count_runs(monkeypatch)
    call = {"do_sample": True, **GUIDED, "return_dict_in_generate": True}
    fast = speak(model, inputs, call, **options)
    assert len(runs) == 1
    reference = speak(model, inputs, call, use_fast_path=False, **options)
    assert len(runs) == 1
    assert type(fast) is type(reference) is GenerateEncoderDecoderOutput
    assert torch.equal(fast.sequences, reference.sequences)
    assert set(fast) == {"sequences"} and fast.get(CACHE_NAME) is None


def test_the_pipeline_takes_the_fast_path(monkeypatch):
    """`pipeline("text-to-speech")` asks for a dictionary, and ran on the reference path for it."""
    runs, kinds = count_runs(monkeypatch), []
    generate = DiaForConditionalGeneration.generate

    def watched(self, **kwargs):
        output = generate(self, **kwargs)
        kinds.append(type(output))
        return output

    monkeypatch.setattr(DiaForConditionalGeneration, "generate", watched)
    speaker = pipeline("text-to-speech", model=MINIATURE)
    options = {"max_new_tokens": 30, "do_sample": False}
    fast = speaker("[S1] Hello.", generate_kwargs=options)
    assert (len(runs), kinds) == (1, [GenerateEncoderDecoderOutput])
    reference = speaker("[S1] Hello.", generate_kwargs=options | {"use_fast_path": False})
    assert len(runs) == 1
    assert (fast["audio"] == reference["audio"]).all()


# --- processors that somebody changed ---


class Subclassed(logits_process.DiaEOSChannelFilterLogitsProcessor):
    pass


PATCHED = {
    "a subclass": (generation_dia, "DiaEOSChannelFilterLogitsProcessor", Subclassed, {}, "Subclassed"),
    "__call__": (
        logits_process.DiaEOSChannelFilterLogitsProcessor,
        "__call__",
        lambda self, input_ids, scores: scores,
        {},
        "`DiaEOSChannelFilterLogitsProcessor.__call__` was replaced",
    ),
    "a base": (
        logits_process.DiaClassifierFreeGuidanceLogitsProcessor,
        "__call__",
        lambda self, input_ids, scores: scores.chunk(2)[0],
        GUIDED,
        "`DiaClassifierFreeGuidanceLogitsProcessor.__call__` was replaced",
    ),
    "one of some samples": (
        logits_process.DiaGuidanceTopKLogitsProcessor,
        "__call__",
        lambda self, input_ids, scores: scores.chunk(2)[0],
        {"guidance_scale": [2.0, None, 3.0], "top_k": 5},
        "`DiaGuidanceTopKLogitsProcessor.__call__` was replaced",
    ),
    "a warper of some samples": (
        TemperatureLogitsWarper,
        "__call__",
        lambda self, input_ids, scores: scores,
        {"do_sample": True, "temperature": [0.7, 1.0, 1.3]},
        "`TemperatureLogitsWarper.__call__` was replaced",
    ),
}


@pytest.mark.parametrize("name", PATCHED)
def test_a_changed_processor_class_is_found(name, monkeypatch):
    """A sampling rule that was changed in its class had no effect: the fast path computed the original."""
    model, inputs = make(0)
    owner, attribute, value, options, reason = PATCHED[name]
    speak(model, inputs, options, use_fast_path=True)
    monkeypatch.setattr(owner, attribute, value)
    with pytest.raises(ValueError, match=f"`use_fast_path` is True, but .*{reason}"):
        speak(model, inputs, options, use_fast_path=True)
    runs = count_runs(monkeypatch)
    changed = speak(model, inputs, options)
    assert not runs
    assert torch.equal(changed, speak(model, inputs, options, use_fast_path=False))


def test_a_subclass_of_transformers_criteria_is_found(monkeypatch):
    """A criterion derived from transformers' length limit was taken for that limit, and never called."""
    model, inputs = make(0)
    calls = []

    class Counting(MaxLengthCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            calls.append(1)
            return super().__call__(input_ids, scores, **kwargs)

    criteria = [Counting(max_length=200)]
    with pytest.raises(ValueError, match="the stopping criterion Counting"):
        speak(model, inputs, {"do_sample": False, "stopping_criteria": criteria}, use_fast_path=True)
    speak(model, inputs, {"do_sample": False, "stopping_criteria": criteria})
    assert calls


# --- the message about the reference path ---


def test_the_reason_for_the_reference_path_is_told_once(monkeypatch, caplog):
    """The reason for a call at half the speed was logged at DEBUG only, and in every call."""
    monkeypatch.setattr(fast_path, "_TOLD", set())
    caplog.set_level("INFO", logger="dia_hf")
    model, inputs = make(0)
    for _ in range(2):
        speak(model, inputs, {"do_sample": True, "min_p": 0.1, "max_new_tokens": 20})
        speak(model, inputs, {"repetition_penalty": 1.2, "max_new_tokens": 20})
    messages = [record for record in caplog.records if "reference path" in record.getMessage()]
    assert [record.levelname for record in messages] == ["INFO", "INFO"]
    assert "MinPLogitsWarper" in messages[0].getMessage()
    assert "RepetitionPenaltyLogitsProcessor" in messages[1].getMessage()


def test_a_choice_of_the_reference_path_is_not_told(monkeypatch, caplog):
    """`use_fast_path=False` is the caller's own choice, and `None` on the fast path is no fallback."""
    monkeypatch.setattr(fast_path, "_TOLD", set())
    caplog.set_level("INFO", logger="dia_hf")
    model, inputs = make(0)
    speak(model, inputs, {"do_sample": False, "max_new_tokens": 20})
    speak(model, inputs, {"do_sample": False, "max_new_tokens": 20}, use_fast_path=False)
    assert not [record for record in caplog.records if "reference path" in record.getMessage()]


def test_a_cache_or_states_of_the_callers_go_to_the_reference_path():
    """A cache that is passed must be filled; encoder states that are passed must be read."""
    model, inputs = make(0)
    encoded = model.get_encoder()(inputs["input_ids"], attention_mask=inputs["attention_mask"])
    rest = {name: value for name, value in inputs.items() if name != "input_ids"}
    with pytest.raises(ValueError, match="`encoder_outputs`"):
        speak(model, rest, {"encoder_outputs": encoded}, use_fast_path=True)
    cache = StaticCache(model.config.decoder_config, max_cache_len=60)
    with pytest.raises(ValueError, match="cache"):
        speak(model, inputs, {CACHE_NAME: cache, "do_sample": False}, use_fast_path=True)


def test_a_delayed_first_channel_goes_to_the_reference_path():
    """The fast path counts delayed ends from channel 0's, which must not be delayed itself."""
    model, inputs = make(0)
    model.config.delay_pattern[0] = 2
    with pytest.raises(ValueError, match="channel 0 is delayed"):
        speak(model, inputs, {"do_sample": False}, use_fast_path=True)
    speak(model, inputs, {"do_sample": False})


def test_frames_beyond_the_positions():
    """With the delay a full-length text ends beyond the last position, and the rotary table was too short."""
    model, inputs = make(0)
    model.config.decoder_config.max_position_embeddings = 30
    options = {"do_sample": False, "min_new_tokens": 30}
    fast = speak(model, inputs, options, use_fast_path=True)
    assert fast.shape[1] > 30
    assert torch.equal(fast, speak(model, inputs, options, use_fast_path=False))
    with pytest.raises(ValueError, match="more than 60 frames"):
        speak(model, inputs, options, max_new_tokens=60, use_fast_path=True)


def test_settings_of_a_saved_config_count():
    """`use_fast_path` is a field like any other: in a generation config as in the call."""
    model, inputs = make(0)
    config = GenerationConfig(use_fast_path=True, min_p=0.1, do_sample=True)
    with pytest.raises(ValueError, match="MinP"):
        speak(model, inputs, {"generation_config": config})


def count_syncs(monkeypatch):
    """Count host synchronizations from the first step to the last."""
    counter, run = HostSyncCounter(), FrameScheduler._take_step
    steps = []

    def take_step(self, state):
        if len(steps) == 0:
            counter.__enter__()
        steps.append(1)
        run(self, state)

    monkeypatch.setattr(FrameScheduler, "_take_step", take_step)
    return counter, steps


class SilentStreamer(BaseStreamer):
    def put(self, value):
        pass

    def end(self):
        pass


@pytest.mark.parametrize("streamer", [None, SilentStreamer()])
@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("call", ["greedy guided", "sampled guided", "v0.1"])
def test_the_host_synchronizes_once_in_eight_frames(call, batch_size, streamer, monkeypatch):
    """A synchronization in every step leaves a GPU idle while the host launches the next."""
    model = DiaForConditionalGeneration.from_pretrained(MINIATURE)
    text = torch.randint(1, 200, (batch_size, 20))
    counter, steps = count_syncs(monkeypatch)
    options = CALLS[call] | {"max_new_tokens": 96, "min_new_tokens": 80}
    try:
        model.generate(text, **options, use_fast_path=True, streamer=streamer)
    finally:
        counter.__exit__(None, None, None)
    assert len(steps) == 96
    # At the end, what each request has said is collected: that is no matter of steps.
    assert counter.total <= len(steps) / 8 + 1, counter.counts


def test_the_detector_sees_the_reference_path():
    """A counter that counts nothing would pass any loop."""
    model = DiaForConditionalGeneration.from_pretrained(MINIATURE)
    with HostSyncCounter() as counter:
        model.generate(torch.ones(1, 5, dtype=torch.long), max_new_tokens=40, min_new_tokens=24, use_fast_path=False)
    assert counter.total > 40


@pytest.mark.parametrize("call", ["greedy guided", "sampled guided", "v0.1", "several"])
def test_the_step_compiles_whole_and_once(call):
    """A graph break, or a program for every length, makes compiling slower than not compiling."""
    model = DiaForConditionalGeneration.from_pretrained(MINIATURE).double()  # sums of other lengths round otherwise
    text = {"input_ids": torch.randint(1, 200, (1, 30), generator=torch.Generator().manual_seed(0))}
    options = CALLS[call] | {"max_new_tokens": 250, "min_new_tokens": 234}
    eager = speak(model, text, options, use_fast_path=True)
    counter = CompileCounter()
    with torch._dynamo.config.patch(error_on_recompile=True), short_steps():
        compiled = speak(model, text, options, compile_config=CompileConfig(backend=counter), use_fast_path=True)
    assert torch.equal(compiled, eager)
    assert counter.frame_count == 1


@contextmanager
def short_steps():
    """Round lengths to 16 frames instead of 256, so that a short text sees several of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runners, "_FRAMES", 16)
        yield


def test_the_compiled_step_says_the_same():
    """Inductor's fusions must not change the codes (greedy, float32)."""
    model, inputs = make(3)
    options = {"do_sample": False, **GUIDED}
    compiled = speak(model, inputs, options, compile_config=CompileConfig(), use_fast_path=True)
    assert torch.equal(compiled, speak(model, inputs, options))


def test_threads_share_a_model():
    """State kept in the network between steps would leak between calls."""
    model, inputs = make(2)
    options = {"do_sample": True, **GUIDED}
    alone = [
        model.generate(**inputs, **options, max_new_tokens=40, generator=torch.Generator().manual_seed(seed))
        for seed in range(4)
    ]
    together = [None] * 4

    def work(seed):
        generator = torch.Generator().manual_seed(seed)
        together[seed] = model.generate(**inputs, **options, max_new_tokens=40, generator=generator)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(*pair) for pair in zip(alone, together, strict=True))


def test_waiting_requests_are_not_encoded_before_their_time(monkeypatch):
    """Encoding all queued texts at once takes the memory that a small batch was to save."""
    model, inputs = make(4)
    sizes = []
    model.model.encoder.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    speak(model, inputs, {"do_sample": False, **GUIDED}, max_batch_size=1, use_fast_path=True)
    assert max(sizes) == 1


def test_the_batch_follows_the_memory_at_hand(monkeypatch):
    """A list of requests that does not fit into memory must be queued, not end in an error."""
    model, inputs = make(4)
    whole = speak(model, inputs, {"do_sample": False})
    sizes = []
    take = FrameScheduler._take_step
    monkeypatch.setattr(
        FrameScheduler, "_take_step", lambda self, state: (sizes.append(state.num_samples), take(self, state))[1]
    )
    monkeypatch.setattr("dia_hf.engine.memory.free_memory", lambda device: 10)
    assert torch.equal(speak(model, inputs, {"do_sample": False}), whole)
    assert set(sizes) == {1}


def test_a_batch_size_below_one_is_an_error():
    """0 would mean everything, or nothing."""
    model, inputs = make(0)
    with pytest.raises(ValueError, match="`max_batch_size` is 0"):
        speak(model, inputs, {"max_batch_size": 0})


def test_a_streamer_receives_all_samples_at_once():
    """`max_batch_size` with a streamer would be ignored, and memory could run out."""
    model, inputs = make(0)
    with pytest.raises(ValueError, match="`max_batch_size` is 1, but a streamer"):
        speak(model, inputs, {"max_batch_size": 1}, streamer=SilentStreamer())


def test_a_layer_of_ones_own_counts():
    """A subclass that changes a layer would be ignored silently."""
    model, inputs = make(0)
    mlp = model.model.decoder.layers[0].mlp

    class Louder(type(mlp)):
        def forward(self, hidden_states):
            return 2 * super().forward(hidden_states)

    mlp.__class__ = Louder
    with pytest.raises(ValueError, match="a Louder has another `forward`"):
        speak(model, inputs, {"do_sample": False}, use_fast_path=True)


def test_other_angles_count():
    """Rotary angles are computed once for a model, and were stale after a change of the base."""
    model, inputs = make(0)
    options = {"do_sample": False}
    speak(model, inputs, options)
    model.config.decoder_config.rope_parameters["rope_theta"] = 7.0
    assert torch.equal(
        speak(model, inputs, options, use_fast_path=True), speak(model, inputs, options, use_fast_path=False)
    )


def test_nothing_of_the_call_stays_on_the_model():
    """A setting or cache left on the model leaks into other threads and into checkpoints."""
    model, inputs = make(0)
    before = {name: id(value) for name, value in vars(model).items()}
    config = model.generation_config.to_dict()
    speak(model, inputs, {"do_sample": True, **GUIDED})
    assert {name: id(value) for name, value in vars(model).items()} == before
    assert model.generation_config.to_dict() == config


def test_what_is_returned_is_an_ordinary_tensor():
    """A tensor of inference mode cannot be changed in place or used in training."""
    model, inputs = make(0)
    codes = speak(model, inputs, {"do_sample": False})
    assert not codes.is_inference()
    streamed = []

    class Listener(SilentStreamer):
        def put(self, value):
            streamed.append(value)

    speak(model, inputs, {"do_sample": False}, streamer=Listener(), use_fast_path=True)
    assert not any(tokens.is_inference() for tokens in streamed)


def test_a_published_config_takes_the_fast_path():
    """The published defaults must be supported by the fast path."""
    config = DiaConfig()
    config.encoder_config.num_hidden_layers = config.decoder_config.num_hidden_layers = 1
    for part in (config.encoder_config, config.decoder_config):
        part.hidden_size = part.intermediate_size = 32
    config.decoder_config.cross_hidden_size = 32
    model = DiaForConditionalGeneration(config).eval()
    options = {"guidance_scale": 3.0, "temperature": 1.2, "top_p": 0.95, "top_k": 45, "do_sample": True}
    model.generate(torch.ones(1, 5, dtype=torch.long), **options, max_new_tokens=20, use_fast_path=True)
