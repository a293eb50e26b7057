"""Make the embedded miniature: a whole Dia checkpoint of random weights, small enough to ship.

    python scripts/make_miniature.py [DEST]

It is untrained: what it says is noise. It exists so that every command, example and test runs without a network.
The real geometry (9 channels, 1028 tokens, the real delay pattern and token ids, 44.1 kHz at 512 samples a frame) on
narrow layers; the same seed makes the same files.
"""

import sys
from pathlib import Path

import torch
from transformers import DacConfig, DacModel

from dia_hf import MINIATURE, DiaConfig, DiaFeatureExtractor, DiaForConditionalGeneration, DiaProcessor, DiaTokenizer
from dia_hf.conversion.nari import generation_config_for
from dia_hf.processing_dia import write_codec_reference

SEED = 2025


def make_codec() -> DacModel:
    """Make a codec whose codes depend on the sound and whose sound depends on the codes.

    With the weights that it is given for training, the signal is lost among the biases after a few layers.
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


def main(dest: str = MINIATURE) -> None:
    """Write the checkpoint to `dest`."""
    torch.manual_seed(SEED)
    heads = {"num_attention_heads": 4, "head_dim": 16, "hidden_size": 32}
    config = DiaConfig(
        encoder_config={**heads, "num_key_value_heads": 4, "num_hidden_layers": 2, "intermediate_size": 96},
        decoder_config={
            **heads,
            "num_key_value_heads": 2,
            "num_hidden_layers": 2,
            "intermediate_size": 96,
            "cross_num_attention_heads": 4,
            "cross_num_key_value_heads": 4,
            "cross_head_dim": 16,
            "cross_hidden_size": 32,
        },
        # Wider than for training, so that the untrained logits are no near-tie between all tokens.
        initializer_range=0.5,
    )
    for part in (config.encoder_config, config.decoder_config):
        part.initializer_range = config.initializer_range
    model = DiaForConditionalGeneration(config)
    # The published settings, but an end after three seconds at the latest: untrained, it would go on to 3072.
    model.generation_config = generation_config_for(config)
    model.generation_config.max_length = 260
    codec = make_codec()
    processor = DiaProcessor(DiaFeatureExtractor(), DiaTokenizer(), codec, config)

    model.save_pretrained(dest)
    processor.save_pretrained(dest)
    # A path of this machine is nobody else's; the codec lies inside.
    write_codec_reference(Path(dest), "audio_tokenizer")


if __name__ == "__main__":
    main(*sys.argv[1:])
