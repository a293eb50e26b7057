"""Failures of a conversion: each is a clear error that leaves no files."""

import errno
import json
import os
import shutil
import zipfile

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import DacModel

from conftest import REFERENCE
from dia_hf import MINIATURE, atomic_write, cli
from dia_hf.conversion import convert_checkpoint, load_checkpoint
from dia_hf.conversion import locate as locate_module
from dia_hf.conversion import shards as shards_module
from kills import stunned

PACK = REFERENCE / "nari-0626"
DESCRIPT = REFERENCE / "descript-dac" / "weights.pth"


class Code:
    """A pickle that runs code when it is loaded."""

    def __reduce__(self):
        return print, ("this must never be printed",)


def edit_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def edit_config(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def break_source(kind, folder):
    """Damage a valid source, and return the text that the error must contain."""
    file = folder / "model.safetensors"
    if kind == "missing tensor":
        edit_weights(folder, lambda w: w.pop("decoder.layers.1.mlp.wo.weight"))
        return [file.name, "decoder.layers.1.mlp.wo.weight", "missing"]
    if kind == "extra tensor":
        edit_weights(folder, lambda w: w.update({"decoder.bonus": torch.zeros(1)}))
        return [file.name, "decoder.bonus"]
    if kind == "wrong shape":
        edit_weights(folder, lambda w: w.update({"encoder.norm.weight": torch.zeros(25)}))
        return [file.name, "encoder.norm.weight", "[25]", "[24]"]
    if kind == "mixed dtypes":
        edit_weights(folder, lambda w: w.update({"encoder.norm.weight": torch.ones(24, dtype=torch.bfloat16)}))
        return [file.name, "bfloat16, float32", "--dtype"]
    if kind == "config and weights disagree":
        edit_config(folder, lambda c: c["encoder_config"].update(num_hidden_layers=3))
        return [file.name, "encoder.layers.2"]
    if kind == "config with other heads":
        edit_config(folder, lambda c: c["decoder_config"].update(num_key_value_heads=3))
        return [file.name, "self_attention.k_proj", "[24, 2, 16]", "[24, 3, 16]"]
    if kind == "config that contradicts itself":
        edit_config(folder, lambda c: c.update(delay_pattern=[0, 1]))
        return ["config.json", "2 entries for 9 channels"]
    if kind == "truncated safetensors":
        file.write_bytes(file.read_bytes()[:100_000])
        return [file.name, "truncated"]
    if kind == "truncated pickle":
        torch.save(load_file(file), folder / "model.pth")
        file.unlink()
        (folder / "model.pth").write_bytes((folder / "model.pth").read_bytes()[:100_000])
        return ["model.pth", "truncated"]
    if kind == "pickle with code":
        torch.save({"weight": torch.zeros(1), "surprise": Code()}, folder / "model.pth")
        file.unlink()
        return ["model.pth", "refused", "run code"]
    if kind == "pickle of something else":
        torch.save({"epoch": 7}, folder / "model.pth")
        file.unlink()
        return ["model.pth", "'epoch'", "int"]
    if kind in ("pickle of a bare tensor", "pickle whose state_dict is a list"):
        bare = torch.zeros(3) if kind.endswith("tensor") else {"state_dict": [torch.zeros(3)]}
        torch.save(bare, folder / "model.pth")
        file.unlink()
        return ["model.pth", "expected a state_dict"]
    if kind == "config that is a list":
        (folder / "config.json").write_text("[1, 2]")
        return ["config.json", "is not valid"]
    if kind == "index without a map":
        (folder / "model.safetensors.index.json").write_text('{"metadata": {}}')
        return ["index.json", "weight_map"]
    if kind == "no config":
        (folder / "config.json").unlink()
        return ["config.json", "missing"]
    if kind == "no weights":
        file.unlink()
        return ["has no weights"]
    if kind == "two weight files":
        shutil.move(file, folder / "a.safetensors")
        shutil.copy(folder / "a.safetensors", folder / "b.safetensors")
        return ["a.safetensors, b.safetensors", "give the file"]
    if kind == "missing shard":
        (folder / "model.safetensors.index.json").write_text('{"weight_map": {"x": "model-2.safetensors"}}')
        return ["index.json", "model-2.safetensors"]
    if kind == "unknown layout":
        save_file({"transformer.h.0.weight": torch.zeros(1)}, file)
        return [file.name, "transformer.h.0.weight", "not a Dia"]
    if kind == "a codec":
        shutil.rmtree(folder)
        shutil.copytree(REFERENCE / "transformers-4.53" / "dac_44khz", folder)
        return ["is a DacModel, not a Dia", "--codec"]
    raise AssertionError(kind)


@pytest.mark.parametrize(
    "kind",
    [
        "missing tensor",
        "extra tensor",
        "wrong shape",
        "mixed dtypes",
        "config and weights disagree",
        "config with other heads",
        "config that contradicts itself",
        "truncated safetensors",
        "truncated pickle",
        "pickle with code",
        "pickle of something else",
        "pickle of a bare tensor",
        "pickle whose state_dict is a list",
        "config that is a list",
        "index without a map",
        "no config",
        "no weights",
        "two weight files",
        "missing shard",
        "unknown layout",
        "a codec",
    ],
)
def test_bad_sources(tmp_path, capsys, kind):
    """Missing tensors were initialized at random, or an incomplete folder looked like a checkpoint."""
    source, place = tmp_path / "source", tmp_path / "place"
    shutil.copytree(PACK, source, ignore=shutil.ignore_patterns("expected*", "inputs*"))
    words = break_source(kind, source)
    place.mkdir()
    assert cli.main(["convert", str(source), str(place / "deep" / "dest")]) == 2
    with pytest.raises(ValueError) as loading:  # noqa: PT011 (the message is compared below)
        load_checkpoint(source)
    captured = capsys.readouterr()
    assert all(word in captured.err for word in words), captured.err
    assert str(loading.value) in captured.err
    assert "never be printed" not in captured.out
    assert not list(place.iterdir())


def test_destination_that_is_not_empty(tmp_path, capsys):
    """A conversion into a folder in use mixed two checkpoints."""
    dest = tmp_path / "dest"
    dest.mkdir()
    (dest / "mine.txt").write_text("precious")
    assert cli.main(["convert", str(PACK), str(dest)]) == 2
    assert "--force" in capsys.readouterr().err
    assert [path.name for path in dest.iterdir()] == ["mine.txt"]
    assert cli.main(["convert", str(PACK), str(dest), "--force"]) == 0
    assert not (dest / "mine.txt").exists()
    assert (dest / "model.safetensors").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["dest"]


def test_destination_that_is_a_file_or_empty(tmp_path, capsys):
    """An empty destination was refused, or a file was replaced."""
    (tmp_path / "file").write_text("x")
    assert cli.main(["convert", str(PACK), str(tmp_path / "file")]) == 2
    (tmp_path / "empty").mkdir()
    assert cli.main(["convert", str(PACK), str(tmp_path / "empty")]) == 0
    assert (tmp_path / "empty" / "config.json").exists()


@pytest.mark.parametrize("dest", ["models", "models/source", "link", "models/../link/source", "."])
@pytest.mark.parametrize("kind", ["source", "file", "link to the weights", "codec"])
def test_a_destination_that_holds_what_is_read(tmp_path, capsys, dest, kind):
    """`dia-hf convert models/source models --force` removed its own source, and every other file in the folder."""
    source, models = tmp_path / "models" / "source", tmp_path / "models"
    shutil.copytree(PACK, source, ignore=shutil.ignore_patterns("expected*", "inputs*"))
    (models / "precious.txt").write_text("mine")
    (tmp_path / "link").symlink_to(models)
    given = [str(source)]
    if kind == "file":
        given = [str(source / "model.safetensors")]
    if kind == "link to the weights":
        outside = tmp_path / "outside"
        outside.mkdir()
        for path in source.iterdir():
            (outside / path.name).symlink_to(path)
        given = [str(outside)]
    if kind == "codec":
        shutil.copy(REFERENCE / "descript-dac" / "weights.pth", source / "codec.pth")
        given = [str(PACK), "--codec", str(source / "codec.pth")]
    before = sorted(tmp_path.rglob("*"))
    for options in (["--force"], [], ["--force", "--dry-run"]):
        assert cli.main(["convert", *given, str(tmp_path / dest), *options]) == 2
        error = capsys.readouterr().err
        assert "would be lost" in error
        assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_codec_within_its_destination(tmp_path, capsys):
    """A codec was converted over the folder that contains it."""
    (tmp_path / "dac").mkdir()
    shutil.copy(REFERENCE / "descript-dac" / "weights.pth", tmp_path / "dac" / "weights.pth")
    assert cli.main(["convert", str(tmp_path / "dac" / "weights.pth"), str(tmp_path / "dac"), "--force"]) == 2
    assert "would be lost" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "dac").iterdir()] == ["weights.pth"]


