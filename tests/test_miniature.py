"""The embedded miniature generates: text, delay, EOS, guidance and codec agree from end to end.

`tests/reference/miniature.jsonl` holds texts and the codes that transformers' own Dia says (`make_references.py`).
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers.models.dia.modeling_dia import DiaForConditionalGeneration as TheirModel

from dia_hf import MINIATURE, Dia, DiaProcessor
from dia_hf.asr.recognizers import load_recognizer
from dia_hf.asr.wer import english_words_of, word_errors
from make_references import spoken_codes
from parity.releases import load_exact

REFERENCES = [json.loads(line) for line in Path(__file__).with_name("reference").joinpath("miniature.jsonl").open()]
TEXTS = [reference["text"] for reference in REFERENCES]
DEMO = TEXTS[0]
GREEDY = {"temperature": 0, "cfg_scale": 1}


@pytest.fixture(scope="module")
def dia():
    return Dia.from_pretrained()


@pytest.fixture(scope="module")
def recognizer():
    pytest.importorskip("faster_whisper")
    return load_recognizer("whisper-tiny.en")


def test_it_says_the_codes_of_the_reference(dia):
    """An error in delay, positions, masks or token ids of a batch changes the codes."""
    for codes, reference in zip(spoken_codes(load_exact(), dia.processor, TEXTS), REFERENCES, strict=True):
        assert codes.tolist() == reference["codes"], reference["text"]


def test_transformers_says_the_same():
    """A checkpoint that only this package can load does not have Dia's layout."""
    theirs, ours = load_exact(TheirModel), load_exact()
    processor = DiaProcessor.from_pretrained(MINIATURE)
    inputs = processor(text=[DEMO], return_tensors="pt")
    options = {"do_sample": False, "guidance_scale": None, "max_new_tokens": 120}
    assert torch.equal(ours.generate(**inputs, **options), theirs.generate(**inputs, **options))


def test_sentences_are_understood(dia, recognizer):
    """`make demo` wrote unintelligible speech, and all tests passed."""
    spoken = dia.generate(TEXTS, seed=7)
    longest = dia.model.generation_config.max_length * dia.processor.codec.hop_length
    assert max(map(len, spoken)) < longest / 2, "one did not end"
    heard = recognizer.transcribe(np.concatenate(spoken), dia.sampling_rate)
    errors = word_errors(" ".join(TEXTS), heard, english_words_of)
    assert errors.errors <= 0.1 * errors.words, heard


def test_a_stream_says_the_same(dia):
    """Streamed audio differed from the audio of a complete call."""
    whole = dia.generate(DEMO, seed=7)
    np.testing.assert_allclose(np.concatenate(list(dia.stream(DEMO, seed=7))), whole, atol=1e-5)


def test_a_dialogue_of_several_passes_is_understood(dia, recognizer):
    """Each chunk is the prompt of the next: words were lost, repeated or moved to the next chunk at a boundary."""
    script = "\n".join(f"[S{number % 2 + 1}] {text.split('] ')[-1]}" for number, text in enumerate(TEXTS))
    dialogue = dia.dialogue(script, chunk_length_s=(2, 5), **GREEDY)
    assert len(dialogue.chunks) > 2
    errors = word_errors(script, recognizer.transcribe(dialogue.generate(), dia.sampling_rate), english_words_of)
    assert errors.errors <= 0.1 * errors.words


def test_it_ships(dia):
    """Weights were float32, the codec was named by a path of another machine, or transformers left out the heads."""
    assert dia.model.generation_config.alignment_heads
    files = [file for file in Path(MINIATURE).rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 20_000_000
    for file in files:
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as weights:
                assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"BF16"}  # noqa: SIM118
        elif file.suffix == ".json":
            assert "/" not in file.read_text("utf-8").replace("DacModel", "")
