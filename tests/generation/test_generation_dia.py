"""`generate()` against transformers' own and against itself alone, in a batch and in threads."""

import copy
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import load_file
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

import tiny
from dia_hf import MINIATURE, DiaForConditionalGeneration
from tiny import as_inputs, assert_same_speech

INPUTS = ("input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask")
SAMPLING = {"do_sample": True, "guidance_scale": 3.0, "top_k": 45, "temperature": 1.3, "top_p": 0.95}
GREEDY = {"do_sample": False, "guidance_scale": 3.0, "top_k": 45}


@pytest.fixture(scope="module", params=["eager", "sdpa"])
def pack_model(request, pack):
    return DiaForConditionalGeneration.from_pretrained(pack, attn_implementation=request.param).eval()


@pytest.fixture(scope="module")
def expected(pack):
    return load_file(pack / "expected.safetensors")


def part(tensors, name):
    return {key: tensors[f"{name}.{key}"] for key in INPUTS}


@pytest.mark.parametrize("cache", [None, "static"])
@pytest.mark.parametrize("name", ["text", "prompt"])
def test_greedy_codes_of_the_reference_pack(pack, pack_model, expected, name, cache):
    """One wrong rule, position or mask, and the codes differ from transformers' within a few frames."""
    options = json.loads((pack / "inputs.json").read_text())["generate"]
    codes = pack_model.generate(**part(expected, name), **options, cache_implementation=cache)
    assert torch.equal(codes, expected[f"{name}.generated"])


@pytest.mark.parametrize("cache", [None, "static"])
@pytest.mark.parametrize("source", ["global", "generator"])
def test_sampled_codes_of_the_reference_pack(pack_model, expected, source, cache):
    """Rules in another order draw other codes from the same seed."""
    options = SAMPLING | {"max_new_tokens": 40, "cache_implementation": cache}
    if source == "generator":
        options["generator"] = torch.Generator().manual_seed(1234)
    else:
        torch.manual_seed(1234)
    assert torch.equal(pack_model.generate(**part(expected, "text"), **options), expected["text.sampled_seed_1234"])


