import copy
import json
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
import transformers.utils.hub as transformers_hub
from safetensors.torch import load_file, save_file
from transformers import DacModel
from transformers.models.dia.feature_extraction_dia import DiaFeatureExtractor as TheirFeatureExtractor
from transformers.models.dia.processing_dia import DiaProcessor as TheirProcessor
from transformers.models.dia.tokenization_dia import DiaTokenizer as TheirTokenizer

from dia_hf import MINIATURE, DiaConfig, DiaFeatureExtractor, DiaForConditionalGeneration, DiaProcessor, DiaTokenizer
from dia_hf.audio.io import read_audio, write_audio

RATE = 44100
TRAINING = {"generation": False, "output_labels": True}


@pytest.fixture(scope="module")
def expected(pack):
    return load_file(pack / "expected.safetensors")


@pytest.fixture(scope="module")
def texts(pack):
    return json.loads((pack / "inputs.json").read_text())["texts"]


@pytest.fixture(scope="module")
def theirs(pack, pack_processor):
    extractor = TheirFeatureExtractor.from_pretrained(pack)
    return TheirProcessor(extractor, TheirTokenizer.from_pretrained(pack), pack_processor.audio_tokenizer)


def assert_equal(ours, theirs):
    assert set(ours) == set(theirs)
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype, name
        assert torch.equal(ours[name], tensor), name


@pytest.mark.parametrize(("name", "options"), [("text", {}), ("prompt", {}), ("train", TRAINING)])
def test_outputs_of_the_reference_pack(pack_processor, expected, texts, name, options):
    """Another dtype, length or mask than transformers' changes training or generation."""
    audio = None if name == "text" else [expected["wave_0"].numpy(), expected["wave_1"].numpy()]
    ours = pack_processor(texts, audio, sampling_rate=RATE, **options)
    names = ("input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask", "labels")
    assert_equal(ours, {key: expected[f"{name}.{key}"] for key in names if f"{name}.{key}" in expected})


@pytest.mark.parametrize("name", ["text", "prompt"])
def test_waveforms_of_the_reference_pack(pack_processor, expected, name):
    """Codes cut one frame early or late shift all later samples."""
    prompt_len = None
    if name == "prompt":
        prompt_len = pack_processor.get_audio_prompt_len(expected["prompt.decoder_attention_mask"])
    waves = pack_processor.batch_decode(expected[f"{name}.generated"], audio_prompt_len=prompt_len)
    for index, wave in enumerate(waves):
        torch.testing.assert_close(wave, expected[f"{name}.audio_{index}"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"generation": False}, TRAINING])
@pytest.mark.parametrize("num_samples", [[600], [512, 5000], [3000, 20, 7777]])
def test_outputs_equal_transformers(pack_processor, theirs, tone, options, num_samples):
    """Lengths at the edges of frames differed from transformers'."""
    audio = [tone(1.0, RATE, 110 + 60 * i)[:n] for i, n in enumerate(num_samples)]
    texts = ["[S1] Hi.", "[S2] Well, hello there!", "ok"][: len(audio)]
    ours = pack_processor(text=texts, audio=audio, sampling_rate=RATE, **options)
    # transformers takes these two under one name or the other, depending on the version.
    labels = {"output_labels": options.get("output_labels", False)}
    assert_equal(ours, theirs(text=texts, audio=audio, sampling_rate=RATE, **(options | labels)))


def test_one_text_and_one_clip_need_no_lists(pack_processor, tone):
    """`text="…", audio=array`, the form of transformers' examples."""
    wave = tone(0.1, RATE)
    assert_equal(
        pack_processor("[S1] Hi.", wave, sampling_rate=RATE), pack_processor(["[S1] Hi."], [wave], sampling_rate=RATE)
    )


