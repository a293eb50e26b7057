"""The embedded miniature generates: text, delay, loss, EOS, guidance and codec agree from end to end.

`tests/reference/miniature.jsonl` holds the demo and the first six of its evaluation sentences, whose pairs of words
were held out of its training, with the codes of flite's units for them: the training targets.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers.models.dia.modeling_dia import DiaForConditionalGeneration as TheirModel

from dia_hf import MINIATURE, Dia, DiaForConditionalGeneration, DiaProcessor
from dia_hf.asr.recognizers import load_recognizer
from dia_hf.asr.wer import read_vocabulary, word_errors, words_of
from dia_hf.assets import miniature_vocabulary
from dia_hf.delay_pattern import revert_delay

REFERENCES = [json.loads(line) for line in Path(__file__).with_name("reference").joinpath("miniature.jsonl").open()]
DEMO = "[S1] Hello, I am Dia. [S2] Welcome, Dia."
GREEDY = {"temperature": 0, "cfg_scale": 1}


@pytest.fixture(scope="module")
def dia():
    return Dia.from_pretrained()


@pytest.fixture(scope="module")
def recognizer():
    return load_recognizer("pocketsphinx", *read_vocabulary(Path(MINIATURE) / "vocabulary.txt"))


def greedy_codes(model, processor, texts):
    """Generate greedily; return each text's codes `[T, C]` in time, without EOS and delay."""
    inputs = processor(text=texts, padding=True, return_tensors="pt")
    delayed = model.generate(**inputs, do_sample=False, guidance_scale=1.0, max_length=300)
    config = model.config.decoder_config
    spoken = []
    for row in delayed:
        ends = (row[:, 0] == config.eos_token_id).nonzero()
        assert len(ends) > 0, "it does not end"
        num_frames = int(ends[0]) - 1
        spoken.append(revert_delay(row[None], model.config.delay_pattern)[0][1 : num_frames + 1])
    return spoken


def test_it_says_the_codes_that_it_was_taught(dia):
    """An error in delay, positions, masks or token ids of training or generation changes the codes."""
    texts = [reference["text"] for reference in REFERENCES]
    for codes, reference in zip(greedy_codes(dia.model, dia.processor, texts), REFERENCES, strict=True):
        taught = torch.tensor(reference["codes"])
        assert torch.equal(codes[:, 0], taught[:, 0]), reference["text"]
        assert (codes == taught).float().mean() > 0.98, reference["text"]


def test_transformers_says_the_same():
    """A checkpoint that only this package can load does not have Dia's layout."""
    theirs = TheirModel.from_pretrained(MINIATURE)
    ours = DiaForConditionalGeneration.from_pretrained(MINIATURE)
    processor = DiaProcessor.from_pretrained(MINIATURE)
    inputs = processor(text=[DEMO], return_tensors="pt")
    options = {"do_sample": False, "guidance_scale": None, "max_new_tokens": 200}
    assert torch.equal(ours.generate(**inputs, **options), theirs.generate(**inputs, **options))


@pytest.mark.parametrize("options", [GREEDY, {"seed": 7}], ids=["greedy", "as it comes"])
def test_the_demo_is_understood(dia, recognizer, options):
    """`make demo` wrote unintelligible speech, and all tests passed."""
    taught = next(reference["codes"] for reference in REFERENCES if reference["text"] == DEMO)
    (best,) = dia.processor.codec.decode([torch.tensor(taught)])
    errors = [
        word_errors(DEMO, recognizer.transcribe(np.asarray(sound), dia.sampling_rate)).errors
        for sound in (dia.generate(DEMO, **options), best)
    ]
    assert errors[0] <= errors[1] <= 1, "the recognizer takes the codec's I for like"


def test_a_stream_says_the_same(dia):
    """Streamed audio differed from the audio of a complete call."""
    whole = dia.generate(DEMO, seed=7)
    np.testing.assert_allclose(np.concatenate(list(dia.stream(DEMO, seed=7))), whole, atol=1e-5)


def test_a_dialogue_of_several_passes_is_understood(dia, recognizer):
    """Each chunk is the prompt of the next: words were lost, repeated or moved to the next chunk at a boundary."""
    script = " ".join(
        f"[S{number % 2 + 1}] {' '.join(words_of(reference['text'])).capitalize()}."
        for number, reference in enumerate(2 * REFERENCES)
    )
    dialogue = dia.dialogue(script, **GREEDY)
    assert len(dialogue.chunks) > 2
    errors = word_errors(script, recognizer.transcribe(dialogue.generate(), dia.sampling_rate))
    alone = [recognizer.transcribe(dia.generate(one["text"], **GREEDY), dia.sampling_rate) for one in REFERENCES]
    one_by_one = sum(word_errors(one["text"], heard).errors for one, heard in zip(REFERENCES, alone, strict=True))
    assert errors.errors <= 2 * one_by_one + 0.03 * errors.words


def test_it_ships():
    """Weights were saved as float32, or the codec was missing or named by a path of another machine."""
    files = [file for file in Path(MINIATURE).rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 10_000_000
    for file in files:
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as weights:
                assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"BF16"}  # noqa: SIM118
        elif file.suffix == ".json":
            assert "/" not in file.read_text("utf-8").replace("DacModel", "")
    card = (Path(MINIATURE) / "README.md").read_text("utf-8")
    assert all(word in card for word in miniature_vocabulary())


def test_it_knows_enough_words():
    """The vocabulary was too small for a sentence."""
    words = {word.lower() for word in miniature_vocabulary()}
    assert len(words) >= 200
    assert set(words_of(DEMO)) <= words