def test_two_conversions_into_one_folder(tmp_path, capsys, monkeypatch):
    """The second conversion finished, and the first one then failed with forty lines of traceback."""
    statuses = []

    def save_both(*args, **kwargs):
        if not statuses:
            statuses.append(None)
            statuses.append(cli.main(["convert", str(PACK), str(tmp_path / "dest"), "--force"]))
        save_file(*args, **kwargs)

    monkeypatch.setattr(shards_module, "save_file", save_both)
    assert cli.main(["convert", str(PACK), str(tmp_path / "dest")]) == 0
    assert statuses == [None, 2]
    assert "another process is writing" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["dest"]


def test_others_may_read_the_weights(tmp_path):
    """The weights had the mode 600 whatever the umask, and a server under another user could not load them."""
    before = os.umask(0o022)
    try:
        codec = REFERENCE / "descript-dac" / "weights.pth"
        convert_checkpoint(PACK, tmp_path / "dest", codec=codec)
        convert_checkpoint(codec, tmp_path / "codec")
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sum(path.suffix == ".safetensors" for path in files) == 3
    assert {path.stat().st_mode & 0o777 for path in files} == {0o644}


def test_a_conversion_after_a_kill(tmp_path):
    """`--force`, killed between the renames, lost the folder; each kill left gigabytes under a hidden name."""
    dest = tmp_path / "dest"
    convert_checkpoint(PACK, tmp_path / "undisturbed")
    wanted = {path.name: path.read_bytes() for path in (tmp_path / "undisturbed").iterdir()}
    shutil.rmtree(tmp_path / "undisturbed")
    number, step = 0, 5  # all changes of the disk in turn are in tests/test_atomic_write.py
    while True:
        dest.mkdir()
        (dest / "old.txt").write_text("still here")
        was_killed = stunned(lambda: convert_checkpoint(PACK, dest, force=True), number)
        assert not was_killed or len(list(tmp_path.rglob("old.txt"))) + (dest / "config.json").is_file() >= 1
        convert_checkpoint(PACK, dest, force=True)
        assert [path.name for path in tmp_path.iterdir()] == ["dest"]
        assert {path.name: path.read_bytes() for path in dest.iterdir()} == wanted
        shutil.rmtree(dest)
        if not was_killed:
            break
        number += step
    assert number > step


