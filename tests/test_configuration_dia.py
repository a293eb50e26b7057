import json
import logging

import pytest
import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers.models.dia import DiaConfig as TheirConfig

from dia_hf import (
    DiaConfig,
    DiaDecoderConfig,
    DiaEncoderConfig,
    DiaFeatureExtractor,
    DiaForConditionalGeneration,
    DiaProcessor,
    DiaTokenizer,
)


def test_defaults_are_those_of_the_published_checkpoint():
    """A changed default would build another model than the 1.6B one."""
    theirs, ours = TheirConfig().to_dict(), DiaConfig().to_dict()
    theirs.pop("transformers_version"), ours.pop("transformers_version")
    assert ours["decoder_config"].pop("cross_attention_rope") is False, "a field of ours, for v0.1"
    assert ours.pop("channel_loss_weights") is None, "a field of ours, for training"
    assert ours == theirs


def test_reads_the_layout_of_4_53(pack):
    """Token ids at the top level and `rope_theta` were ignored, and the decoder kept its defaults."""
    values = json.loads((pack / "config.json").read_text())
    values |= {"eos_token_id": 1000, "pad_token_id": 1003, "bos_token_id": 1002}
    values["decoder_config"]["rope_theta"] = 5000.0
    config = DiaConfig.from_dict(values)
    decoder = config.decoder_config
    assert (decoder.eos_token_id, decoder.pad_token_id, decoder.bos_token_id) == (1000, 1003, 1002)
    assert decoder.rope_parameters == {"rope_type": "default", "rope_theta": 5000.0}
    assert config.eos_token_id is None, "an id must live in one place"


def test_round_trip(tmp_path, pack):
    """A saved config that reads back differently would change the model at its second load."""
    config = DiaConfig.from_pretrained(pack)
    config.save_pretrained(tmp_path)
    again = DiaConfig.from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict()
    theirs, ours = TheirConfig.from_pretrained(tmp_path).to_dict(), config.to_dict()
    assert theirs["decoder_config"] == ours["decoder_config"]


def test_takes_configs_of_transformers_own_dia():
    """`DiaConfig(encoder_config=<transformers' own>)` failed on the type though the values fit."""
    theirs = TheirConfig(decoder_config={"num_hidden_layers": 3})
    config = DiaConfig(encoder_config=theirs.encoder_config, decoder_config=theirs.decoder_config)
    assert type(config.encoder_config) is DiaEncoderConfig
    assert config.decoder_config.num_hidden_layers == 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"delay_pattern": [0, 1]}, "2 entries for 9 channels"),
        ({"delay_pattern": [0, 8, -9, 10, 11, 12, 13, 14, 15]}, "a delay is 0 frames or more"),
        ({"channel_loss_weights": [4, 1]}, "give 9 weights"),
        ({"channel_loss_weights": [1.0] * 8 + [-1.0]}, "0 or more"),
        ({"channel_loss_weights": [0] * 9}, "not all 0"),
        ({"decoder_config": {"num_key_value_heads": 3}}, r"can be \[1, 2, 4, 8, 16\]"),
        ({"decoder_config": {"cross_num_key_value_heads": 5}}, "cross_num_attention_heads"),
        ({"encoder_config": {"num_attention_heads": 0}}, "at least 1"),
        ({"encoder_config": {"head_dim": 7}}, "even"),
        ({"decoder_config": {"head_dim": 7}}, "even"),
        ({"encoder_config": {"hidden_size": 512}}, "cross_hidden_size"),
        ({"encoder_config": {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}}, "'linear'"),
    ],
)
def test_wrong_values_say_what_would_do(values, message):
    """A contradiction in a config surfaced as a shape error in some layer, or not at all."""
    with pytest.raises(ValueError, match=message):
        DiaConfig(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"decoder_config": {"eos_token_id": 1028}}, "within the vocabulary, 0 to 1027"),
        ({"decoder_config": {"eos_token_id": 1027}}, "be the smallest"),
        ({"pad_token_id": 1024}, "must differ"),
    ],
)
def test_contradicting_token_ids_are_refused_where_they_are_used(values, message):
    """A code was taken for EOS, or an EOS id had no token in the network."""
    small = {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 16}
    config = DiaConfig(**{**values, "decoder_config": {**small, **values.get("decoder_config", {})}})
    config.encoder_config.num_hidden_layers = 1
    with pytest.raises(ValueError, match=message):
        DiaForConditionalGeneration(config)
    with pytest.raises(ValueError, match=message):
        DiaProcessor(DiaFeatureExtractor(), DiaTokenizer(), config=config)


def test_a_vocabulary_can_be_overridden_at_load(tmp_path):
    """The ids of the file were checked against the new vocabulary before the new ids were set, and refused."""
    DiaConfig().save_pretrained(tmp_path)
    config = DiaConfig.from_pretrained(tmp_path, decoder_config={"vocab_size": 20})
    assert config.decoder_config.vocab_size == 20
    assert config.decoder_config.num_hidden_layers == 18


