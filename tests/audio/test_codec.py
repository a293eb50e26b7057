import json
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from transformers import DacModel

import toy_codec
from dia_hf import Dia, DiaConfig, DiaFeatureExtractor, DiaProcessor, DiaTokenizer
from dia_hf.audio.codec import Codec, as_codec, codec_class, load_network, network_name
from dia_hf.audio.dac import DacCodec
from dia_hf.conversion.nari import generation_config_for
from dia_hf.delay_pattern import apply_delay
from dia_hf.speech import SpeechWarning, Voice
from tiny import random_codec, random_model

SPEECH = np.sin(np.arange(40000) / 30, dtype=np.float32) / 3  # 5 s


@pytest.fixture(scope="module")
def config():
    narrow = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2}
    narrow |= {"head_dim": 8, "intermediate_size": 16}
    cross = {"cross_num_attention_heads": 2, "cross_num_key_value_heads": 2, "cross_head_dim": 8}
    ids = {"vocab_size": 19, "eos_token_id": 16, "pad_token_id": 17, "bos_token_id": 18}
    decoder = {**narrow, **cross, **ids, "cross_hidden_size": 16, "num_channels": 2}
    return DiaConfig(encoder_config=narrow, decoder_config=decoder, delay_pattern=[0, 3])


@pytest.fixture
def processor(config):
    extractor = DiaFeatureExtractor(sampling_rate=8000, hop_length=4)
    return DiaProcessor(extractor, DiaTokenizer(), toy_codec.ToyNetwork(), config)


@pytest.fixture
def dia(config, processor):
    model = random_model(config)
    model.generation_config = generation_config_for(config)
    return Dia(model, processor)


def random_codes(num_frames, seed=0):
    return torch.randint(16, (num_frames, 2), generator=torch.Generator().manual_seed(seed))


def test_another_kind_of_codec_in_a_checkpoint(processor, tmp_path):
    """Saving and loading knew one class, and another codec came back as noise or not at all."""
    with torch.no_grad():
        processor.audio_tokenizer.levels *= 0.9
    processor.save_pretrained(tmp_path)
    reference = json.loads((tmp_path / "audio_tokenizer_config.json").read_text())
    assert reference["audio_tokenizer_class"] == "ToyNetwork"
    for again in (DiaProcessor.from_pretrained(tmp_path), DiaProcessor.from_pretrained(tmp_path).for_hub()):
        assert isinstance(again.codec, toy_codec.ToyCodec)
        assert again.codec.fingerprint == processor.codec.fingerprint != as_codec(toy_codec.ToyNetwork()).fingerprint
    (tmp_path / "audio_tokenizer").rename(tmp_path / "elsewhere")
    reference["audio_tokenizer_name_or_path"] = str(tmp_path / "elsewhere")
    (tmp_path / "audio_tokenizer_config.json").write_text(json.dumps(reference))
    assert DiaProcessor.from_pretrained(tmp_path).codec.fingerprint == processor.codec.fingerprint
    assert as_codec(load_network(tmp_path / "elsewhere")).fingerprint == processor.codec.fingerprint


def test_another_kind_of_codec_in_the_processor(processor, config):
    """Encoding, prompts and decoding used attributes that only a DAC has."""
    (codes,) = processor.feature_extractor(SPEECH, sampling_rate=8000, audio_tokenizer=processor.audio_tokenizer)[
        "audio_codes"
    ]
    assert torch.equal(codes, processor.codec.encode([torch.from_numpy(SPEECH)])[0]) and codes.shape == (10000, 2)
    inputs = processor(text="[S1] Hello.", audio=SPEECH[:400], sampling_rate=8000)
    assert inputs["decoder_input_ids"].shape == (1, 1 + 100 + 3, 2)
    ids = (config.decoder_config.bos_token_id, config.decoder_config.pad_token_id)
    begin, end = torch.full((1, 2), ids[0]), torch.full((1, 2), config.decoder_config.eos_token_id)
    delayed = apply_delay(torch.cat([begin, random_codes(20), end])[None], config.delay_pattern, *ids)
    (waveform,) = processor.batch_decode(delayed)
    assert torch.equal(waveform, processor.codec.decode([random_codes(20)])[0])
    voice = Voice.from_audio(SPEECH, "Hello, this is a recording of me.", processor, sampling_rate=8000)
    voice.check(processor.codec)


def test_a_stream_of_another_kind_of_codec():
    """A stream used the margins of a DAC, and clicked with a codec of other margins."""
    codec, codes = as_codec(toy_codec.ToyNetwork()), random_codes(50)
    stream, portions = codec.stream(), []
    for chunk in codes.split([1, 1, 3, 20, 25]):
        stream.push(chunk)
        portions.append(stream.pop(stream.num_ready))
        assert len(stream._codes) <= codec.decoder_context + codec.decoder_margin
    assert [len(portion) // 4 for portion in portions] == [0, 1, 3, 20, 25]
    stream.close()
    assert torch.equal(torch.cat([*portions, stream.pop(1)]), codec.decode([codes])[0])
    two = [codec.stream(), codec.stream()]
    for number, one in enumerate(two):
        one.push(random_codes(10, number))
        one.close()
    first, second = codec.pop_many(two, [10, 4])
    assert torch.equal(first, codec.decode([random_codes(10)])[0])
    assert torch.equal(second, codec.decode([random_codes(10, 1)])[0][:16])


def test_dia_speaks_through_another_kind_of_codec(dia, tmp_path):
    """`Dia` used attributes of a DAC network between codes and samples."""
    dia.model.save_pretrained(tmp_path)
    dia.processor.save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SpeechWarning)
        speech = dia.generate("[S1] Hello.", seed=7, max_seconds=0.02)
        again = Dia.from_pretrained(tmp_path, device="cpu").generate("[S1] Hello.", seed=7, max_seconds=0.02)
        chunks = list(dia.stream("[S1] Hello.", seed=7, max_seconds=0.02, chunk_frames=8))
        dialogue = dia.dialogue("[S1] Hello.", seed=7, max_seconds=0.02).generate()
    assert 0 < len(speech) <= 160 and dia.sampling_rate == 8000
    assert np.array_equal(speech, again)
    assert np.array_equal(speech, np.concatenate(chunks)) and len(chunks) > 3
    assert np.array_equal(speech, dialogue)


def test_the_table_of_codecs():
    """A network of an unknown class failed inside the first encoding."""
    assert codec_class("DacModel") is codec_class("DAC") is DacCodec
    assert codec_class("ToyNetwork") is toy_codec.ToyCodec
    with pytest.raises(ValueError, match=r"'EncodecModel'; known are 'DacModel', 'DacDecoder', 'DAC'"):
        codec_class("EncodecModel")
    with pytest.raises(TypeError, match=r"is a Linear; use transformers' DacModel .*register_codec"):
        as_codec(nn.Linear(2, 2))
    codec = as_codec(random_codec(), max_frames_per_batch=100)
    assert isinstance(codec, DacCodec) and codec.max_frames_per_batch == 100 and as_codec(codec) is codec

    class Tuned(DacModel):
        """A subclass is its base class to a codec, and in a checkpoint."""

    assert network_name(Tuned(random_codec().config)) == "DacModel"


def test_a_codec_that_lacks_a_method():
    """A codec without `save` was missing in the first checkpoint."""

    class Half(Codec):
        def __init__(self, model):
            self.model = model

    with pytest.raises(TypeError, match=r"abstract method.* decode.* encode.* fingerprint.* load.* save"):
        Half(None)
