"""The network against transformers' own, in the same process and against outputs of transformers 4.53."""

import copy
import logging

import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import StaticCache
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.models.dia import DiaForConditionalGeneration as TheirModel

import tiny
from dia_hf import DiaConfig, DiaForConditionalGeneration, DiaModel, modeling_dia
from dia_hf._compat import CACHE_NAME

IMPLEMENTATIONS = ["eager", "sdpa"]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_loss_and_logits_of_the_reference_pack(pack, implementation):
    """A wrong scale, a missing rotation or a swapped gate gives plausible but different logits."""
    tensors = load_file(pack / "expected.safetensors")
    expected = {name.removeprefix("train."): tensor for name, tensor in tensors.items() if name.startswith("train.")}
    loss, logits_last = expected.pop("loss"), expected.pop("logits_last")
    model = DiaForConditionalGeneration.from_pretrained(pack, attn_implementation=implementation)
    output = model(**expected)
    torch.testing.assert_close(output.loss[None], loss, rtol=0, atol=1e-5)
    torch.testing.assert_close(output.logits[:, -1], logits_last, rtol=0, atol=1e-4)


@pytest.mark.parametrize("seed", range(12))
def test_random_configurations_equal_transformers(seed):
    """Equality on one shape hides a swapped size that another shape shows: logits, loss and every gradient."""
    model = tiny.random_model(tiny.random_config(seed), seed)
    batch = tiny.random_batch(model.config, seed)
    theirs = tiny.their_model(model)
    for network in (model, theirs):
        network.train()
        network(**batch).loss.backward()
    ours_out, theirs_out = model(**batch), theirs(**batch)
    torch.testing.assert_close(ours_out.logits, theirs_out.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours_out.loss, theirs_out.loss, rtol=0, atol=1e-5)
    their_gradients = {name: p.grad for name, p in theirs.named_parameters()}
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, their_gradients[name], rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("seed", range(3))
def test_checkpoints_load_in_both_directions(tmp_path, seed):
    """A parameter under another name is initialized at random by the other side, with a mere warning."""
    model = tiny.random_model(tiny.random_config(seed), seed)
    batch = tiny.random_batch(model.config, seed)
    model.save_pretrained(tmp_path / "ours")
    theirs, info = TheirModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    theirs.save_pretrained(tmp_path / "theirs")
    again, info = DiaForConditionalGeneration.from_pretrained(tmp_path / "theirs", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    expected = model(**batch).logits
    torch.testing.assert_close(theirs(**batch).logits, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(again(**batch).logits, expected)


@pytest.mark.parametrize("implementation", ["sdpa", "flex_attention"])
def test_kernels_equal_eager(implementation):
    """A kernel that divides by sqrt(head_dim) on its own, or takes another mask, still returns something."""
    model = tiny.random_model(tiny.random_config(3))
    batch = tiny.random_batch(model.config)
    model.set_attn_implementation("eager")
    expected = model(**batch).logits
    model.set_attn_implementation(implementation)
    with torch.no_grad():
        logits = model(**batch).logits
    kept = batch["decoder_attention_mask"].bool().repeat_interleave(model.num_channels, 0)
    torch.testing.assert_close(logits[kept], expected[kept], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cache_class", ["dynamic", "static"])
def test_step_by_step_equals_at_once(cache_class):
    """A cache that drops, repeats or misplaces a frame differs from the full forward pass."""
    model = tiny.random_model(tiny.random_config(3))
    batch = tiny.random_batch(model.config)
    batch.pop("labels"), batch.pop("decoder_attention_mask")
    frames = batch.pop("decoder_input_ids")
    expected = model(**batch, decoder_input_ids=frames).logits
    decoder = model.config.decoder_config
    if cache_class == "static":
        caches = (StaticCache(config=decoder, max_cache_len=n) for n in (20, batch["input_ids"].shape[1]))
    else:
        caches = (DynamicCache(config=decoder) for _ in range(2))
    cache = EncoderDecoderCache(*caches)
    steps = []
    with torch.no_grad():
        encoded = model.model.encoder(batch["input_ids"], batch["attention_mask"])
        for frame in frames.split([5, 1, 1, 4, 1], dim=1):
            out = model(
                encoder_outputs=encoded,
                attention_mask=batch["attention_mask"],
                decoder_input_ids=frame,
                cache=cache,
            )
            steps.append(out.logits)
    torch.testing.assert_close(torch.cat(steps, dim=1), expected, rtol=1e-4, atol=1e-4)


def test_labels_in_either_layout(model):
    """Labels of the shape [B, T, C] were flattened as if they were [B·C, T]."""
    batch = tiny.random_batch(model.config)
    rows = batch.pop("labels")
    frames = rows.unflatten(0, (3, 9)).transpose(1, 2)
    assert model(**batch, labels=rows).loss == model(**batch, labels=frames).loss


def test_label_zero_is_a_code():
    """Masking label 0 as padding, as some implementations do, leaves one code of 1,024 untrained."""
    model = tiny.random_model(tiny.random_config(1))
    batch = tiny.random_batch(model.config)
    batch["labels"] = torch.zeros_like(batch["labels"])
    logits = model(**batch).logits
    expected = -logits.log_softmax(-1)[..., 0].mean()
    torch.testing.assert_close(model(**batch).loss, expected)


def test_num_items_in_batch_makes_accumulation_exact():
    """Averaging micro-batches of different lengths weighs a short one's tokens more."""
    model = tiny.random_model(tiny.random_config(1))
    batch = tiny.random_batch(model.config)
    channels = model.num_channels
    total = int((batch["labels"] != -100).sum())
    parts = [
        {k: v[i * channels : (i + 1) * channels] if k == "labels" else v[i : i + 1] for k, v in batch.items()}
        for i in range(3)
    ]
    summed = sum(model(**part, num_items_in_batch=total).loss for part in parts)
    torch.testing.assert_close(summed, model(**batch).loss, rtol=1e-5, atol=1e-6)


def test_logits_to_keep():
    """`generate` computed the head for the whole prompt to read its last frame."""
    model = tiny.random_model(tiny.random_config(1))
    batch = tiny.random_batch(model.config)
    batch.pop("labels")
    assert torch.equal(model(**batch, logits_to_keep=2).logits, model(**batch).logits[:, -2:])


def test_hidden_states_and_attentions(model):
    """Recorded under the wrong name, self- and cross-attentions come back mixed."""
    model.set_attn_implementation("eager")
    batch = tiny.random_batch(model.config)
    batch.pop("labels")
    out = model(**batch, output_attentions=True, output_hidden_states=True)
    model.set_attn_implementation("sdpa")
    num_bytes, num_frames = batch["input_ids"].shape[1], 12
    assert [a.shape for a in out.decoder_attentions] == 2 * [(3, 4, num_frames, num_frames)]
    assert [a.shape for a in out.cross_attentions] == 2 * [(3, 4, num_frames, num_bytes)]
    assert [a.shape for a in out.encoder_attentions] == 2 * [(3, 4, num_bytes, num_bytes)]
    assert len(out.decoder_hidden_states) == len(out.encoder_hidden_states) == 3
    torch.testing.assert_close(out.cross_attentions[0].sum(-1), torch.ones(3, 4, num_frames))


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_changes_nothing(use_reentrant):
    """Encoder states passed by keyword get no gradient under re-entrant checkpointing: the encoder is never trained."""
    model = tiny.random_model(tiny.random_config(3)).train()
    batch = tiny.random_batch(model.config)
    model(**batch).loss.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    tiny.checkpoint_gradients(model, use_reentrant)
    model.enable_input_require_grads()
    model(**batch, use_cache=True).loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], msg=name)


def test_gradient_checkpointing_says_nothing_of_a_cache(monkeypatch, caplog):
    """`config.use_cache` concerns `generate`, but every training warned of it."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    transformers.utils.logging.warning_once.cache_clear()
    model = tiny.random_model(tiny.random_config(3)).train()
    tiny.checkpoint_gradients(model)
    model(**tiny.random_batch(model.config)).loss.backward()
    assert model.config.decoder_config.use_cache and "cach" not in caplog.text.lower()


def test_peft_attaches_with_gradient_checkpointing():
    """transformers' own Dia raises in `get_input_embeddings`, so LoRA with checkpointing does not attach."""
    peft = pytest.importorskip("peft")
    model = tiny.random_model(tiny.random_config(3)).train()
    tiny.checkpoint_gradients(model, use_reentrant=True)
    model.enable_input_require_grads()
    lora = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj", "gate_up_proj"]))
    lora(**tiny.random_batch(model.config)).loss.backward()
    gradients = [p.grad for name, p in lora.named_parameters() if "lora_B" in name]
    assert gradients and all(g is not None and g.abs().sum() > 0 for g in gradients)


def test_embeddings_can_be_found_and_replaced(model):
    """Tools that look for embeddings by transformers' methods found none."""
    assert model.get_input_embeddings() is model.model.encoder.embedding
    assert model.model.decoder.get_input_embeddings() is model.model.decoder.embeddings.embed
    assert model.get_output_embeddings() is model.logits_dense


def test_resizing_is_of_the_byte_embedding_alone(tmp_path):
    """`resize_token_embeddings(len(tokenizer))`, which recipes call, cut the head from 9,252 rows to 256."""
    config = tiny.random_config(2)
    model = tiny.random_model(config)
    batch = tiny.random_batch(config)
    expected = model(**batch).logits
    head, vocab_size = model.logits_dense.weight.clone(), config.decoder_config.vocab_size
    embedding = model.resize_token_embeddings(259)
    assert embedding is model.model.encoder.embedding and embedding.weight.shape[0] == 259
    assert model.config.encoder_config.vocab_size == 259
    assert (model.config.decoder_config.vocab_size, model.vocab_size) == (vocab_size, vocab_size)
    assert torch.equal(model.logits_dense.weight, head)
    torch.testing.assert_close(model(**batch).logits, expected, rtol=0, atol=0)
    model.save_pretrained(tmp_path)
    again = DiaForConditionalGeneration.from_pretrained(tmp_path)
    torch.testing.assert_close(again.eval()(**batch).logits, expected, rtol=0, atol=0)
    with pytest.raises(ValueError, match="row for each code"):
        model.model.decoder.resize_token_embeddings(300)


def test_a_cache_under_gradient_checkpointing():
    """A layer that is recomputed for its gradients updates the cache twice, and the second step is wrong."""
    model = tiny.random_model(tiny.random_config(3))
    batch = tiny.random_batch(model.config)
    labels = batch.pop("labels")
    filled = model(**batch, use_cache=True)[CACHE_NAME]
    tiny.checkpoint_gradients(model.train())
    out = model(**batch, labels=labels, use_cache=True)
    assert out.get(CACHE_NAME) is None
    torch.testing.assert_close(out.loss, model.eval()(**batch, labels=labels).loss)
    with pytest.raises(ValueError, match=r"frames cannot be read under gradient checkpointing"):
        model.train()(**batch, cache=filled)


def test_logits_of_chosen_positions(model):
    """`generate` requests the logits of one position, or of a list of positions."""
    batch = tiny.random_batch(model.config)
    del batch["labels"]
    every = model(**batch).logits
    for kept, places in ((2, slice(-2, None)), (torch.tensor([0, 3]), torch.tensor([0, 3]))):
        torch.testing.assert_close(model(**batch, logits_to_keep=kept).logits, every[:, places], rtol=1e-5, atol=1e-5)


def test_rotary_embedding_stays_exact_in_half_precision():
    """A buffer of frequencies, rounded by `.to(bfloat16)`, turns frame 3000 by a wrong angle."""
    from dia_hf.modeling_dia import rotary_embedding

    cos, _ = rotary_embedding(torch.tensor([[3000]]), 8, 10000.0)
    assert cos.dtype == torch.float32
    model = tiny.random_model(tiny.random_config(3))
    assert not list(model.to(torch.bfloat16).buffers())


def test_base_model_and_tuples(pack):
    """With `return_dict=False` or `AutoModel` the numbers differed."""
    model = DiaForConditionalGeneration.from_pretrained(pack)
    base, report = DiaModel.from_pretrained(pack, output_loading_info=True)
    assert not report["unexpected_keys"], (
        "a report on the head, which is left out on purpose, teaches to overlook reports"
    )
    batch = tiny.random_batch(model.config)
    batch.pop("labels")
    hidden = base(**batch, return_dict=False)[0]
    logits = model(**batch).logits.unflatten(0, (3, 9)).transpose(1, 2).flatten(2)
    assert torch.equal(model.logits_dense(hidden), logits)


def test_default_decoder_input_is_a_beginning(model):
    """Without `decoder_input_ids` there was an error instead of the first frame's logits."""
    ids = torch.tensor([[72, 105]])
    beginning = torch.full((1, 1, 9), model.config.decoder_config.bos_token_id)
    assert torch.equal(model(ids).logits, model(ids, decoder_input_ids=beginning).logits)


@pytest.mark.parametrize("inputs", [{}, {"input_ids": torch.tensor([[1]]), "labels": torch.zeros(9, 1).long()}])
def test_missing_inputs_raise(model, inputs):
    """Labels without codes were trained on a single BOS, by broadcasting."""
    with pytest.raises(ValueError, match=r"decoder_input_ids|input_ids"):
        model(**inputs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_runs(dtype):
    """A float32 constant in the forward pass raises a dtype error in half precision."""
    model = tiny.random_model(tiny.random_config(3), scale=0.1)
    batch = tiny.random_batch(model.config)
    expected = model(**batch)
    output = model.to(dtype)(**batch)
    assert output.logits.dtype == dtype
    torch.testing.assert_close(output.loss.float(), expected.loss, rtol=0.05, atol=0.05)


def test_full_size_has_the_published_number_of_parameters():
    """A layer too many or too few would not be noticed on tiny models."""
    with torch.device("meta"):
        model = DiaForConditionalGeneration(DiaConfig())
    sizes = [sum(p.numel() for p in m.parameters()) for m in (model, model.model.encoder)]
    assert [round(size / 1e6) for size in sizes] == [1611, 252]


def test_traces_as_one_graph():
    """A branch on data breaks the graph of a compiled step."""
    model = tiny.random_model(tiny.random_config(3))
    batch = tiny.random_batch(model.config)
    batch.pop("labels")
    with torch.no_grad():
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        assert torch.equal(compiled(**batch).logits, model(**batch).logits)


def test_dispatched_over_devices(tmp_path):
    """`device_map="auto"` must not split a layer between devices."""
    pytest.importorskip("accelerate")
    model = tiny.random_model(tiny.random_config(3))
    batch = tiny.random_batch(model.config)
    batch.pop("labels")
    model.save_pretrained(tmp_path)
    dispatched = DiaForConditionalGeneration.from_pretrained(tmp_path, device_map="auto")
    assert torch.equal(dispatched(**batch).logits, model(**batch).logits)


@pytest.mark.parametrize("implementation", ["eager", "sdpa", "flex_attention"])
@pytest.mark.parametrize("cross_attention_rope", [False, True], ids=["0626", "v0.1"])
@torch.compiler.set_stance("force_eager")  # inductor's code of flex attention for a CPU does not compile
def test_packed_clips_are_clips_alone(implementation, cross_attention_rope):
    """A clip that attends to another's text or codes, or continues its positions, is trained differently."""
    config = tiny.random_config(3)
    config.decoder_config.cross_attention_rope = cross_attention_rope
    model = tiny.random_model(config)
    model.set_attn_implementation(implementation)
    has_gradients = implementation != "flex_attention"  # it has none on a CPU
    model.requires_grad_(has_gradients)
    together, alone = tiny.packed_clips(config)
    total = int((together["labels"] != -100).sum())
    losses = [model(**clip, num_items_in_batch=total).loss for clip in alone]
    loss = model(**together).loss
    torch.testing.assert_close(loss, sum(losses), rtol=1e-6, atol=1e-6)
    if has_gradients:
        parameters = list(model.parameters())
        gradients = torch.autograd.grad(loss, parameters)
        for mine, expected in zip(gradients, torch.autograd.grad(sum(losses), parameters), strict=True):
            torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-5)


def test_packing_is_refused_where_clips_would_mix(model):
    """A kernel that ignores sequence ids, or a missing id, trains on mixed clips silently."""
    together, _ = tiny.packed_clips(model.config)
    for name in ("sequence_ids", "decoder_sequence_ids"):
        with pytest.raises(ValueError, match="need both"):
            model(**{key: value for key, value in together.items() if key != name})
    with pytest.raises(ValueError, match="cannot be combined with a cache"):
        model(**together, use_cache=True)
    for part in ("encoder", "decoder"):
        other = copy.deepcopy(model)
        getattr(other.model, part).config._attn_implementation = "flash_attention_2"
        with pytest.raises(ValueError, match="'flash_attention_2' cannot separate packed clips"):
            other(**together)


def test_the_epsilon_under_its_other_name():
    """transformers' tools set `variance_epsilon` of normalization layers, which raised an AttributeError."""
    norm = modeling_dia.DiaRMSNorm(4, eps=1e-5)
    norm.variance_epsilon = 1.0
    assert norm.variance_epsilon == norm.eps == 1.0
    assert torch.equal(norm(torch.ones(1, 4)), torch.full((1, 4), 0.5).sqrt())