def test_a_batch_may_mix_prompts_and_none(pack_processor, tone):
    """transformers raises a TypeError for `[wave, None]`."""
    wave = tone(0.1, RATE)
    both = pack_processor(["[S1] a", "[S1] b"], [wave, None], sampling_rate=RATE)
    prompted = pack_processor(["[S1] a"], [wave], sampling_rate=RATE)
    bare = pack_processor(["[S1] b"])
    length = bare["decoder_attention_mask"].shape[1]
    assert torch.equal(both["decoder_input_ids"][:1], prompted["decoder_input_ids"])
    assert torch.equal(both["decoder_input_ids"][1:, -length:], bare["decoder_input_ids"])
    assert both["decoder_attention_mask"].sum(1).tolist() == [prompted["decoder_attention_mask"].sum(), length]


@pytest.mark.parametrize("kind", [torch.as_tensor, np.asarray])
def test_codes_in_the_place_of_sound(pack_processor, tone, kind):
    """Codes of a recording were taken for samples, or could not be passed."""
    sound = {"array": tone(0.1, 44100), "sampling_rate": 44100}
    (codes,) = pack_processor.feature_extractor(sound, audio_tokenizer=pack_processor.audio_tokenizer)["audio_codes"]
    texts = ["[S1] One.", "[S1] Two.", "[S1] Three."]
    by_codes = pack_processor(texts, audio=[kind(codes), None, sound])
    by_sound = pack_processor(texts, audio=[sound, None, sound])
    for name, expected in by_sound.items():
        assert torch.equal(by_codes[name], expected)
    assert torch.equal(
        pack_processor("[S1] One.", audio=kind(codes))["decoder_input_ids"][0, 1 : 1 + len(codes), 0], codes[:, 0]
    )


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.zeros(5, 8, dtype=torch.long), r"\[frames, 9\]"),
        (torch.full((5, 9), 1024), "0 to 1023"),
        (torch.full((5, 9), -1), "from -1"),
    ],
)
def test_unusable_codes(pack_processor, codes, message):
    """Delayed codes, or those of another codec, were a prompt of special tokens."""
    with pytest.raises(ValueError, match=message):
        pack_processor("[S1] One.", audio=[codes])


def test_ids_and_delays_come_from_the_config(pack_processor, tone):
    """Constant ids in the processor contradict the config of a fine-tuned model."""
    decoder = {"eos_token_id": 1024, "pad_token_id": 1027, "bos_token_id": 1025}
    config = DiaConfig(decoder_config=decoder, delay_pattern=[0, 1, 1, 2, 2, 3, 3, 4, 4])
    processor = DiaProcessor(DiaFeatureExtractor(), DiaTokenizer(), pack_processor.audio_tokenizer, config)
    inputs = processor("[S1] a", tone(0.05, RATE), sampling_rate=RATE)["decoder_input_ids"][0]
    assert inputs.shape == (1 + 5 + 4, 9)
    assert (inputs[0] == 1025).all() and (inputs[-1, :7] == 1027).all()


def test_missing_rate_warns(pack_processor, tone):
    """transformers silently takes audio of any rate for 44.1 kHz; its examples omit the rate."""
    with pytest.warns(UserWarning, match="taken to be at 44100 Hz"):
        assumed = pack_processor("[S1] a", tone(0.1, RATE))
    assert_equal(assumed, pack_processor("[S1] a", tone(0.1, RATE), sampling_rate=RATE))


@pytest.mark.filterwarnings("error")
def test_a_known_rate_does_not_warn(pack_processor, tone, tmp_path):
    """A file, which has a rate, caused a warning."""
    write_audio(tmp_path / "p.wav", tone(0.1, RATE), RATE)
    pack_processor("[S1] a", str(tmp_path / "p.wav"))


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        (("",), {}, "text 0 is empty"),
        ((["[S1] a", "  "],), {}, "text 1 is empty"),
        ((7,), {}, "`text` is 7"),
        (("x" * 2000,), {}, "2000 ids"),
        ((["a", "b"], [np.zeros(600)]), {"sampling_rate": RATE}, "2 texts but 1 audio clips"),
        (("a",), {"generation": False}, "training needs audio"),
        (("a", np.zeros(600)), {"output_labels": True}, "labels are for training"),
        (("a",), {"return_tensors": "np"}, "'np'"),
    ],
)
def test_unusable_requests(pack_processor, args, options, message):
    """Invalid inputs failed later, far from the cause."""
    with pytest.raises(ValueError, match=message):
        pack_processor(*args, **options)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"generation": np.zeros(3)}, "`generation` is array"),
        ({"sampling_rate": "44100"}, "`sampling_rate` is '44100'; give a number"),
        ({"max_length": 1.5}, "`max_length` is 1.5; give a whole number"),
    ],
)
def test_options_of_a_wrong_type(pack_processor, option, message):
    """Options of a wrong type raised errors that named neither the option nor the value."""
    with pytest.raises(TypeError, match=message):
        pack_processor("[S1] a", np.zeros(600), **{"sampling_rate": RATE} | option)


