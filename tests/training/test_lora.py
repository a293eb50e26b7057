"""Adapters on frozen weights, merged and unmerged."""

import json

import peft
import pytest
import torch

from dia_hf import MINIATURE, Dia, DiaForConditionalGeneration, DiaProcessor
from dia_hf.training import LORA_TARGET_MODULES, attach_lora, merge_adapter
from tiny import checkpoint_gradients, random_batch, random_config, random_model

SETTINGS = [{}, {"r": 4, "lora_alpha": 8, "use_rslora": True}, {"r": 2, "use_dora": True}]


def make(seed=0, settings=None):
    """Make a random model whose adapters are not zero, and a batch."""
    torch.manual_seed(seed)
    config = random_config(seed)
    model = attach_lora(random_model(config, seed, scale=0.1), settings)
    return model, random_batch(config, seed)


def train(model, batch, num_steps=3):
    """Take steps that are large enough to be measured."""
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-2)
    model.train()
    for _ in range(num_steps):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@torch.no_grad()
def logits_of(model, batch):
    return model(**{name: value for name, value in batch.items() if name != "labels"}).logits


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (None, (32, 32, 0.0, False, False)),
        ({"r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "use_rslora": True}, (4, 8, 0.1, True, False)),
        ({"lora_alpha": 16, "use_dora": True}, (32, 16, 0.0, False, True)),
    ],
)
def test_settings_reach_peft(settings, expected):
    """A setting was ignored, or passed to PEFT under another's name."""
    config = make(settings=settings)[0].peft_config["default"]
    given = (config.r, config.lora_alpha, config.lora_dropout, config.use_rslora, config.use_dora)
    assert given == expected


@pytest.mark.parametrize("settings", SETTINGS)
def test_only_adapters_change(settings):
    """A base weight changed in training, and the adapter no longer fit the published weights."""
    model, batch = make(settings=settings)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    train(model, batch)
    for name, weight in model.named_parameters():
        is_adapter = ".lora_" in name
        assert weight.requires_grad == is_adapter, name
        assert torch.equal(weight, before[name]) != is_adapter, name


def test_new_adapters_change_nothing():
    """New adapters changed the model's outputs, so a run did not begin from the published model."""
    config = random_config(1)
    model, batch = random_model(config, 1), random_batch(config, 1)
    expected = logits_of(model, batch)
    assert torch.equal(logits_of(attach_lora(model).eval(), batch), expected)


def test_every_matrix_has_an_adapter():
    """A matrix with a name that is not listed, such as in a new layer, stayed frozen without a warning."""
    model, _ = make()
    adapted = {name.split(".lora_A")[0] for name, _ in model.named_parameters() if ".lora_A" in name}
    inside = model.base_model.model
    linear = {
        f"base_model.model.{name}"
        for name, module in inside.named_modules()
        if isinstance(module, peft.tuners.lora.Linear)
    }
    layers = len(inside.model.encoder.layers), len(inside.model.decoder.layers)
    assert adapted == linear and len(adapted) == 6 * layers[0] + 10 * layers[1]
    assert {name.rsplit(".")[-1] for name in adapted} == set(LORA_TARGET_MODULES)


def test_the_decoder_alone():
    """Adapters for the decoder alone were added to the encoder as well."""
    model, _ = make(settings={"target_modules": r".*\.decoder\..*_proj"})
    names = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert names and all(".decoder." in name for name in names)
    with pytest.raises(ValueError, match="not found"):
        make(settings={"target_modules": ["query"]})


@pytest.mark.parametrize("settings", SETTINGS)
def test_merged_equals_unmerged(tmp_path, settings):
    """The merged weights differed from those that were trained and evaluated."""
    model, batch = make(settings=settings)
    train(model, batch)
    expected = logits_of(model, batch)
    base = random_model(model.config, 0, scale=0.1)
    assert (logits_of(base, batch) - expected).abs().max() > 1e-2, "nothing was learned"
    model.save_pretrained(tmp_path)
    merged = merge_adapter(base, tmp_path)
    assert type(merged) is DiaForConditionalGeneration and not [n for n, _ in merged.named_parameters() if "lora" in n]
    torch.testing.assert_close(logits_of(merged, batch), expected, atol=1e-5, rtol=1e-5)