@pytest.mark.parametrize("failure", ["disk full", "disk full in safetensors", "interrupted"])
@pytest.mark.parametrize("existing", [False, True])
def test_a_run_that_breaks_off(tmp_path, capsys, monkeypatch, failure, existing):
    """A full disk or Ctrl-C left an incomplete folder, or had already deleted the one to be replaced."""
    dest = tmp_path / "dest"
    if existing:
        dest.mkdir()
        (dest / "old.txt").write_text("still here")

    def fail(*args, **kwargs):
        if failure == "disk full":
            raise OSError(errno.ENOSPC, "No space left on device")
        if failure == "disk full in safetensors":
            raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
        raise KeyboardInterrupt

    monkeypatch.setattr(shards_module, "save_file", fail)
    status = cli.main(["convert", str(PACK), str(dest), "--force"])
    error = capsys.readouterr().err
    assert (status, ("disk is full" in error)) == ((130, False) if failure == "interrupted" else (2, True))
    assert [path.name for path in tmp_path.iterdir()] == (["dest"] if existing else [])
    if existing:
        assert [path.name for path in dest.iterdir()] == ["old.txt"]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.EROFS, errno.ENAMETOOLONG, errno.EDQUOT])
@pytest.mark.parametrize("who", ["system", "safetensors", "codec", "folder"])
def test_a_write_error_is_one_line(tmp_path, capsys, monkeypatch, number, who):
    """Only a full disk had a clear error: others were reported as unexpected, or named a hidden folder."""
    dest = tmp_path / "dest"
    dest.mkdir()
    (dest / "old.txt").write_text("still here")

    def fail(*args, **kwargs):
        if who in ("safetensors", "codec"):
            raise RuntimeError(f"Error while serializing: I/O error: {os.strerror(number)} (os error {number})")
        raise OSError(number, os.strerror(number), str(tmp_path / ".dia-hf-new-dest" / "x"))

    where = {"codec": (DacModel, "save_pretrained"), "folder": (atomic_write, "follow_umask")}
    monkeypatch.setattr(*where.get(who, (shards_module, "save_file")), fail)
    source = REFERENCE / "descript-dac" / "weights.pth" if who == "codec" else PACK
    assert cli.main(["convert", str(source), str(dest), "--force"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "dia-hf: " in line]
    assert f"{os.strerror(number)}; {dest} was left as it was: '{dest}" in line and ".dia-hf" not in line
    assert [path.name for path in tmp_path.iterdir()] == ["dest"]
    assert [path.name for path in dest.iterdir()] == ["old.txt"]


def test_dry_run_writes_nothing(tmp_path, capsys):
    """`--dry-run` wrote files."""
    assert cli.main(["convert", str(PACK), str(tmp_path / "dest"), "--dry-run", "--dtype", "bfloat16"]) == 0
    out = capsys.readouterr().out
    assert "logits_dense.weight  [9252, 24]  <-  decoder.logits_dense.weight" in out
    assert "nari-0626 -> huggingface, bfloat16" in out
    assert "(dry run)" in out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "word"),
    [({"dtype": "int8"}, "int8"), ({"max_shard_size": "big"}, "'big'"), ({"to": "ggml"}, "'ggml'")],
)
def test_unknown_options(tmp_path, options, word):
    """A mistyped option was taken for the default."""
    with pytest.raises(ValueError, match=word):
        convert_checkpoint(PACK, tmp_path / "dest", **options)


