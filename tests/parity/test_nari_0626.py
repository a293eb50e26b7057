"""The published model's original implementation: its own weights, and what it computed from them.

The table of names is the test's own: it shows that the network is nari-labs' network, by a way that does not lead
through our conversion code.
"""

import json

import pytest
import torch
from safetensors.torch import load_file

from conftest import REFERENCE
from dia_hf import DiaConfig, DiaForConditionalGeneration, DiaTokenizer
from dia_hf.delay import apply_delay, revert_delay

PACK = REFERENCE / "nari-0626"


def to_ours(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Translate names, and DenseGeneral's [in…, out…] into torch's [out, in]."""
    ours = {}
    channels = [f"decoder.embeddings.{channel}.weight" for channel in range(9)]
    ours["model.decoder.embeddings.embed.weight"] = torch.cat([weights[name] for name in channels])
    for name, weight in weights.items():
        if name in channels:
            continue
        if name == "decoder.logits_dense.weight":  # [H, C, V]
            ours["logits_dense.weight"] = weight.flatten(1).T
        elif name.endswith("wi_fused.weight"):  # [H, (gate, up), I]
            ours[f"model.{name.replace('wi_fused', 'gate_up_proj')}"] = weight.flatten(1).T
        elif name.endswith("mlp.wo.weight"):  # [I, H]
            ours[f"model.{name.replace('mlp.wo', 'mlp.down_proj')}"] = weight.T
        elif name.endswith("o_proj.weight"):  # [A, D, H]
            ours[f"model.{name}"] = weight.flatten(0, 1).T
        elif name.endswith("_proj.weight"):  # [H, A, D]
            ours[f"model.{name}"] = weight.flatten(1).T
        else:  # norms, text embedding
            ours[f"model.{name}"] = weight
    return {name: weight.contiguous() for name, weight in ours.items()}


@pytest.fixture(scope="module")
def expected():
    return load_file(PACK / "expected.safetensors")


@pytest.fixture(scope="module")
def inputs():
    return json.loads((PACK / "inputs.json").read_text())


@pytest.fixture(scope="module", params=["eager", "sdpa"])
def model(request):
    model = DiaForConditionalGeneration(DiaConfig.from_pretrained(PACK)).eval()
    model.load_state_dict(to_ours(load_file(PACK / "model.safetensors")))
    model.set_attn_implementation(request.param)
    return model


def test_text_ids(expected, inputs):
    """Bytes or tags read otherwise than in training make another text."""
    tokens = DiaTokenizer()(inputs["texts"], padding=True, return_tensors="pt")
    assert torch.equal(tokens["input_ids"], expected["input_ids"])
    assert torch.equal(tokens["attention_mask"], expected["attention_mask"])


@pytest.mark.parametrize("branch", ["cond", "uncond"])
def test_encoder_and_logits(model, expected, branch):
    """The original pads to 1,024 bytes and reshapes where we do neither; the numbers must not care."""
    ids, mask = expected["input_ids"], expected["attention_mask"]
    if branch == "uncond":
        ids = torch.zeros_like(ids)
    output = model(ids, attention_mask=mask, decoder_input_ids=expected["teacher_codes"])
    kept = mask.bool()
    torch.testing.assert_close(
        output.encoder_last_hidden_state[kept], expected[f"encoder_{branch}"][kept], rtol=0, atol=1e-4
    )
    logits = output.logits.unflatten(0, (3, 9))[:, :, expected["logits_positions"]].transpose(1, 2)
    # The original attends by SDPA. At scale 1.0 these random weights amplify rounding: the pack's own logits lie 2.7e-4
    # from a float64 pass, and another kernel (eager; transformers' own eager gives the same bits) 2.2e-4 from the pack.
    tolerance = 1e-4 if model.config._attn_implementation == "sdpa" else 5e-4
    torch.testing.assert_close(logits, expected[f"logits_{branch}"], rtol=0, atol=tolerance)


def speak(model, inputs, ids, prompt):
    """Generate greedily and return the new codes in time, [T, C]."""
    config, decoder = model.config, model.config.decoder_config
    frames = torch.full((1, 1 + len(prompt), decoder.num_channels), decoder.bos_token_id)
    frames[0, 1:] = prompt
    codes = model.generate(
        ids[None],
        attention_mask=torch.ones_like(ids)[None],
        decoder_input_ids=apply_delay(frames, config.delay_pattern, decoder.bos_token_id, decoder.pad_token_id),
        do_sample=False,
        guidance_scale=inputs["cfg_scale"],
        top_k=inputs["cfg_filter_top_k"],
        max_length=inputs["max_tokens"],
        bos_token_id=decoder.bos_token_id,
        eos_token_id=decoder.eos_token_id,
        pad_token_id=decoder.pad_token_id,
    )
    end = int((codes[0, :, 0] == decoder.eos_token_id).nonzero()[0])
    return revert_delay(codes, config.delay_pattern)[0, 1 + len(prompt) : end]


@pytest.mark.parametrize("text", range(3))
def test_greedy_codes(model, expected, inputs, text):
    """Guidance, its filter and the end of speech, together, as the original has them."""
    ids = expected["input_ids"][text][expected["attention_mask"][text].bool()]
    codes = speak(model, inputs, ids, torch.zeros(0, 9, dtype=torch.long))
    assert torch.equal(codes, expected[f"greedy_text_{text}"])


@pytest.mark.parametrize("text", range(3))
def test_greedy_codes_after_a_prompt(model, expected, inputs, text):
    """A voice prompt one frame short, or delayed otherwise, and the voice goes on from somewhere else."""
    ids = expected["input_ids"][text][expected["attention_mask"][text].bool()]
    prompt = expected.get(f"prompt_{text}", torch.zeros(0, 9, dtype=torch.long))
    assert torch.equal(speak(model, inputs, ids, prompt), expected[f"greedy_prompt_{text}"])