def test_adapters_survive_plain_peft(tmp_path):
    """An adapter could not be loaded with PEFT alone."""
    model, batch = make()
    train(model, batch).save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(random_model(model.config, 0, scale=0.1), tmp_path).eval()
    assert torch.equal(logits_of(loaded, batch), logits_of(model, batch))


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing(use_reentrant):
    """With frozen embeddings no layer's input requires gradients; in transformers' Dia all gradients are then lost."""
    gradients = []
    for checkpointing in (False, True):
        model, batch = make()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if ".lora_B" in name:
                    weight.normal_(std=0.1, generator=torch.Generator().manual_seed(len(name)))
        if checkpointing:
            checkpoint_gradients(model, use_reentrant)
            if use_reentrant:
                model.enable_input_require_grads()
        model.train()
        model(**batch).loss.backward()
        gradients.append({n: weight.grad for n, weight in model.named_parameters() if weight.requires_grad})
    assert all(gradient.abs().max() > 0 for gradient in gradients[0].values())
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-6, rtol=1e-5)


def test_from_an_adapter_alone_to_a_checkpoint(tmp_path):
    """An adapter did not name its base model, or a merge in bfloat16 rounded its weights twice."""
    model = attach_lora(DiaForConditionalGeneration.from_pretrained(MINIATURE, dtype=torch.bfloat16), {"r": 2})
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".lora_B" in name:
                weight.fill_(1e-3)
    model.save_pretrained(tmp_path / "adapter")
    merged = merge_adapter(None, tmp_path / "adapter")
    assert merged.dtype == torch.float32
    merged.save_pretrained(tmp_path / "whole")
    DiaProcessor.from_pretrained(MINIATURE).save_pretrained(tmp_path / "whole")
    dia = Dia.from_pretrained(tmp_path / "whole", device="cpu")
    changed = [
        name
        for name, weight in DiaForConditionalGeneration.from_pretrained(MINIATURE).named_parameters()
        if not torch.equal(weight, dia.model.get_parameter(name))
    ]
    layers = dia.model.config.encoder_config.num_hidden_layers, dia.model.config.decoder_config.num_hidden_layers
    assert len(changed) == 6 * layers[0] + 10 * layers[1]


def test_a_model_in_half_precision_is_merged_in_float32(tmp_path):
    """A small adapter was lost in the rounding of bfloat16 weights when it was merged."""
    model, _ = make(settings={"r": 2})
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".lora_B" in name:
                weight.fill_(1e-5)
    model.save_pretrained(tmp_path)
    base = random_model(model.config, 0, scale=0.1).bfloat16()
    before = {name: weight.float() for name, weight in base.named_parameters()}
    merged = merge_adapter(base, tmp_path)
    assert merged.dtype == torch.float32
    for name, weight in merged.named_parameters():
        assert torch.equal(weight, before[name]) != name.endswith("_proj.weight"), name


def test_what_is_no_adapter(tmp_path):
    """The folder of a run was taken for its adapter."""
    with pytest.raises(FileNotFoundError, match="has no adapter_config"):
        merge_adapter(None, MINIATURE)
    model, _ = make()
    model.save_pretrained(tmp_path)
    other = random_model(random_config(5))
    with pytest.raises(ValueError, match="does not fit the model"):
        merge_adapter(other, tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": None}))
    with pytest.raises(ValueError, match="names no base model"):
        merge_adapter(None, tmp_path)
    for content in ("[]", "{", "[" * 10**5):  # AttributeError, RecursionError, and an error without the file's name
        file.write_text(content)
        with pytest.raises(ValueError, match=r"adapter_config\.json' is (damaged|nested)"):
            merge_adapter(None, tmp_path)