def test_options_may_be_nested(pack_processor):
    """`text_kwargs={...}`, transformers' way, was taken for an unknown argument; a typo in it for an option."""
    nested = pack_processor("x" * 2000, text_kwargs={"truncation": True, "max_length": 50})
    assert nested["input_ids"].shape == (1, 50)
    with pytest.raises(TypeError, match="no option 'trunc'"):
        pack_processor("x", text_kwargs={"trunc": True})


def test_decoding_leaves_out_what_was_not_completed(pack_processor):
    """A stopped generation leaves incomplete frames, which transformers decodes to noise."""
    config = pack_processor.config
    codes = torch.randint(0, 1024, (1, 30, 9))
    codes[0, 0] = config.decoder_config.bos_token_id
    for channel, delay in enumerate(config.delay_pattern):
        codes[0, : delay + 1, channel] = config.decoder_config.bos_token_id
    assert pack_processor.decode(codes).shape == (512 * (30 - 15 - 1),)
    assert pack_processor.decode(codes[:, :10]).shape == (0,)


def test_decoding_of_different_lengths(pack_processor, expected):
    """A row that ends early was decoded to the length of the longest."""
    decoder = pack_processor.config.decoder_config
    codes = expected["text.generated"].clone()
    for channel, delay in enumerate(pack_processor.config.delay_pattern):
        codes[1, 9 + delay, channel] = decoder.eos_token_id
        codes[1, 10 + delay :, channel] = decoder.pad_token_id
    waves = pack_processor.batch_decode(codes)
    assert [len(wave) for wave in waves] == [len(expected["text.audio_0"]), 8 * 512]
    with pytest.raises(ValueError, match="`decode` takes one sample but got 2"):
        pack_processor.decode(codes)


def test_save_audio(pack_processor, tone, tmp_path):
    """A list of waveforms or paths was refused, or the file had another rate than the codec."""
    waves = [torch.from_numpy(tone(0.1, RATE)), tone(0.2, RATE)]
    paths = [tmp_path / "a.wav", str(tmp_path / "b.ogg")]
    pack_processor.save_audio(waves, paths)
    assert [read_audio(path)[1] for path in paths] == [RATE, RATE]
    pack_processor.save_audio(waves[0], tmp_path / "c.flac", sampling_rate=22050)
    assert read_audio(tmp_path / "c.flac")[1] == 22050
    with pytest.raises(ValueError, match="2 waveforms but 1 paths"):
        pack_processor.save_audio(waves, tmp_path / "a.wav")


def test_a_saved_processor_loads_anywhere(pack_processor, expected, texts, tmp_path):
    """transformers stores the codec's path, so a folder that was moved does not load without a network."""
    pack_processor.save_pretrained(tmp_path / "here")
    # transformers' own processor follows the path in the file
    TheirProcessor.from_pretrained(tmp_path / "here")
    shutil.move(tmp_path / "here", tmp_path / "there")
    again = DiaProcessor.from_pretrained(tmp_path / "there")
    waves = [expected["wave_0"], expected["wave_1"]]
    assert_equal(again(texts, waves, sampling_rate=RATE), pack_processor(texts, waves, sampling_rate=RATE))
    assert again.config.to_dict() == pack_processor.config.to_dict()


def test_saving_leaves_the_models_config_alone(pack_processor, tmp_path):
    """A processor saved beside a model overwrote the model's `config.json`."""
    (tmp_path / "config.json").write_text("{}")
    pack_processor.save_pretrained(tmp_path)
    assert (tmp_path / "config.json").read_text() == "{}"