@pytest.mark.parametrize(
    ("to", "option"),
    [("nari-0626", "codec"), ("nari-v0.1", "codec"), ("mlx", "codec"), ("onnx-codec", "adapter")],
)
def test_options_that_a_layout_has_no_place_for(tmp_path, to, option):
    """`--to mlx --codec dac.pth` and `--to onnx-codec --adapter run` ignored codec and adapter without a word."""
    with pytest.raises(ValueError, match=rf"`{option}` \(`--{option}`\).* leave it out"):
        convert_checkpoint(PACK, tmp_path / "dest", to=to, **{option: tmp_path})
    assert not list(tmp_path.iterdir())


def test_a_source_by_its_name_on_the_hub(tmp_path, monkeypatch):
    """Files that belong to no checkpoint were downloaded, or the card named a cache folder and not the repository."""
    snapshot = tmp_path / "models--nari-labs--Dia-1.6B-0626" / "snapshots" / ("0" * 40)
    shutil.copytree(PACK, snapshot, ignore=shutil.ignore_patterns("expected*", "inputs*"))
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("0" * 40)
    fetched = []

    def snapshot_download(name, allow_patterns):
        fetched.append((name, allow_patterns))
        return str(snapshot)

    monkeypatch.setattr(locate_module, "snapshot_download", snapshot_download)
    monkeypatch.setattr(locate_module, "check_model", lambda name: None)  # the Hub is not asked
    assert constants.HF_HUB_OFFLINE
    convert_checkpoint("nari-labs/Dia-1.6B-0626", tmp_path / "dest")
    assert fetched[0][0] == "nari-labs/Dia-1.6B-0626"
    assert "`nari-labs/Dia-1.6B-0626`" in (tmp_path / "dest" / "README.md").read_text("utf-8")