def draw_requests(config, seed=0):
    generator = torch.Generator().manual_seed(seed)
    texts = [b"\x01 Hello there. \x02 Yes?", b"\x01 No.", b"\x02 A longer text than all the others are."]
    lengths = [0, 7, 4]
    shape = config.decoder_config.num_channels
    prompts = [torch.randint(0, config.decoder_config.eos_token_id, (n, shape), generator=generator) for n in lengths]
    return texts, prompts


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    "options", [GREEDY, GREEDY | {"guidance_scale": None}, SAMPLING], ids=["cfg", "plain", "sampled"]
)
def test_random_configurations_equal_transformers(seed, options):
    """Other delays, channels and vocabularies than the published ones were read from constants."""
    model = tiny.random_model(tiny.random_config(seed), seed, scale=0.5)
    theirs = tiny.their_model(model)
    inputs = as_inputs(model.config, *draw_requests(model.config, seed))
    options = options | {"max_new_tokens": 30, "top_k": 5}
    decoder = model.config.decoder_config
    special = {name: getattr(decoder, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    codes = []
    for network in (model, theirs):
        torch.manual_seed(seed)
        codes.append(network.generate(**{k: v.clone() for k, v in inputs.items()}, **options, **special))
    assert torch.equal(*codes)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("cache", [None, "static"])
@pytest.mark.parametrize("guidance_scale", [None, 3.0])
def test_a_batch_gives_what_its_members_give_alone(seed, cache, guidance_scale):
    """Padding of texts or prompts that leaks into attention changes the codes of other samples."""
    model = tiny.random_model(tiny.random_config(seed), seed, scale=0.5)
    texts, prompts = draw_requests(model.config, seed)
    options = GREEDY | {"guidance_scale": guidance_scale, "top_k": 5, "cache_implementation": cache}
    longest = max(map(len, prompts))
    together = model.generate(**as_inputs(model.config, texts, prompts), **options, max_new_tokens=40)
    for row, text, prompt in zip(together, texts, prompts, strict=True):
        alone = model.generate(**as_inputs(model.config, [text], [prompt]), **options, max_new_tokens=40)
        assert_same_speech(row, alone[0], model.config)
    assert together.shape[1] <= 1 + longest + 40


def test_without_prepared_inputs_the_delay_still_holds(model):
    """transformers begins without delay when given text alone."""
    ids = torch.tensor([list(b"\x01 Hello.")])
    prepared = as_inputs(model.config, [b"\x01 Hello."], [torch.zeros(0, 9, dtype=torch.long)])
    assert torch.equal(
        model.generate(ids, max_new_tokens=20, **GREEDY), model.generate(**prepared, max_new_tokens=20, **GREEDY)
    )


@pytest.mark.parametrize("new_tokens", [25, 40])
def test_every_channel_closes_within_the_limit(model, new_tokens):
    """A limit that cuts channels open leaves frames that never sounded."""
    codes = model.generate(torch.tensor([[72]]), max_new_tokens=new_tokens, min_new_tokens=new_tokens - 16, **GREEDY)[0]
    decoder = model.config.decoder_config
    assert codes.shape[0] == 1 + new_tokens
    for channel, delay in enumerate(model.config.delay_pattern):
        ends = (codes[:, channel] == decoder.eos_token_id).nonzero().flatten().tolist()
        assert ends == [new_tokens - 15 + delay]
        assert (codes[ends[0] + 1 :, channel] == decoder.pad_token_id).all()


@pytest.mark.parametrize("limit", [30, 64])
def test_max_length_is_a_limit_of_channel_0(model, limit):
    """The delay was taken out of `max_length`, or added twice."""
    theirs = tiny.their_model(model)
    theirs.generation_config = model.generation_config
    ids = torch.tensor([[72]])
    options = GREEDY | {"max_length": limit, "min_new_tokens": 20}
    codes = model.generate(ids, **options)
    assert codes.shape[1] == limit + 15
    prepared = as_inputs(model.config, [b"H"], [torch.zeros(0, 9, dtype=torch.long)])
    assert torch.equal(codes, theirs.generate(**prepared, **options))


def test_the_checkpoints_limit_counts_the_prompt(model):
    """transformers counts its default limit from the end of the prompt, and so beyond the trained positions."""
    theirs = tiny.their_model(model)
    inputs = as_inputs(model.config, [b"H"], [torch.zeros(20, 9, dtype=torch.long)])
    lengths = []
    for network in (model, theirs):
        config, network.generation_config = network.generation_config, copy.deepcopy(model.generation_config)
        network.generation_config.max_length = 60
        lengths.append(network.generate(**inputs, min_new_tokens=40, **GREEDY).shape[1])
        network.generation_config = config
    assert lengths == [60 + 15, 60 + 15 + 21]


class Record(LogitsProcessor):
    """Logits processor that records the history."""

    def __init__(self):
        self.ids, self.scores = [], []

    def __call__(self, input_ids, scores):
        self.ids.append(input_ids.clone())
        self.scores.append(scores.clone())
        return scores


def test_forced_tokens_are_kept_at_every_step(model):
    """The history of processors and streamers held predictions instead of beginnings and prompt codes."""
    record = Record()
    prompt = torch.arange(27).reshape(3, 9)
    inputs = as_inputs(model.config, [b"Hi"], [prompt])
    codes = model.generate(**inputs, max_new_tokens=20, logits_processor=LogitsProcessorList([record]), **GREEDY)
    given = inputs["decoder_input_ids"]
    is_given = given != model.config.decoder_config.pad_token_id
    assert torch.equal(codes[:, : given.shape[1]][is_given], given[is_given])
    for ids in record.ids:
        assert torch.equal(ids, codes[0, : ids.shape[1]].T)


def test_the_users_rules_run(model):
    """transformers' own Dia drops `logits_processor` silently."""

    class Only(LogitsProcessor):
        def __call__(self, input_ids, scores):
            assert scores.shape == (9, 1028), "guidance must have been applied"
            only = torch.full_like(scores, -float("inf"))
            only[:, 17] = 0
            return only

    codes = model.generate(
        torch.tensor([[72]]), max_new_tokens=20, logits_processor=LogitsProcessorList([Only()]), **GREEDY
    )
    assert (codes[0, 1:5, 0] == 17).all()


def test_the_users_stopping_criteria_run(model):
    """A user's criterion that is dropped lets generation run to its limit."""

    class Five(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            return torch.full((input_ids.shape[0],), input_ids.shape[1] >= 6)

    codes = model.generate(
        torch.tensor([[72]]), max_new_tokens=40, stopping_criteria=StoppingCriteriaList([Five()]), **GREEDY
    )
    assert codes.shape == (1, 6, 9)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_any_positive_temperature(model, temperature):
    """transformers' own Dia clamps a temperature below 1 to 1."""
    record = Record()
    options = SAMPLING | {"temperature": temperature, "top_k": 0, "top_p": 1.0, "guidance_scale": None}
    output = model.generate(
        torch.tensor([[72]]),
        max_new_tokens=20,
        logits_processor=LogitsProcessorList([record]),
        return_dict_in_generate=True,
        output_scores=True,
        **options,
    )
    kept = torch.isfinite(output.scores[-1]) & (output.scores[-1] != 0)
    torch.testing.assert_close(output.scores[-1][kept], (record.scores[-1] / temperature)[kept])


@pytest.mark.parametrize("guidance_scale", [0.4, 1.5, 7.0])
def test_any_positive_guidance(model, guidance_scale):
    """transformers' own Dia raises below 1."""
    record = Record()
    options = GREEDY | {"guidance_scale": guidance_scale, "top_k": 0, "max_new_tokens": 18}
    ids = torch.tensor([[72, 105]])
    model.generate(ids, logits_processor=LogitsProcessorList([record]), **options)
    frame = torch.full((1, 1, 9), model.config.decoder_config.bos_token_id)
    cond, uncond = (model(text, decoder_input_ids=frame).logits[:, -1] for text in (ids, torch.zeros_like(ids)))
    torch.testing.assert_close(record.scores[0], cond + guidance_scale * (cond - uncond), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("guidance_scale", [None, 1, 1.0])
def test_guidance_off(model, guidance_scale):
    """Guidance that is off must not double the batch, nor filter by `top_k` in greedy search."""
    record = Record()
    options = GREEDY | {"guidance_scale": guidance_scale, "max_new_tokens": 18}
    assert model.generation_config.guidance_scale == 3.0, "the call must overrule the checkpoint"
    model.generate(torch.tensor([[72, 105]]), logits_processor=LogitsProcessorList([record]), **options)
    assert record.scores[0].shape == (9, 1028)
    assert torch.isfinite(record.scores[0]).all()


def test_several_samples_of_one_text(model):
    """Rows instead of samples were repeated, which mixes channels of different samples."""
    texts, prompts = draw_requests(model.config)
    inputs = as_inputs(model.config, texts, prompts)
    options = SAMPLING | {"max_new_tokens": 24}
    codes = model.generate(**inputs, **options, num_return_sequences=3, generator=torch.Generator().manual_seed(3))
    assert codes.shape[0] == 9
    given = inputs["decoder_input_ids"].repeat_interleave(3, dim=0)
    is_given = given != model.config.decoder_config.pad_token_id
    assert torch.equal(codes[:, : given.shape[1]][is_given], given[is_given].long())
    assert not torch.equal(codes[0], codes[1])


def test_a_generator_makes_a_call_independent(model):
    """Draws from the global generator before or during the call changed the codes."""
    ids, options = torch.tensor([[72]]), SAMPLING | {"max_new_tokens": 30}
    calls = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        calls.append(model.generate(ids, **options, generator=torch.Generator().manual_seed(9)))
    assert torch.equal(*calls)


def test_scores_of_seeded_sampling_are_the_distribution(model):
    """With a generator, the returned scores were those of the drawn token: 0, and minus infinity elsewhere."""
    options = SAMPLING | {"max_new_tokens": 20, "return_dict_in_generate": True, "output_scores": True}
    torch.manual_seed(5)
    by_global = model.generate(torch.tensor([[72]]), **options)
    by_generator = model.generate(torch.tensor([[72]]), **options, generator=torch.Generator().manual_seed(5))
    assert torch.equal(by_generator.sequences, by_global.sequences)
    assert len(by_generator.scores) == len(by_global.scores)
    for got, want in zip(by_generator.scores, by_global.scores, strict=True):
        assert torch.equal(got, want)
    assert torch.isfinite(by_generator.scores[0][0]).sum() > 1


PER_SAMPLE = {
    "guidance_scale": [3.0, None, 0.7],
    "temperature": [0.8, 1.0, 2.0],
    "top_k": [5, 20, 0],
    "top_p": [0.9, 1.0, 0.5],
    "max_new_tokens": [40, 25, 33],
}


@pytest.mark.parametrize("mode", ["greedy", "sampled", "from guided"])
@pytest.mark.parametrize("seed", range(3))
def test_lists_give_each_sample_its_own_settings(mode, seed):
    """A batch of requests was one request with many texts: every setting was shared."""
    model = tiny.random_model(tiny.random_config(seed), seed, scale=0.5)
    texts, prompts = draw_requests(model.config, seed)
    options = {"do_sample": mode != "greedy", "sample_from_guided": mode == "from guided"}

    def generators(seeds):
        return [torch.Generator().manual_seed(s) for s in seeds] if options["do_sample"] else None

    together = model.generate(
        **as_inputs(model.config, texts, prompts), **options, **PER_SAMPLE, generator=generators(range(3))
    )
    for b in range(3):
        own = {name: values[b] for name, values in PER_SAMPLE.items()}
        alone = model.generate(
            **as_inputs(model.config, texts[b : b + 1], prompts[b : b + 1]), **options, **own, generator=generators([b])
        )
        assert_same_speech(together[b], alone[0], model.config)


def test_some_settings_as_lists_and_several_sequences(model):
    """A list beside single values, and samples repeated, went out of step with the rows."""
    ids = torch.tensor([[72, 105], [89, 111]])
    options = {"do_sample": True, "max_new_tokens": 24, "num_return_sequences": 2}
    seeds = range(4)
    codes = model.generate(
        ids, **options, temperature=[0.5, 1.5], generator=[torch.Generator().manual_seed(s) for s in seeds]
    )
    for b, temperature in enumerate([0.5, 0.5, 1.5, 1.5]):
        alone = model.generate(
            ids[b // 2 : b // 2 + 1],
            **options | {"num_return_sequences": 1},
            temperature=temperature,
            generator=torch.Generator().manual_seed(b),
        )
        assert_same_speech(codes[b], alone[0], model.config)


@pytest.mark.parametrize("cache", [None, "static"])
@pytest.mark.parametrize("guidance_scale", [None, 3.0])
def test_a_sample_that_has_ended_is_computed_no_further(model, cache, guidance_scale):
    """In a batch of one long and many short samples, the network read padding until the long one ended."""
    model = copy.deepcopy(model).double()  # no two scores so near that a batch's rounding decides
    texts, prompts = draw_requests(model.config)
    rows = []
    hook = model.model.decoder.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(kwargs["input_ids"].shape[0]), with_kwargs=True
    )
    options = GREEDY | {"guidance_scale": guidance_scale, "cache_implementation": cache, "min_new_tokens": 90}
    limits = [20, 90, 50]
    together = model.generate(
        **as_inputs(model.config, texts, prompts), **options | {"max_new_tokens": limits, "min_new_tokens": None}
    )
    hook.remove()
    doubled = 1 if guidance_scale is None else 2
    if cache is None:
        ends = [int((row[:, 0] == 1024).nonzero()[0]) + 16 for row in together]
        assert rows[0] == 3 * doubled and rows == sorted(rows, reverse=True)
        first = 1 + max(map(len, prompts))
        expected = [sum(length < end for end in ends) for length in range(first, max(ends))]
        assert rows == [count * doubled for count in expected]
    for row, text, prompt, limit in zip(together, texts, prompts, limits, strict=True):
        alone = model.generate(
            **as_inputs(model.config, [text], [prompt]),
            **GREEDY | {"guidance_scale": guidance_scale, "max_new_tokens": limit},
        )
        assert_same_speech(row, alone[0], model.config)


def test_what_the_caller_sees_of_the_network_keeps_its_shape(model):
    """Attentions of a batch whose first sample had ended were of another batch."""
    model.set_attn_implementation("eager")
    output = model.generate(
        torch.tensor([[72, 105], [89, 111], [66, 121]]),
        **GREEDY | {"max_new_tokens": [18, 25, 40]},
        return_dict_in_generate=True,
        output_attentions=True,
        output_logits=True,
    )
    model.set_attn_implementation("sdpa")
    assert len(output.cross_attentions) == output.sequences.shape[1] - 1 > 30
    assert {step[0].shape[0] for step in output.cross_attentions} == {3}
    assert {step.shape for step in output.logits} == {(27, 1028)}


def test_stopping_criteria_end_one_sample(model):
    """A criterion met in one channel padded that channel and let the others of the sample go on."""

    class AtSix(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            done = torch.zeros(input_ids.shape[0], dtype=torch.bool)
            done[4] = input_ids.shape[1] >= 6
            return done

    ids, options = torch.tensor([[72], [89]]), GREEDY | {"max_new_tokens": 30, "min_new_tokens": 10}
    codes = model.generate(ids, stopping_criteria=StoppingCriteriaList([AtSix()]), **options)
    free = model.generate(ids, **options)
    assert torch.equal(codes[0, :6], free[0, :6])
    assert (codes[0, 6:] == 1025).all()
    assert_same_speech(codes[1], free[1], model.config)


def test_a_sample_stopped_early_can_be_decoded(model, processor):
    """The padding after an early stop reached the codec, which has no such code."""

    class AtThirty(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            return torch.tensor([input_ids.shape[1] >= 30] * 9 + [False] * 9)

    options = GREEDY | {"max_new_tokens": 60, "min_new_tokens": 44}
    codes = model.generate(torch.tensor([[72], [89]]), stopping_criteria=StoppingCriteriaList([AtThirty()]), **options)
    stopped, whole = processor.batch_decode(codes)
    assert len(stopped) == (30 - 1 - 15) * 512
    assert len(whole) == 44 * 512


def test_min_new_tokens(model):
    """End of speech in the first frame leaves no audio."""
    ids = torch.tensor([[72]])

    class EndAtOnce(LogitsProcessor):
        def __call__(self, input_ids, scores):
            scores[:, 1024] = 1e4
            return scores

    for fewest in (1, 12):
        codes = model.generate(
            ids,
            max_new_tokens=60,
            min_new_tokens=fewest,
            eos_logit_scale=1e4,
            prefix_allowed_tokens_fn=lambda row, tokens: [0, 1024],
            **GREEDY | {"guidance_scale": None},
        )
        ends = int((codes[0, :, 0] == 1024).nonzero()[0])
        assert ends >= 1 + fewest


def test_prefix_allowed_tokens(model):
    """transformers' own Dia drops `prefix_allowed_tokens_fn` silently."""
    seen = set()

    def allowed(row, tokens):
        seen.add((row, tokens.shape[0]))
        return [100 + row, 200 + row]

    codes = model.generate(
        torch.tensor([[72], [89]]), max_new_tokens=22, prefix_allowed_tokens_fn=allowed, **GREEDY | {"top_k": 0}
    )
    rows = codes.transpose(1, 2).flatten(0, 1)
    for row, tokens in enumerate(rows):
        spoken = tokens[tokens < 1024].tolist()
        assert spoken and set(spoken) <= {100 + row, 200 + row}
    assert {(row, 1) for row in range(18)} <= seen


def test_two_threads_give_what_each_gives_alone(model):
    """Guidance state on the module: one thread's call without guidance broke the other's with it."""
    texts, prompts = draw_requests(model.config)
    jobs = [
        (as_inputs(model.config, texts, prompts), GREEDY | {"max_new_tokens": 40}),
        (as_inputs(model.config, texts[:1], prompts[:1]), GREEDY | {"guidance_scale": 1.0, "max_new_tokens": 60}),
        (as_inputs(model.config, texts[1:], prompts[1:]), SAMPLING | {"max_new_tokens": 50, "seed": 4}),
        (
            as_inputs(model.config, texts[2:], prompts[2:]),
            SAMPLING | {"guidance_scale": 0.5, "max_new_tokens": 45, "seed": 5},
        ),
    ]

    def run(job):
        inputs, options = job
        options = dict(options)
        if (seed := options.pop("seed", None)) is not None:
            options["generator"] = torch.Generator().manual_seed(seed)
        return model.generate(**inputs, **options)

    alone = [run(job) for job in jobs]
    with ThreadPoolExecutor(max_workers=4) as pool:
        together = list(pool.map(run, jobs * 3))
    assert all(torch.equal(got, want) for got, want in zip(together, alone * 3, strict=True))


def test_generation_leaves_no_trace_on_the_model(model):
    """Settings of a call that stay on the model change the next call."""
    before, config = dict(vars(model)), model.generation_config.to_dict()
    model.generate(torch.tensor([[72]]), max_new_tokens=20, **SAMPLING)
    assert vars(model) == before
    assert model.generation_config.to_dict() == config


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", [GREEDY, SAMPLING], ids=["greedy", "sampled"])
def test_half_precision_runs(dtype, options):
    """A float32 mask or cache with half-precision weights raises in the middle of generation."""
    model = DiaForConditionalGeneration.from_pretrained(MINIATURE, dtype=dtype)
    texts, prompts = draw_requests(model.config)
    codes = model.generate(**as_inputs(model.config, texts, prompts), max_new_tokens=24, **options)
    assert codes.shape[::2] == (3, 9)


def test_without_a_cache(model):
    """`use_cache=False` reads the whole history at every step and must give the same codes."""
    texts, prompts = draw_requests(model.config)
    inputs = as_inputs(model.config, texts, prompts)
    options = GREEDY | {"max_new_tokens": 20}
    assert torch.equal(model.generate(**inputs, **options, use_cache=False), model.generate(**inputs, **options))


def test_dictionary_output(model):
    """Requested scores and attentions were missing, or of twice the batch size."""
    model.set_attn_implementation("eager")
    outputs = [
        model.generate(
            torch.tensor([[72, 105]]),
            max_new_tokens=18,
            return_dict_in_generate=True,
            output_scores=True,
            output_logits=True,
            output_attentions=True,
            output_hidden_states=True,
            **GREEDY | {"guidance_scale": guidance_scale},
        )
        for guidance_scale in (3.0, None)
    ]
    model.set_attn_implementation("sdpa")
    for output in outputs:
        assert output.sequences.shape == (1, 19, 9)
        assert len(output.scores) == len(output.logits) == 18
        assert output.scores[0].shape == output.logits[0].shape == (9, 1028)
        assert output.cross_attentions[0][0].shape == (1, 4, 1, 2)
        assert output.decoder_hidden_states[0][0].shape == (1, 1, 32)
        assert output.encoder_attentions[0].shape == (1, 4, 2, 2)
    # The first step reads the same frame with and without guidance.
    for name in ("logits", "cross_attentions"):
        guided, plain = (output[name][0] for output in outputs)
        torch.testing.assert_close(guided, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 2, "do_sample": False}, "rank beams"),
        ({"guidance_scale": -1.0}, "above 0"),
        ({"guidance_scale": 0.0}, "above 0"),
        ({"do_sample": True, "temperature": -0.5}, "temperature"),
        ({"decoder_input_ids": torch.zeros(1, 3, 4, dtype=torch.long)}, "expected"),
        ({"decoder_input_ids": torch.zeros(9, 3, dtype=torch.long)}, "expected"),
        ({"decoder_input_ids": torch.full((1, 3, 9), 1025)}, "beginning of speech"),
        ({"decoder_input_ids": torch.full((1, 3072, 9), 1026)}, "3071 frames, but this model has 3072 positions"),
        ({"decoder_input_ids": torch.full((1, 300, 9), 1026), "max_new_tokens": None}, "299 frames.*`max_length`"),
        ({"speed": 2}, "speed"),
        ({"temperature": [1.0, 2.0], "do_sample": True}, "list of 2, but the batch has 1"),
        ({"guidance_scale": [3.0, 2.0]}, "list of 2, but the batch has 1"),
        ({"guidance_scale": [-3.0]}, "above 0"),
        ({"temperature": []}, "empty list"),
        ({"generator": [torch.Generator()] * 2, "do_sample": True}, "list of 2, but 1 sequences"),
        ({"max_new_tokens": [7]}, "at least 16"),
    ],
)
def test_what_cannot_be_done_raises(model, options, message):
    """Impossible requests came back as shape errors from deep inside, or did something else."""
    with pytest.raises(ValueError, match=message):
        model.generate(torch.tensor([[72]]), **{"max_new_tokens": 18} | options)


@pytest.mark.parametrize("use_fast_path", [False, None])
def test_none_is_the_default(model, use_fast_path):
    """`None` for a number of beams or of sequences was compared with 1, or multiplied by."""
    options = {"max_new_tokens": 18, "do_sample": False, "use_fast_path": use_fast_path}
    given = model.generate(torch.tensor([[72]]), num_return_sequences=None, num_beams=None, **options)
    assert torch.equal(given, model.generate(torch.tensor([[72]]), **options))


@pytest.mark.parametrize("use_fast_path", [False, None])
def test_the_smallest_filter(model, use_fast_path):
    """Where a special token is best under guidance, no token was left, and most texts failed."""
    options = {"do_sample": True, "guidance_scale": 3.0, "top_k": 1, "use_fast_path": use_fast_path}
    codes = model.generate(torch.tensor([[72]]), max_new_tokens=40, **options)
    assert int(codes.max()) <= model.config.decoder_config.bos_token_id


def test_guidance_needs_the_text(model):
    """Encoder output alone cannot be made unconditional; guidance was silently off."""
    encoded = model.model.encoder(torch.tensor([[72]]))
    with pytest.raises(ValueError, match="guidance needs the text"):
        model.generate(encoder_outputs=encoded, max_new_tokens=18, **GREEDY)
    codes = model.generate(encoder_outputs=encoded, max_new_tokens=18, do_sample=False, guidance_scale=1.0)
    assert torch.equal(
        codes, model.generate(torch.tensor([[72]]), max_new_tokens=18, do_sample=False, guidance_scale=1.0)
    )