def test_loads_what_transformers_saved(theirs, pack_processor, tmp_path):
    """transformers 5 writes `processor_config.json` in place of `preprocessor_config.json`."""
    theirs.save_pretrained(tmp_path)
    again = DiaProcessor.from_pretrained(tmp_path)
    assert again.feature_extractor.sampling_rate == RATE
    assert again.audio_tokenizer.config.to_dict() == pack_processor.audio_tokenizer.config.to_dict()


def test_a_checkpoint_without_codec(tmp_path, pack_processor):
    """The error for a missing codec was a KeyError."""
    DiaProcessor(pack_processor.feature_extractor, pack_processor.tokenizer).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="audio_tokenizer="):
        DiaProcessor.from_pretrained(tmp_path)
    bare = DiaProcessor.from_pretrained(tmp_path, load_codec=False)
    with pytest.raises(ValueError, match="has no codec"):
        bare.batch_decode(torch.zeros(1, 20, 9, dtype=torch.long))


def test_a_codec_of_another_kind(tmp_path, pack_processor):
    """A checkpoint that names another codec class failed inside that class."""
    pack_processor.save_pretrained(tmp_path)
    shutil.rmtree(tmp_path / "audio_tokenizer")
    (tmp_path / "audio_tokenizer_config.json").write_text('{"audio_tokenizer_class": "EncodecModel"}')
    with pytest.raises(ValueError, match="EncodecModel"):
        DiaProcessor.from_pretrained(tmp_path)


def test_codec_options(tmp_path):
    """`dtype` of the codec was dropped."""
    processor = DiaProcessor.from_pretrained(MINIATURE, dtype=torch.bfloat16)
    assert isinstance(processor.audio_tokenizer, DacModel)
    assert processor.audio_tokenizer.dtype == torch.bfloat16


def test_a_token_that_the_model_lacks(pack_processor):
    """Added tokens raised an IndexError in the encoder, or collided with other ids."""
    tokenizer = DiaTokenizer()
    tokenizer.add_tokens(["[laugh]"])
    processor = DiaProcessor(pack_processor.feature_extractor, tokenizer)
    with pytest.raises(ValueError, match=r"'\[laugh\]', whose id is 256, but the model reads ids below 256"):
        processor("[S1] So [laugh].")
    config = DiaConfig(encoder_config={"vocab_size": 257})
    ids = DiaProcessor(pack_processor.feature_extractor, tokenizer, config=config)("[S1] So [laugh].")["input_ids"]
    assert ids.max() == 256


def test_defaults_are_attributes_of_the_class(pack_processor):
    """Class attributes for defaults, as in transformers since 5.24, were ignored."""

    class Padded(DiaProcessor):
        text_kwargs = {"padding": "max_length", "max_length": 40}  # noqa: RUF012
        audio_kwargs = {"generation": False}  # noqa: RUF012

    processor = Padded(pack_processor.feature_extractor, pack_processor.tokenizer, pack_processor.audio_tokenizer)
    with pytest.raises(ValueError, match="training needs audio"):
        processor("[S1] Hi.")
    assert processor("[S1] Hi.", generation=True)["input_ids"].shape == (1, 40)
    assert processor("[S1] Hi.", generation=True, padding=True)["input_ids"].shape == (1, 5)
    assert processor("[S1] Hi.", audio_kwargs={"generation": True}, max_length=30)["input_ids"].shape == (1, 30)


@pytest.mark.parametrize("name", ["descript/dac_44khz", "/home/somebody/codec", "audio_tokenizer"])
def test_the_codecs_name_is_kept_where_it_means_something_elsewhere(pack_processor, tmp_path, name):
    """A second save lost the Hub id, or kept the path of another machine."""
    pack_processor.save_pretrained(tmp_path / "first")
    reference = tmp_path / "first" / "audio_tokenizer_config.json"
    reference.write_text(json.dumps(json.loads(reference.read_text()) | {"audio_tokenizer_name_or_path": name}))
    processor = DiaProcessor.from_pretrained(tmp_path / "first")
    processor.save_pretrained(tmp_path / "second")
    saved = json.loads((tmp_path / "second" / "audio_tokenizer_config.json").read_text())
    kept = name if name.startswith("descript") else str(tmp_path / "second" / "audio_tokenizer")
    assert saved["audio_tokenizer_name_or_path"] == kept


