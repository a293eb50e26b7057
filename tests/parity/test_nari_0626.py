"""The published model's original implementation: its own weights, and its outputs from them.

The table of names is the test's own: it shows that the network is nari-labs' network, independent of our conversion
code.
"""

import pytest
import torch
from safetensors.torch import load_file

from dia_hf import DiaConfig, DiaForConditionalGeneration, DiaTokenizer
from nari_packs import Pack

PACK = Pack("nari-0626")


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


@pytest.fixture(scope="module", params=["eager", "sdpa"])
def model(request):
    model = DiaForConditionalGeneration(DiaConfig.from_pretrained(PACK.folder)).eval()
    model.load_state_dict(to_ours(load_file(PACK.folder / "model.safetensors")))
    model.set_attn_implementation(request.param)
    return model


def test_text_ids():
    """Bytes or tags encoded unlike in training change the text."""
    tokens = DiaTokenizer()(PACK.inputs["texts"], padding=True, return_tensors="pt")
    assert torch.equal(tokens["input_ids"], PACK.expected["input_ids"])
    assert torch.equal(tokens["attention_mask"], PACK.expected["attention_mask"])


@pytest.mark.parametrize("branch", ["cond", "uncond"])
def test_encoder_and_logits(model, branch):
    """The original pads to 1,024 bytes and reshapes differently; the numbers must be equal."""
    PACK.check_logits(model, branch)


@pytest.mark.parametrize("with_prompt", [False, True])
@pytest.mark.parametrize("text", range(3))
def test_greedy_codes(model, text, with_prompt):
    """Guidance, its filter, EOS or the prompt's delay differed from the original's."""
    PACK.check_greedy(model, text, with_prompt)
