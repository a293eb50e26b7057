"""descript-audio-codec's checkpoints to `DacModel`: names, and weight normalization folded into the weights.

descript numbers its modules inside nested `Sequential`s and keeps every convolution as direction and length
(`weight_v`, `weight_g`); transformers names them and keeps the product.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import DacConfig, DacModel

from ..audio.dac import check_codebooks
from ..text_files import first_line
from .weights import Weights, check_sums

__all__ = ["config_from_descript", "is_descript", "load_descript_codec", "names"]


def is_descript(weights: Weights) -> bool:
    """Tell a descript checkpoint by its content: weight-normalized convolutions of a codec, and their settings."""
    return "encoder.block.0.weight_v" in weights and "kwargs" in weights.metadata


def config_from_descript(settings: dict[str, Any]) -> DacConfig:
    """Read the settings that descript stores beside the weights (`metadata.kwargs`).

    Raises:
        KeyError: If a setting is missing.
        ValueError: If the codec is one that `DacModel` cannot be.
    """
    ratios, rates = list(settings["encoder_rates"]), list(settings["decoder_rates"])
    if rates != ratios[::-1]:
        raise ValueError(f"`decoder_rates` are {rates}; `DacModel` can only mirror `encoder_rates` {ratios}.")
    config = DacConfig(
        encoder_hidden_size=settings["encoder_dim"],
        downsampling_ratios=ratios,
        decoder_hidden_size=settings["decoder_dim"],
        n_codebooks=settings["n_codebooks"],
        codebook_size=settings["codebook_size"],
        codebook_dim=settings["codebook_dim"],
        sampling_rate=settings["sample_rate"],
    )
    if settings.get("latent_dim") not in (None, config.hidden_size):
        raise ValueError(f"`latent_dim` is {settings['latent_dim']}; `DacModel` can only be {config.hidden_size} wide.")
    return config


def _residual_units(theirs: str, ours: str, first: int) -> Iterator[tuple[str, str]]:
    for unit in range(3):
        inner, name = f"{theirs}.{first + unit}.block", f"{ours}.res_unit{unit + 1}"
        yield f"{inner}.0.alpha", f"{name}.snake1.alpha"
        yield f"{inner}.1", f"{name}.conv1"
        yield f"{inner}.2.alpha", f"{name}.snake2.alpha"
        yield f"{inner}.3", f"{name}.conv2"


def names(config: DacConfig) -> Iterator[tuple[str, str]]:
    """Yield (their name, our name): of a tensor where it ends in "alpha" or "weight", else of a convolution."""
    num_blocks = len(config.downsampling_ratios)
    yield "encoder.block.0", "encoder.conv1"
    for block in range(num_blocks):
        theirs, ours = f"encoder.block.{block + 1}.block", f"encoder.block.{block}"
        yield from _residual_units(theirs, ours, first=0)
        yield f"{theirs}.3.alpha", f"{ours}.snake1.alpha"
        yield f"{theirs}.4", f"{ours}.conv1"
    yield f"encoder.block.{num_blocks + 1}.alpha", "encoder.snake1.alpha"
    yield f"encoder.block.{num_blocks + 2}", "encoder.conv2"
    for codebook in range(config.n_codebooks):
        quantizer = f"quantizer.quantizers.{codebook}"
        for name in ("in_proj", "out_proj", "codebook.weight"):
            yield f"{quantizer}.{name}", f"{quantizer}.{name}"
    yield "decoder.model.0", "decoder.conv1"
    for block in range(num_blocks):
        theirs, ours = f"decoder.model.{block + 1}.block", f"decoder.block.{block}"
        yield f"{theirs}.0.alpha", f"{ours}.snake1.alpha"
        yield f"{theirs}.1", f"{ours}.conv_t1"
        yield from _residual_units(theirs, ours, first=2)
    yield f"decoder.model.{num_blocks + 1}.alpha", "decoder.snake1.alpha"
    yield f"decoder.model.{num_blocks + 2}", "decoder.conv2"


def _fold(direction: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    """Undo weight normalization (Salimans and Kingma, 2016, eq. 2): length · direction / |direction|."""
    return torch._weight_norm(direction, length, 0)


def load_descript_codec(file: Path) -> DacModel:
    """Turn a descript checkpoint (such as `weights_44khz_8kbps_0.0.1.pth`) into a `DacModel`.

    Args:
        file (`Path`): A .pth file with `state_dict` and `metadata.kwargs`; the `dac` package is not needed.

    Returns:
        `DacModel`, in the checkpoint's dtype.

    Raises:
        ValueError: If the file cannot be read or differs from its CRC-32 sums, for which it is read once more, or a
            tensor is missing, too many or of another shape.
    """
    weights = Weights([file])
    if not is_descript(weights):
        raise ValueError(f"{file} is no codec as descript publishes it (`state_dict` and `metadata.kwargs`).")
    check_sums([file])
    try:
        config = config_from_descript(weights.metadata["kwargs"])
        check_codebooks(config.n_codebooks)
        codec = DacModel(config).eval()
    except KeyError as error:
        raise ValueError(f"{file}: `metadata.kwargs` lacks {error}.") from error
    except (ValueError, TypeError, RuntimeError) as error:  # torch's, for sizes beyond the memory
        raise ValueError(f"{file}: {first_line(error, 400)}") from error

    used: set[str] = set()

    def read(name: str) -> torch.Tensor:
        if name not in weights:
            raise ValueError(f"{file}: the tensor {name!r} is missing.")
        used.add(name)
        return weights.read(name)

    expected = {name: tuple(tensor.shape) for name, tensor in codec.state_dict().items()}

    def check(theirs: str, shape: tuple[int, ...]) -> None:
        if theirs in weights and weights.shape(theirs) != shape:
            raise ValueError(
                f"{file}: {theirs!r} has the shape {weights.shape(theirs)}, but the settings beside it ask for {shape}."
            )

    # Before any of them is computed with: kernels trust the shapes that they are given.
    for theirs, ours in names(config):
        if theirs.endswith((".alpha", ".weight")):
            check(theirs, expected[ours])
        else:
            shape = expected[f"{ours}.weight"]
            check(f"{theirs}.weight_v", shape)
            check(f"{theirs}.weight_g", (shape[0], *(1 for _ in shape[1:])))
            check(f"{theirs}.bias", expected[f"{ours}.bias"])

    state = {}
    for theirs, ours in names(config):
        if theirs.endswith((".alpha", ".weight")):
            state[ours] = read(theirs)
        else:
            state[f"{ours}.weight"] = _fold(read(f"{theirs}.weight_v"), read(f"{theirs}.weight_g"))
            state[f"{ours}.bias"] = read(f"{theirs}.bias")
    if extra := sorted(set(weights) - used):
        raise ValueError(f"{file} holds {len(extra)} tensors too many, such as {extra[0]!r}.")

    codec.load_state_dict(state)
    return codec.to(next(iter(state.values())).dtype)
