"""Outputs of nari-labs' two releases, and their computation with a model of ours."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file

from conftest import REFERENCE
from dia_hf import DiaForConditionalGeneration
from dia_hf.delay_pattern import apply_delay, revert_delay


@dataclass(frozen=True)
class Pack:
    name: str

    @property
    def folder(self) -> Path:
        return REFERENCE / self.name

    @cached_property
    def expected(self) -> dict[str, torch.Tensor]:
        return load_file(self.folder / "expected.safetensors")

    @cached_property
    def inputs(self) -> dict:
        return json.loads((self.folder / "inputs.json").read_text())

    def check_logits(self, model: DiaForConditionalGeneration, branch: str) -> None:
        """Compare the encoder's states and the logits at some positions, with the text or without."""
        expected, mask = self.expected, self.expected["attention_mask"]
        ids = expected["input_ids"] if branch == "cond" else torch.zeros_like(expected["input_ids"])
        with torch.no_grad():
            output = model(ids, attention_mask=mask, decoder_input_ids=expected["teacher_codes"])
        kept = mask.bool()
        torch.testing.assert_close(
            output.encoder_last_hidden_state[kept], expected[f"encoder_{branch}"][kept], rtol=0, atol=1e-4
        )
        logits = output.logits.unflatten(0, (3, 9))[:, :, expected["logits_positions"]].transpose(1, 2)
        # The original attends by SDPA. At scale 1.0 these random weights amplify rounding: the 0626 pack's own logits
        # lie 2.7e-4 from a float64 pass, another kernel (eager; transformers' own gives the same bits) 2.2e-4 from
        # them, and the same kernel on another processor (Zen 4; float32 sums in another order) 1.1e-4.
        tolerance = 2e-4 if model.config._attn_implementation == "sdpa" else 5e-4
        torch.testing.assert_close(logits, expected[f"logits_{branch}"], rtol=0, atol=tolerance)

    def check_greedy(self, model: DiaForConditionalGeneration, text: int, with_prompt: bool, **options) -> None:
        """Generate from a text, after its prompt or without, and compare the codes."""
        config, decoder = model.config, model.config.decoder_config
        ids = self.expected["input_ids"][text][self.expected["attention_mask"][text].bool()][None]
        prompt = torch.zeros(0, decoder.num_channels, dtype=torch.long)
        if with_prompt:
            prompt = self.expected.get(f"prompt_{text}", prompt)
        frames = torch.full((1, 1 + len(prompt), decoder.num_channels), decoder.bos_token_id)
        frames[0, 1:] = prompt
        codes = model.generate(
            ids,
            decoder_input_ids=apply_delay(frames, config.delay_pattern, decoder.bos_token_id, decoder.pad_token_id),
            do_sample=False,
            guidance_scale=self.inputs["cfg_scale"],
            top_k=self.inputs["cfg_filter_top_k"],
            # The original's limit includes the delay, and is reached one frame later.
            max_length=self.inputs["max_tokens"] - max(config.delay_pattern) + 1,
            **options,
        )
        end = int((codes[0, :, 0] == decoder.eos_token_id).nonzero()[0])
        spoken = revert_delay(codes, config.delay_pattern)[0, 1 + len(prompt) : end]
        assert torch.equal(spoken, self.expected[f"greedy_{'prompt' if with_prompt else 'text'}_{text}"])