def test_columns_of_a_dataset(processor, tmp_path, tone):
    """Columns of a dataset were refused as texts, and taken for one clip as audio."""
    for number in range(2):
        write_audio(tmp_path / f"{number}.wav", tone(0.1 + 0.1 * number, RATE), RATE)
    rows = [{"text": f"[S1] Hello {n}.", "audio": str(tmp_path / f"{n}.wav")} for n in range(2)]
    dataset = datasets.Dataset.from_list(rows).cast_column("audio", datasets.Audio(decode=False))
    ours = processor(text=dataset["text"], audio=dataset["audio"])
    expected = processor(text=[row["text"] for row in rows], audio=[row["audio"] for row in rows])
    assert set(ours) == set(expected) and all(torch.equal(ours[name], expected[name]) for name in ours)
    with pytest.raises(ValueError, match="must be a string or a list of strings"):
        processor(text=dataset["audio"])


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Folder that receives uploads."""
    folder = tmp_path / "hub"

    def create_commit(repo_id, operations, **kwargs):
        for operation in operations:
            file = folder / operation.path_in_repo
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(operation.path_or_fileobj, file)

    create_repo = lambda repo_id, **kwargs: SimpleNamespace(repo_id=repo_id)  # noqa: E731
    api = SimpleNamespace(create_repo=create_repo, create_commit=create_commit)
    card = SimpleNamespace(save=lambda file: Path(file).write_text("card"))
    for name in ("hf_api", "create_repo", "create_commit"):
        value = (lambda *args, **kwargs: api) if name == "hf_api" else getattr(api, name)
        monkeypatch.setattr(transformers_hub, name, value, raising=False)
    monkeypatch.setattr(transformers_hub, "create_and_tag_model_card", lambda *args, **kwargs: card)
    return folder


@pytest.mark.parametrize("way", ["push", "save and push", "copy"])
def test_pushing(hub, tmp_path, way):
    """The processor's push replaced the model's `config.json`, and named a temporary folder of this machine."""
    model = DiaForConditionalGeneration.from_pretrained(MINIATURE, dtype=torch.bfloat16)
    model.config.channel_loss_weights = [4.0] + [1.0] * 8
    model.push_to_hub("me/dia")
    before = (hub / "config.json").read_text()
    processor = DiaProcessor.from_pretrained(MINIATURE)
    if way == "push":
        processor.push_to_hub("me/dia")
    elif way == "save and push":
        processor.save_pretrained(tmp_path / "saved", push_to_hub=True, repo_id="me/dia")
    else:
        processor.for_hub().save_pretrained(hub)
    assert (hub / "config.json").read_text() == before
    reference = json.loads((hub / "audio_tokenizer_config.json").read_text())
    assert reference["audio_tokenizer_name_or_path"] == "audio_tokenizer"
    for file in hub.rglob("*.json"):
        assert not any(str(place) in file.read_text() for place in (tmp_path, MINIATURE, tempfile.gettempdir())), file
    again = DiaProcessor.from_pretrained(hub)
    assert again.codec.fingerprint == processor.codec.fingerprint
    assert again.config.channel_loss_weights == model.config.channel_loss_weights
    with pytest.raises(OSError):  # noqa: PT011 (transformers' message; it must not fall back to other weights)
        TheirProcessor.from_pretrained(hub)


def test_a_codec_by_a_path_inside_the_checkpoint(pack_processor, tmp_path, monkeypatch):
    """A path relative to the checkpoint, or a missing one, was taken for an invalid Hub id."""
    folder = tmp_path / "checkpoint"
    pack_processor.save_pretrained(folder)
    (folder / "audio_tokenizer").rename(folder / "dac")
    monkeypatch.chdir(tmp_path)
    reference = {"audio_tokenizer_class": "DacModel", "audio_tokenizer_name_or_path": ""}
    for name in ("dac", "./dac", "../checkpoint/dac", str(folder / "dac"), "checkpoint/dac"):
        reference["audio_tokenizer_name_or_path"] = name
        (folder / "audio_tokenizer_config.json").write_text(json.dumps(reference))
        for given in (folder, "checkpoint"):
            again = DiaProcessor.from_pretrained(given)
            assert again.codec.fingerprint == pack_processor.codec.fingerprint
    for name in ("nowhere", "../nowhere", str(tmp_path / "nowhere")):
        reference["audio_tokenizer_name_or_path"] = name
        (folder / "audio_tokenizer_config.json").write_text(json.dumps(reference))
        with pytest.raises(FileNotFoundError, match=r"nowhere' in its audio_tokenizer_config\.json"):
            DiaProcessor.from_pretrained(folder)


@pytest.mark.parametrize("given", [False, True])
def test_an_extractor_of_another_rate(tmp_path, given):
    """Prompts were refused later, and files were saved at the wrong rate."""
    shutil.copytree(MINIATURE, tmp_path / "checkpoint")
    file = tmp_path / "checkpoint" / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"sampling_rate": 44100}))
    codec = DiaProcessor.from_pretrained(MINIATURE).audio_tokenizer if given else None
    with pytest.raises(ValueError, match=r"`sampling_rate` 44100, but the codec 16000"):
        DiaProcessor.from_pretrained(tmp_path / "checkpoint", audio_tokenizer=codec)


def test_a_checkpoint_whose_codec_lacks_tensors(tmp_path):
    """The processor loaded a codec without tensors, without an error."""
    shutil.copytree(MINIATURE, tmp_path / "checkpoint")
    file = tmp_path / "checkpoint" / "audio_tokenizer" / "model.safetensors"
    weights = load_file(file)
    weights.pop("decoder.conv1.weight")
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"audio_tokenizer' lacks 1 tensors, such as 'decoder\.conv1\.weight'"):
        DiaProcessor.from_pretrained(tmp_path / "checkpoint")


@pytest.mark.parametrize(
    "content", ["[]", "null", "{", "{}", '{"audio_tokenizer_name_or_path": 5}', '{"audio_tokenizer_class": "DacModel"}']
)
def test_a_damaged_reference(pack_processor, tmp_path, content):
    """A damaged reference caused a KeyError or AttributeError without the file's name."""
    pack_processor.save_pretrained(tmp_path)
    shutil.rmtree(tmp_path / "audio_tokenizer")
    (tmp_path / "audio_tokenizer_config.json").write_text(content)
    with pytest.raises(ValueError, match=r"audio_tokenizer_config\.json"):
        DiaProcessor.from_pretrained(tmp_path)


