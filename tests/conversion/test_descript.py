"""Files of descript's codec that are incomplete, contradictory or damaged."""

import pytest
import torch

from conftest import REFERENCE
from dia_hf import cli
from dia_hf.conversion import convert_checkpoint, load_checkpoint, load_descript_codec

PACK = REFERENCE / "nari-0626"
DESCRIPT = REFERENCE / "descript-dac" / "weights.pth"


def test_codec_that_cannot_be_read(tmp_path, capsys):
    """A damaged codec was detected after gigabytes of weights had been written."""
    broken = tmp_path / "codec.pth"
    content = torch.load(REFERENCE / "descript-dac" / "weights.pth", weights_only=True)
    cases = {
        "encoder.block.0.bias": lambda c: c["state_dict"].pop("encoder.block.0.bias"),
        "n_codebooks": lambda c: c["metadata"]["kwargs"].pop("n_codebooks"),
        "not a codec": lambda c: c.pop("metadata"),
        "unexpected tensors": lambda c: c["state_dict"].update({"more": torch.zeros(1)}),
        "decoder_rates": lambda c: c["metadata"]["kwargs"].update(decoder_rates=[2, 4, 8, 8]),
        "latent_dim": lambda c: c["metadata"]["kwargs"].update(latent_dim=65),
        "quantizer.quantizers.0.codebook.weight": lambda c: c["metadata"]["kwargs"].update(codebook_size=512),
        "power of 2": lambda c: c["metadata"]["kwargs"].update(codebook_size=1000),
    }
    for word, change in cases.items():
        copy = {"state_dict": dict(content["state_dict"]), "metadata": {"kwargs": dict(content["metadata"]["kwargs"])}}
        change(copy)
        torch.save(copy, broken)
        assert cli.main(["convert", str(PACK), str(tmp_path / "dest"), "--codec", str(broken)]) == 2
        error = capsys.readouterr().err
        assert word in error
        assert "codec.pth" in error
        with pytest.raises(ValueError) as loading:  # noqa: PT011 (the message is compared below)
            load_checkpoint(PACK, codec=broken)
        assert str(loading.value) in error
    assert cli.main(["convert", str(PACK), str(tmp_path / "dest"), "--codec", str(tmp_path / "nowhere")]) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["codec.pth"]


def test_descript_tensors_that_contradict_each_other(tmp_path):
    """Weight norms of another shape than their directions reached the kernel that folds them."""
    content = torch.load(REFERENCE / "descript-dac" / "weights.pth", weights_only=True)
    for name, shape in (("encoder.block.0.weight_g", (3, 1, 1)), ("encoder.block.0.weight_v", (1,)),
                        ("decoder.model.0.bias", ())):  # fmt: skip
        state = {**content["state_dict"], name: torch.zeros(shape)}
        torch.save({"state_dict": state, "metadata": content["metadata"]}, tmp_path / "codec.pth")
        with pytest.raises(ValueError, match=rf"codec\.pth: '{name}' has the shape"):
            load_descript_codec(tmp_path / "codec.pth")


def test_a_flipped_bit_in_a_codec(tmp_path):
    """A codec with one damaged weight was written into a checkpoint; each file is read once for its checksum."""
    file = tmp_path / "codec.pth"
    content = torch.load(DESCRIPT, weights_only=True)
    torch.save(content, file)
    direction = content["state_dict"]["decoder.model.0.weight_v"].numpy().tobytes()
    damaged = bytearray(file.read_bytes())
    damaged[damaged.index(direction) + len(direction) // 2] ^= 16
    file.write_bytes(bytes(damaged))
    message = r"codec\.pth is damaged: 'codec/data/\d+' inside it differs from its CRC-32 sum"
    with pytest.raises(ValueError, match=message):
        load_descript_codec(file)
    with pytest.raises(ValueError, match=message):
        convert_checkpoint(file, tmp_path / "dac")
    with pytest.raises(ValueError, match=message):
        convert_checkpoint(REFERENCE / "nari-0626", tmp_path / "dest", codec=file)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["codec.pth"]
