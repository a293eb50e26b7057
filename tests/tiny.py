"""Small random models, ours and transformers' own with the same weights, and their inputs and outputs."""

import random
from pathlib import Path

import torch
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import DacConfig, DacModel
from transformers.models.dia import DiaConfig as TheirConfig
from transformers.models.dia import DiaForConditionalGeneration as TheirModel

from dia_hf import DiaConfig, DiaFeatureExtractor, DiaForConditionalGeneration, DiaProcessor, DiaTokenizer
from dia_hf.conversion.nari import generation_config_for
from dia_hf.delay_pattern import apply_delay
from dia_hf.processing_dia import write_codec_reference


def random_config(seed: int) -> DiaConfig:
    """Draw a configuration: any number of channels, any delays, any grouping of heads."""
    draw = random.Random(seed)
    num_channels = draw.choice([1, 2, 4, 9])
    encoder_groups, groups, cross_groups = (draw.choice([1, 2, 3]) for _ in range(3))
    encoder_width = draw.choice([16, 24])
    codes = draw.choice([11, 64])
    return DiaConfig(
        encoder_config={
            "num_hidden_layers": draw.choice([1, 2]),
            "hidden_size": encoder_width,
            "num_key_value_heads": 2,
            "num_attention_heads": 2 * encoder_groups,
            "head_dim": draw.choice([4, 8]),
            "intermediate_size": draw.choice([20, 32]),
        },
        decoder_config={
            "num_hidden_layers": draw.choice([1, 2, 3]),
            "hidden_size": draw.choice([16, 20]),
            "num_key_value_heads": draw.choice([1, 2]),
            "num_attention_heads": 2 * groups,
            "head_dim": draw.choice([4, 8]),
            "cross_num_key_value_heads": 2,
            "cross_num_attention_heads": 2 * cross_groups,
            "cross_head_dim": draw.choice([4, 8]),
            "cross_hidden_size": encoder_width,
            "intermediate_size": draw.choice([20, 32]),
            "num_channels": num_channels,
            "vocab_size": codes + draw.choice([3, 4]),
            "eos_token_id": codes,
            "pad_token_id": codes + 1,
            "bos_token_id": codes + 2,
        },
        delay_pattern=[0, *(draw.randint(0, 6) for _ in range(num_channels - 1))],
    )


def random_model(config: DiaConfig, seed: int = 0, scale: float = 0.3) -> DiaForConditionalGeneration:
    """Make a model whose weights are wide enough for its outputs to be no near-ties."""
    generator = torch.Generator().manual_seed(seed)
    model = DiaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.copy_(1 + 0.2 * torch.randn(parameter.shape, generator=generator))
            else:
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return model


def checkpoint_gradients(model: DiaForConditionalGeneration, use_reentrant: bool = False) -> None:
    """Turn gradient checkpointing on, by the name that this release has for it."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": use_reentrant})


def random_codec() -> DacModel:
    """Make a codec of 44.1 kHz whose codes depend on the audio and whose audio depends on the codes.

    With the initial weights of training, the biases dominate the signal after a few layers.
    """
    codec = DacModel(DacConfig(encoder_hidden_size=4, decoder_hidden_size=48, sampling_rate=44100)).eval()
    with torch.no_grad():
        for layer in codec.modules():
            if isinstance(layer, (torch.nn.Conv1d, torch.nn.ConvTranspose1d)):
                torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
                layer.bias.zero_()
        # As loud as speech: first so quiet that the last layer, a tanh, is linear, and then by the factor found.
        codec.decoder.conv2.weight *= 1e-3
        sound = codec.decode(audio_codes=torch.randint(0, 1024, (1, 9, 400))).audio_values
        codec.decoder.conv2.weight *= 0.1 / sound.std()
    return codec


def write_random_checkpoint(folder: Path) -> None:
    """Write a complete checkpoint that generates noise up to the limit.

    It has the published rates, token ids, channels, delays and positions, on narrow layers.
    """
    heads = {"num_attention_heads": 4, "head_dim": 16, "hidden_size": 32, "num_hidden_layers": 2}
    config = DiaConfig(
        encoder_config={**heads, "num_key_value_heads": 4, "intermediate_size": 96},
        decoder_config={
            **heads,
            "num_key_value_heads": 2,
            "intermediate_size": 96,
            "cross_num_attention_heads": 4,
            "cross_num_key_value_heads": 4,
            "cross_head_dim": 16,
            "cross_hidden_size": 32,
        },
        # Wider than for training, so that the logits are no near-tie between all tokens.
        initializer_range=0.5,
    )
    for part in (config.encoder_config, config.decoder_config):
        part.initializer_range = config.initializer_range
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2025)
        model, codec = DiaForConditionalGeneration(config), random_codec()
    with torch.no_grad():  # an EOS whose logit is 0 is never the best token, and is never generated
        model.logits_dense.weight.view(9, 1028, -1)[0, config.decoder_config.eos_token_id] = 0
    model.generation_config = generation_config_for(config)
    model.generation_config.max_length = 260
    model.save_pretrained(folder)
    DiaProcessor(DiaFeatureExtractor(), DiaTokenizer(), codec, config).save_pretrained(folder)
    write_codec_reference(folder, "audio_tokenizer")


def their_model(model: DiaForConditionalGeneration, implementation: str = "sdpa") -> TheirModel:
    """Make transformers' own model of the same configuration and weights."""
    config = TheirConfig(**model.config.to_dict())
    config._attn_implementation = implementation
    theirs = TheirModel(config).eval()
    theirs.load_state_dict(model.state_dict())
    return theirs