def test_small_vocabulary_with_ids_at_the_top_level():
    """Files of transformers 4.53 keep the ids there: the decoder's defaults did not fit its small vocabulary."""
    ids = {"eos_token_id": 40, "pad_token_id": 41, "bos_token_id": 42}
    decoder = DiaConfig(decoder_config={"vocab_size": 44}, **ids).decoder_config
    decoder.check_token_ids()
    assert {name: getattr(decoder, name) for name in ids} == ids


def test_small_vocabulary_of_a_file_of_4_53(pack, tmp_path, caplog):
    """The decoder was made with ids outside of its vocabulary, which some transformers refuse, and others warn of."""
    values = json.loads((pack / "config.json").read_text()) | {
        "eos_token_id": 40,
        "pad_token_id": 41,
        "bos_token_id": 42,
    }
    values["decoder_config"]["vocab_size"] = 44
    (tmp_path / "config.json").write_text(json.dumps(values))
    library = logging.getLogger("transformers")
    library.addHandler(caplog.handler)
    try:
        config = DiaConfig.from_pretrained(tmp_path)
        model = DiaForConditionalGeneration(config)
    finally:
        library.removeHandler(caplog.handler)
    assert not caplog.records
    assert model.config.decoder_config.eos_token_id == 40
    assert model(torch.tensor([[3]]), decoder_input_ids=torch.full((1, 1, 9), 42)).logits.shape[-1] == 44


@pytest.mark.parametrize(
    "values",
    [
        {"encoder_config": {"hidden_size": "wide"}},
        {"decoder_config": {"norm_eps": "tiny"}},
        {"delay_pattern": ["a"]},
        {"encoder_config": {"hidden_act": 3}},
        {"use_cache": "yes"},
    ],
)
def test_values_of_another_type_are_refused(values):
    """Annotations kept as strings are not checked: "tiny" passed and failed during generation."""
    with pytest.raises(StrictDataclassFieldValidationError):
        DiaConfig(**values)


def test_the_generating_part_is_the_decoder():
    """Caches and generation configs were made from the encoder's sizes, or from none."""
    config = DiaConfig()
    assert config.get_text_config(decoder=True) is config.decoder_config
    assert isinstance(config.decoder_config, DiaDecoderConfig)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", "it holds a list"),
        ("null", "it holds a NoneType"),
        ("[" * 10**5, "nested too deeply"),
        ('{"a":' * 100 + "1" + "}" * 100, "nested too deeply"),
        ('{"model_type": "llama"}', "`model_type` is 'llama'"),
        ('{"model_type": "dia", "delay_pattern": 5}', "delay_pattern"),
        ('{"model_type": "dia", "decoder_config": {"hidden_size": "a"}}', "hidden_size"),
        ('{"model": {}, "data": {}}', r"`Dia\.from_pretrained`"),
    ],
)
def test_a_file_that_is_no_config_of_a_dia(tmp_path, content, message):
    """Another model's file gave a Dia of the published sizes; a wrong type, an error without the file."""
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=message) as info:
        DiaConfig.from_pretrained(tmp_path)
    assert str(tmp_path) in str(info.value) and "config.json" in str(info.value)


@pytest.mark.parametrize("link", [None, "nowhere", "config.json"])
def test_a_folder_without_config(tmp_path, link):
    """A model of 1.6 billion random weights was built in its place."""
    if link is not None:
        (tmp_path / "config.json").symlink_to(link)
    with pytest.raises(OSError, match=r"no file `config\.json`"):
        DiaConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize("part", ["encoder_config", "decoder_config"])
@pytest.mark.parametrize("name", ["num_hidden_layers", "num_attention_heads"])
def test_more_parts_than_can_be_counted(part, name):
    """A damaged number of layers was looped over for minutes, until the memory was full."""
    with pytest.raises(ValueError, match=rf"`{name}` is 18000000000; it must be at most 4096"):
        DiaConfig(**{part: {name: 18_000_000_000}})


@pytest.mark.parametrize(("num_frames", "num_steps"), [(0, 16), (1, 17), (3056, 3072)])
def test_steps_for_frames_and_back(num_frames, num_steps):
    """Steps were counted in eight places with separate constants, one of which was off by a frame."""
    config = DiaConfig()
    assert config.max_delay == 15
    assert config.steps_for_frames(num_frames) == num_steps
    assert config.frames_for_steps(num_steps) == num_frames


def test_the_most_frames():
    """A clip or limit one frame longer than the positions allow was accepted, and failed later."""
    config = DiaConfig()
    positions = config.decoder_config.max_position_embeddings
    assert (config.max_training_frames, config.max_generated_frames) == (positions - 16, positions - 17)
    short = DiaConfig(decoder_config={"num_channels": 2, "max_position_embeddings": 40}, delay_pattern=[0, 3])
    assert (short.max_training_frames, short.max_generated_frames) == (36, 35)
    assert not {"max_delay", "max_training_frames", "max_generated_frames"} & set(short.to_dict())