def test_a_processor_keeps_one_codec(tmp_path):
    """Each access to `processor.codec` built a new object; a kept one must follow a replaced network."""
    processor = DiaProcessor.from_pretrained(MINIATURE)
    codec = processor.codec
    assert processor.codec is codec and processor.for_hub().codec is codec
    fingerprint, codes = codec.fingerprint, torch.randint(0, codec.codebook_size, (8, codec.num_codebooks))
    (sound,) = codec.decode([codes])
    processor.audio_tokenizer.to(torch.bfloat16)
    assert processor.codec is codec and codec.fingerprint == fingerprint
    torch.testing.assert_close(codec.decode([codes])[0], sound, rtol=0, atol=0.05)
    copied = copy.deepcopy(processor)
    assert copied.codec.model is copied.audio_tokenizer is not processor.audio_tokenizer
    processor.audio_tokenizer = copy.deepcopy(processor.audio_tokenizer)
    assert processor.codec is not codec and processor.codec.model is processor.audio_tokenizer
    processor.audio_tokenizer = None
    with pytest.raises(ValueError, match="has no codec"):
        processor.codec  # noqa: B018


@pytest.mark.parametrize("name", ["padding", "truncation", "return_tensors"])
def test_an_unknown_strategy(processor, name):
    """The error repeated its 3,000 characters, in the wording of an enumeration of transformers."""
    with pytest.raises(ValueError, match=rf"`{name}` is 'xxx") as caught:
        processor("[S1] Hi.", **{name: "x" * 3000})
    assert len(str(caught.value)) < 300