def random_batch(config: DiaConfig, seed: int = 0) -> dict[str, torch.Tensor]:
    """Draw texts of different lengths, codes with special tokens among them, and labels."""
    generator = torch.Generator().manual_seed(seed)
    decoder, batch_size, num_frames = config.decoder_config, 3, 12
    lengths = torch.randint(3, 15, (batch_size,), generator=generator)
    attention_mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    codes = (batch_size, num_frames, decoder.num_channels)
    decoder_mask = torch.ones(batch_size, num_frames, dtype=torch.long)
    decoder_mask[0, :3] = 0
    labels = torch.randint(0, decoder.eos_token_id + 1, codes, generator=generator)
    labels[torch.rand(codes, generator=generator) < 0.2] = -100
    return {
        "input_ids": torch.randint(1, 256, attention_mask.shape, generator=generator) * attention_mask,
        "attention_mask": attention_mask,
        "decoder_input_ids": torch.randint(0, decoder.bos_token_id + 1, codes, generator=generator),
        "decoder_attention_mask": decoder_mask,
        "labels": labels.transpose(1, 2).flatten(0, 1),
    }


def packed_clips(config, seed=0):
    """Five clips of random lengths: one a row, and in two rows with their numbers and some padding."""
    generator = torch.Generator().manual_seed(seed)
    decoder = config.decoder_config
    clips = []
    for num_bytes, num_frames in torch.randint(2, 9, (5, 2), generator=generator).tolist():
        codes = torch.randint(0, decoder.eos_token_id + 1, (3, num_frames, decoder.num_channels), generator=generator)
        labels = codes[1].masked_fill(codes[2] % 5 == 0, -100)
        clips.append((torch.randint(1, 256, (num_bytes,), generator=generator), codes[0], labels))
    rows = [clips[:3], clips[3:]]

    def join(which, padding, num_padding):
        joined = [torch.cat([clip[which] for clip in row]) for row in rows]
        joined.append(joined[0].new_zeros(max(map(len, joined)) + num_padding, *joined[0].shape[1:]))
        return pad_sequence(joined, batch_first=True, padding_value=padding)[:-1]

    def numbers(which):
        ids = [torch.cat([torch.full(clip[which].shape[:1], i) for i, clip in enumerate(row, 1)]) for row in rows]
        length = max(map(len, ids)) + (2 if which == 0 else 1)
        return torch.stack([F.pad(one, (0, length - len(one))) for one in ids])

    together = {
        "input_ids": join(0, 0, 2),
        "sequence_ids": numbers(0),
        "decoder_input_ids": join(1, 0, 1),
        "decoder_sequence_ids": numbers(1),
        "labels": join(2, -100, 1),
    }
    alone = [{"input_ids": text[None], "decoder_input_ids": x[None], "labels": y[None]} for text, x, y in clips]
    return together, alone


def as_inputs(config, texts, prompts):
    """Build generate's inputs from bytes and prompt codes, aligned on the right as the processor does."""
    decoder, longest = config.decoder_config, 1 + max(len(prompt) for prompt in prompts)
    frames = torch.full((len(texts), longest, decoder.num_channels), decoder.bos_token_id)
    mask = torch.zeros(len(texts), longest + max(config.delay_pattern), dtype=torch.long)
    ids = torch.zeros(len(texts), max(map(len, texts)), dtype=torch.long)
    for row, (text, prompt) in enumerate(zip(texts, prompts, strict=True)):
        ids[row, : len(text)] = torch.tensor(list(text))
        frames[row, longest - len(prompt) :] = prompt
        mask[row, longest - len(prompt) - 1 :] = 1
    delayed = apply_delay(frames, config.delay_pattern, decoder.bos_token_id, decoder.pad_token_id)
    return {
        "input_ids": ids,
        "attention_mask": (ids != 0).long(),
        "decoder_input_ids": delayed,
        "decoder_attention_mask": mask,
    }


def assert_same_speech(batch_row, alone, config):
    """Compare two rows from their BOS on: alignment before and padding behind may differ."""
    decoder = config.decoder_config
    rows = []
    for row in (batch_row, alone):
        first = row[:, 0]
        begin = int((first == decoder.bos_token_id).sum()) - 1
        rows.append(row[begin : row.shape[0]])
    shorter = min(len(row) for row in rows)
    assert torch.equal(rows[0][:shorter], rows[1][:shorter])
    assert all((row[shorter:] == decoder.pad_token_id).all() for row in rows)


def assert_same_model(loaded, expected):
    assert list(loaded.state_dict()) == list(expected.state_dict())
    for (name, ours), theirs in zip(loaded.state_dict().items(), expected.state_dict().values(), strict=True):
        assert ours.dtype == theirs.dtype, name
        assert torch.equal(ours, theirs), name
    assert all(parameter.is_leaf and parameter.requires_grad for parameter in loaded.parameters())
    configs = [model.config.to_dict() for model in (loaded, expected)]
    assert [config.pop("_name_or_path") for config in configs] == [loaded.name_or_path, expected.name_or_path]
    assert configs[0] == configs[1]
    assert loaded.generation_config.to_dict() == expected.generation_config.to_dict()
    assert loaded.training == expected.training