def test_the_card_of_a_source_without_a_name(tmp_path, monkeypatch):
    """`dia-hf convert . dest` wrote a card of a source without a name."""
    (tmp_path / "mine").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(PACK / name, tmp_path / "mine")
    monkeypatch.chdir(tmp_path / "mine")
    convert_checkpoint(".", tmp_path / "dest")
    assert "| source | `mine` |" in (tmp_path / "dest" / "README.md").read_text("utf-8")


@pytest.mark.parametrize("arguments", [("", "dest"), (str(PACK), ""), (str(PACK), "dest", "--codec", "")])
def test_empty_names(tmp_path, monkeypatch, capsys, arguments):
    """`convert model "$UNSET" --force` replaced the current folder, and an empty source or codec was read from it."""
    for name in ("config.json", "model.safetensors"):
        shutil.copy(PACK / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["convert", *arguments, "--force"]) == 2
    assert "is empty; give" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_own_tokenizer_and_codec_come_along(tmp_path):
    """A fine-tuned checkpoint's additional speaker tags were replaced by the defaults."""
    source = tmp_path / "source"
    shutil.copytree(MINIATURE, source)
    from dia_hf import DiaTokenizer

    DiaTokenizer(speaker_tokens=["[S1]", "[S2]", "[S3]"]).save_pretrained(source)
    convert_checkpoint(source, tmp_path / "dest")
    from dia_hf import DiaProcessor

    processor = DiaProcessor.from_pretrained(tmp_path / "dest")
    assert processor.tokenizer("[S3]")["input_ids"] == [3]
    assert processor.audio_tokenizer is not None


def test_tags_of_a_fine_tune(tmp_path):
    """A fine-tune's file knows the bytes of its languages, and the converted checkpoint read their tags as letters."""
    source, tags = REFERENCE / "nari-v0.1" / "dia-v0_1.pth", {"[nl]": 14, "[S3]": None}
    convert_checkpoint(source, tmp_path / "dest", codec=DESCRIPT, extra_tags=tags)
    from dia_hf import DiaProcessor

    assert DiaProcessor.from_pretrained(tmp_path / "dest").tokenizer("[nl] [S3]")["input_ids"] == [14, 32, 3]
    with pytest.raises(ValueError, match="`extra_tags` are for a tokenizer"):
        convert_checkpoint(MINIATURE, tmp_path / "nari", to="nari-0626", extra_tags=tags)


def test_sums_are_looked_at_once_per_file(tmp_path, monkeypatch):
    """Each conversion read its weights and its codec several times to compute checksums."""
    source = REFERENCE / "nari-v0.1" / "dia-v0_1.pth"
    checked = []
    original = zipfile.ZipFile.testzip
    monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda self: checked.append(self.filename) or original(self))
    convert_checkpoint(source, tmp_path / "dest", codec=DESCRIPT)
    assert sorted(checked) == sorted(map(str, (source, DESCRIPT)))
    checked.clear()
    convert_checkpoint(DESCRIPT, tmp_path / "dac")
    assert checked == [str(DESCRIPT)]
