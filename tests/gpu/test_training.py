"""Training on a GPU: the same loss and gradients as on the CPU, packed, in slices, in bfloat16; and a whole run."""

import numpy as np
import pytest
import torch

from dia_hf import MINIATURE, Dia
from tiny import packed_clips, random_batch, random_config, random_model

pytestmark = pytest.mark.gpu


def loss_and_gradients(model, batch):
    batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
    loss = model(**batch).loss
    return loss.detach().cpu(), [gradient.cpu() for gradient in torch.autograd.grad(loss, list(model.parameters()))]


def assert_same(left, right, tolerance=1e-4):
    torch.testing.assert_close(left[0], right[0], rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(left[1], right[1], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=tolerance)


@pytest.mark.parametrize("chunk_size", [None, 5])
@pytest.mark.parametrize("seed", range(3))
def test_loss_and_gradients_are_the_cpus(seed, chunk_size):
    """A kernel of the GPU that takes another mask, or a slice that is recomputed otherwise."""
    model = random_model(random_config(seed))
    batch = random_batch(model.config, seed)
    expected = loss_and_gradients(model, batch)
    model.loss_chunk_size = chunk_size
    assert_same(loss_and_gradients(model.cuda(), batch), expected)


@pytest.mark.parametrize("implementation", ["sdpa", "eager", "flex_attention"])
@pytest.mark.parametrize("is_first_release", [False, True])
def test_packed_clips_are_clips_alone(implementation, is_first_release):
    """Flex attention has gradients on a GPU only: a block of the mask that is left out shows here or nowhere."""
    config = random_config(3)
    config.decoder_config.cross_attention_rope = is_first_release
    for part in (config.encoder_config, config.decoder_config):
        part.head_dim = 16  # the least that flex attention's kernels take
    config.decoder_config.cross_head_dim = 16
    model = random_model(config, scale=0.1).cuda()
    together, alone = packed_clips(config)
    total = int((together["labels"] != -100).sum())
    parts = [loss_and_gradients(model, {**clip, "num_items_in_batch": torch.tensor(total)}) for clip in alone]
    expected = (
        sum(part[0] for part in parts),
        [sum(gradients) for gradients in zip(*(p[1] for p in parts), strict=True)],
    )
    model.set_attn_implementation(implementation)
    assert_same(loss_and_gradients(model, together), expected, tolerance=1e-3)


def test_slices_bound_memory():
    """Slices that are all kept until the backward pass."""
    config = random_config(0)
    model = random_model(config).cuda()
    decoder = config.decoder_config
    codes = torch.randint(0, decoder.eos_token_id, (2, 2000, decoder.num_channels), device="cuda")
    text = torch.ones(2, 5, dtype=torch.long, device="cuda")
    peaks = []
    for chunk_size in (None, 100):
        model.loss_chunk_size = chunk_size
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        model(input_ids=text, decoder_input_ids=codes, labels=codes).loss.backward()
        model.zero_grad()
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[1] < peaks[0]


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_whole_run(tmp_path, kind):
    """bfloat16 autocast, pinned batches, speech between steps and the result: what no CPU shows."""
    pytest.importorskip("datasets")
    from dia_hf.data import PrepareConfig, prepare_dataset
    from dia_hf.training import Recipe, finetune

    dia = Dia.from_pretrained(MINIATURE, device="cuda")
    time = np.arange(44100, dtype=np.float32) / 44100
    rows = [
        {
            "audio": {"array": 0.2 * np.sin(2 * np.pi * pitch * time), "sampling_rate": 44100},
            "text": f"This is {pitch}.",
        }
        for pitch in (110, 150, 200, 260, 330, 400)
    ]
    prepare_dataset(rows, tmp_path / "data", dia.processor, PrepareConfig(loudness=None), device="cuda")
    recipe = Recipe.load(kind).change({"training.max_steps": 6, "training.report_to": "none"})
    recipe.model, recipe.data, recipe.output = MINIATURE, [str(tmp_path / "data")], str(tmp_path / "run")
    recipe = recipe.change({"eval_fraction": 0.4, "training.eval_strategy": "steps", "training.eval_steps": 3})
    recipe.training["save_strategy"] = "no"
    recipe.early_stopping_patience = None
    recipe.speak = {"sentences": ["[S1] Hello."], "max_seconds": 0.5}
    metrics = finetune(recipe)
    assert np.isfinite(metrics["train_loss"])
    assert np.isfinite(metrics["eval_loss"])
    assert len(list((tmp_path / "run" / "samples").glob("step-*/*.wav"))) == 2
    assert len(Dia.from_pretrained(tmp_path / "run", device="cuda").generate("[S1] Hi.", max_seconds=0.5)) > 0
