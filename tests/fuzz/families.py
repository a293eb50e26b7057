"""Families of hostile inputs: an undamaged input, and how each case damages a copy of it."""

import contextlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import numpy as np
import soundfile as sf
import torch

from conftest import REFERENCE
from dia_hf import MINIATURE, Dia, DiaForConditionalGeneration, DiaProcessor
from dia_hf.conversion import load_checkpoint
from dia_hf.speech.voices import Voice, VoiceLibrary
from dia_hf.training import DiaTrainer, attach_lora
from dia_hf.training.finetune import finetune
from fuzz.damage import (
    ODD_TEXTS,
    ODD_VALUES,
    copy_fresh,
    damage_bytes,
    damage_file,
    damage_folder,
    damage_json,
    damage_text,
)
from fuzz.harness import Case
from other_formats import random_v0_1, write_crispasr, write_crispasr_codec, write_mlx, write_nari, write_tts_cpp
from tiny import random_codec, write_random_checkpoint
from training.clips import quick_recipe, write_prepared

FORMATS = ["wav", "flac", "ogg", "mp3", "aiff", "au"]
QUICK = ["--max-seconds", "0.1", "--seed", "1", "--device", "cpu"]
SCRIPT = "[S1] Hello, I am Dia. [S2] Welcome, Dia. (laughs) [S1] Where is the red house? [S2] It is here."


@dataclass(frozen=True)
class Family:
    """Attributes: `make(folder)` writes the undamaged input, once; `draw(draw, whole, folder)` makes a case of it."""

    make: Callable[[Path], object]
    draw: Callable[[Random, Path, Path], Case]


def _sound(seconds: float = 4.0, rate: int = 16000) -> np.ndarray:
    time = np.arange(int(seconds * rate)) / rate
    return (0.2 * np.sin(2 * np.pi * 200 * time) * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * time))).astype(np.float32)


def _make_checkpoint(folder: Path) -> None:
    write_random_checkpoint(folder / "model")


def _text(draw: Random) -> str:
    return draw.choice(ODD_TEXTS) if draw.random() < 0.2 else damage_text(draw, SCRIPT)


def _texts(draw: Random, whole: Path, folder: Path) -> Case:
    """Hostile texts, as an argument, from a file and from standard input."""
    argv = ["generate", "--model", str(whole / "model"), "-o", "out.wav", *QUICK]
    if draw.random() < 0.2:
        argv += ["--closing-tag"]
    if draw.random() < 0.1:
        argv += ["--language", draw.choice(["de", "xx", "", "zh"])]
    where, outputs = draw.choice(["argument", "file", "stdin"]), ("out.wav",)
    text = _text(draw)
    content = text.encode("utf-8", "surrogatepass")
    if draw.random() < 0.3:
        content = draw.choice([text.encode("utf-16"), text.encode("cp1252", "replace"), damage_bytes(draw, content)])
    if where == "argument":
        return Case([*argv, "--", text.replace("\0", "")], outputs=outputs)
    if where == "file":
        (folder / "text.txt").write_bytes(content)
        return Case([*argv, "--text-file", "text.txt"], outputs=outputs)
    return Case([*argv, "-"], stdin=None if draw.random() < 0.1 else content, outputs=outputs)


def _make_recordings(folder: Path) -> None:
    _make_checkpoint(folder)
    for suffix in FORMATS:
        sf.write(folder / f"clip.{suffix}", _sound(), 16000)
    sf.write(folder / "float.wav", _sound(), 16000, subtype="FLOAT")
    sf.write(folder / "stereo.flac", np.stack([_sound(), _sound()], axis=1), 16000)


def _recordings(draw: Random, whole: Path, folder: Path) -> Case:
    """Damaged recordings, as prompts, as voices and as training data."""
    clip = draw.choice(sorted(path for path in whole.iterdir() if path.is_file()))
    clip = copy_fresh(clip, folder / "in" / (clip.name if draw.random() < 0.8 else "clip.wav"))
    if draw.random() < 0.15:
        samples = draw.choice([_sound() * 1e9, _sound() * np.nan, np.zeros(16000), _sound(0.001), np.ones(16000)])
        sf.write(folder / "in" / "clip.wav", samples, draw.choice([1, 100, 16000, 10**6]), subtype="FLOAT")
        clip = folder / "in" / "clip.wav"
    else:
        damage_file(draw, clip)
    name = f"in/{clip.name}"
    model = ["--model", str(whole / "model")]
    kind = draw.randrange(3)
    if kind == 0:
        return Case(["voices", "add", "anna", name, "--transcript", "Hello there.", *model], outputs=("voices",))
    if kind == 1:
        prompt = ["--audio-prompt", name, "--prompt-text", "[S1] Hello there."]
        return Case(["generate", "[S1] Hi.", "-o", "out.wav", *QUICK, *model, *prompt], outputs=("out.wav",))
    (folder / "in" / "metadata.csv").write_text(f"file_name,text\n{clip.name},Hello there.\n")
    return Case(["prepare", "in", "out", *model], outputs=("out",))


def _make_checkpoints(folder: Path) -> None:
    _make_checkpoint(folder)
    model = DiaForConditionalGeneration.from_pretrained(folder / "model")
    shutil.copytree(folder / "model", folder / "sharded")
    (folder / "sharded" / "model.safetensors").unlink()
    model.save_pretrained(folder / "sharded", max_shard_size="200KB")
    for name in ("nari-v0.1", "nari-0626"):
        shutil.copytree(REFERENCE / name, folder / name)
    for file in folder.rglob("expected.safetensors"):
        file.unlink()
    shutil.copytree(REFERENCE / "descript-dac", folder / "nari-0626" / "codec")
    sf.write(folder / "clip.wav", _sound(), 16000)


def _checkpoints(draw: Random, whole: Path, folder: Path) -> Case:
    """Damaged checkpoints of every layout, to generate from and to convert."""
    name = draw.choice(["model", "model", "sharded", "nari-v0.1", "nari-0626"])
    copy_fresh(whole / name, folder / "in")
    damage_folder(draw, folder / "in")
    codec = ["--codec", "in/codec/weights.pth"] if name == "nari-0626" and draw.random() < 0.7 else []
    if name.startswith("nari") or draw.random() < 0.3:
        to = ["--to", draw.choice(["huggingface", "nari-0626"])]
        dry = ["--dry-run"] if draw.random() < 0.2 else []
        return Case(["convert", "in", "out", *codec, *to, *dry], outputs=("out",))
    if draw.random() < 0.1:
        return Case(
            ["voices", "add", "anna", str(whole / "clip.wav"), "--transcript", "x", "--model", "in"],
            outputs=("voices",),
        )
    return Case(["generate", "[S1] Hi.", "-o", "out.wav", *QUICK, "--model", "in"], outputs=("out.wav",))


def _make_formats(folder: Path) -> None:
    config, tensors = random_v0_1()
    for name in ("tts.cpp", "crispasr"):
        (folder / name).mkdir()
    write_tts_cpp(folder / "tts.cpp" / "dia.gguf", config, tensors, "Q8_0", random_codec())
    write_crispasr(folder / "crispasr" / "dia.gguf", config, tensors)
    write_crispasr_codec(folder / "crispasr" / "dac-44khz.gguf", random_codec())
    write_mlx(folder / "mlx", config, tensors, 4, 64, "affine", "float32")
    write_nari(folder / "fine-tune", config, {f"_orig_mod.{name}": tensor for name, tensor in tensors.items()})
    model, _ = load_checkpoint(folder / "fine-tune")
    attach_lora(model, {"r": 2}).save_pretrained(folder / "adapter")


def _formats(draw: Random, whole: Path, folder: Path) -> Case:
    """Damaged files of other software, to generate from and to convert."""
    name = draw.choice(["tts.cpp", "crispasr", "mlx", "fine-tune", "adapter"])
    copy_fresh(whole / name, folder / "in")
    damage_folder(draw, folder / "in")
    dry = ["--dry-run"] if draw.random() < 0.2 else []
    if name == "adapter":
        return Case(["convert", str(whole / "fine-tune"), "out", "--adapter", "in", *dry], outputs=("out",))
    if name == "crispasr" and draw.random() < 0.3:
        return Case(["convert", "in/dac-44khz.gguf", "out", *dry], outputs=("out",))
    if name in ("mlx", "fine-tune") or draw.random() < 0.5:
        return Case(["convert", "in", "out", *dry], outputs=("out",))
    return Case(["generate", "[S1] Hi.", "-o", "out.wav", *QUICK, "--model", "in"], outputs=("out.wav",))


def _make_voices(folder: Path) -> None:
    _make_recordings(folder)
    processor = DiaProcessor.from_pretrained(folder / "model")
    voice = Voice.from_audio(_sound(), "This is what it says.", processor, sampling_rate=16000)
    VoiceLibrary(folder / "voices").add("anna", voice)


def _voices(draw: Random, whole: Path, folder: Path) -> Case:
    """Damaged voices, and hostile names."""
    shutil.copytree(whole / "voices", folder / "voices")
    if draw.random() < 0.75:
        damage_file(draw, folder / "voices" / "anna.safetensors")
    hostile = damage_text(draw, "anna").replace("\0", "")[:200]
    name = draw.choice(["anna", "voices/anna.safetensors", hostile, draw.choice(ODD_TEXTS).replace("\0", "")])
    kind = draw.randrange(5)
    if kind == 0:
        return Case(["voices", "list"])
    if kind == 1:
        return Case(["voices", "remove", "--", name], outputs=("voices",))
    if kind == 2:
        clip = [str(whole / "clip.wav"), "--transcript", _text(draw).replace("\0", "").lstrip("-")]
        return Case(["voices", "add", *clip, "--model", str(whole / "model"), "--", name], outputs=("voices",))
    voice = f"--voice={draw.choice(['', 'S1=', '[S2]=', 'S1=S1='])}{name}"
    model = ["--model", str(whole / "model")]
    return Case(["generate", "[S1] Hi.", "-o", "out.wav", *QUICK, *model, voice], outputs=("out.wav",))


def _make_dialogues(folder: Path) -> None:
    _make_checkpoint(folder)
    dia = Dia.from_pretrained(folder / "model", device="cpu")
    dialogue = dia.dialogue(
        SCRIPT, chunk_length_s=(0.1, 2.0), folder=folder / "out.wav.chunks", seed=1, max_seconds=0.6
    )
    for _ in dialogue.stream():
        pass


def _dialogues(draw: Random, whole: Path, folder: Path) -> Case:
    """Damaged folders of saved chunks."""
    kept = copy_fresh(whole / "out.wav.chunks", folder / "out.wav.chunks")
    damage_folder(draw, kept)
    if draw.random() < 0.1:
        (kept / draw.choice(["notes.txt", "chunk-99999.safetensors", "chunk-00001.safetensors.bak"])).write_text("mine")
    seconds = draw.choice(["0.6", "0.6", "1"])

    def call() -> None:
        dia = Dia.from_pretrained(whole / "model", device="cpu")
        dialogue = dia.dialogue(
            SCRIPT if draw.random() < 0.9 else _text(draw),
            chunk_length_s=(0.1, 2.0),
            folder="out.wav.chunks",
            seed=draw.choice([None, 1, 2]),
            max_seconds=float(seconds),
        )
        dialogue.generate()

    if draw.random() < 0.6:
        return Case(call=call, outputs=("out.wav.chunks",))
    argv = ["generate", SCRIPT, "-o", "out.wav", "--model", str(whole / "model"), "--seed", "1", "--device", "cpu"]
    return Case([*argv, "--max-seconds", seconds], outputs=("out.wav", "out.wav.chunks"))


_OPTIONS = {
    "generate": "--text-file --output --model --codec --adapter --seed --device --dtype --quantize --max-seconds "
    "--voice --audio-prompt --prompt-text --transcribe --language --closing-tag --loudness --peak --speed "
    "--trim-silence --cfg-scale --cfg-filter-top-k --temperature --top-p",
    "convert": "--codec --adapter --dtype --max-shard-size --to --force --dry-run",
    "voices": "--transcript --transcribe --model --force",
    "prepare": "--model --split --config --num-proc --device --audio-column --speaker-tag --extra-tag --loudness "
    "--no-loudness --no-trim --min-seconds --max-seconds --characters-per-second --session-column --audio-root --tier "
    "--join-turns --no-join-turns --dialogue-seconds --max-pause --max-overlap --turn-gap",
    "finetune": "--recipe --model --set --resume --show",
    "evaluate": "--model --sentences --asr --vocabulary --output --keep --batch-size --max-seconds --seed --dtype",
}
_VALUES = [
    "--",
    "-",
    ".",
    "..",
    "/",
    "0",
    "1",
    "-1",
    "0.1",
    "1e99",
    "1e-99",
    "1e400",
    "nan",
    "inf",
    "3.5",
    "int8",
    "float16",
    "cpu",
    "cuda:99",
    "warp",
    "wav",
    "x=",
    "=x",
    "S1=",
    "a=b=c",
    "x.wav",
]


def _arguments(draw: Random, whole: Path, folder: Path) -> Case:
    """Options of every verb with values of every kind."""
    verb = draw.choice(list(_OPTIONS))
    (folder / "x.wav").write_bytes(b"RIFF")
    argv = [verb]
    if verb == "generate":
        argv += ["[S1] Hi.", "-o", "out.wav", *QUICK, "--model", str(whole / "model")]
    elif verb == "voices":
        argv += draw.choice([["add", "anna", str(whole / "clip.wav")], ["list"], ["remove", "anna"], []])
    elif verb == "convert":
        argv += [str(whole / "model"), "out"]
    elif verb in ("prepare", "finetune"):
        argv += ["in", "out"]
    for option in draw.choices(_OPTIONS[verb].split(), k=draw.choice([0, 1, 1, 2, 3])):
        value = draw.choice([*_VALUES, *(text for text in ODD_TEXTS if "\0" not in text), str(draw.choice(ODD_VALUES))])
        value = value.replace("\0", "")
        argv += draw.choice([[option], [f"{option}={value}"], [option, value]])
    if draw.random() < 0.1:
        del argv[draw.randrange(len(argv))]
    return Case(argv, outputs=("out", "out.wav", "voices"))


def _make_tables(folder: Path) -> None:
    _make_checkpoint(folder)
    (folder / "in").mkdir()
    for number in range(3):
        sf.write(folder / "in" / f"{number}.wav", _sound(1.2), 16000)
    rows = [{"audio": f"{n}.wav", "text": f"[S1] Hello {n}.", "speaker": "anna", "begin": 0.0} for n in range(3)]
    (folder / "in" / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "in" / "a.json").write_text(json.dumps(rows))
    lines = [("audio", "text", "speaker"), *((row["audio"], row["text"], row["speaker"]) for row in rows)]
    (folder / "in" / "a.csv").write_text("\n".join(map(",".join, lines)))
    (folder / "in" / "a.tsv").write_text("\n".join(map("\t".join, lines)))
    import datasets

    datasets.Dataset.from_list(rows).to_parquet(str(folder / "in" / "a.parquet"))


def _tables(draw: Random, whole: Path, folder: Path) -> Case:
    """Damaged tables of recordings."""
    copy_fresh(whole / "in", folder / "in")
    table = draw.choice(sorted(path for path in (folder / "in").iterdir() if path.name.startswith("a.")))
    damage_file(draw, table)
    argv = ["prepare", f"in/{table.name}", "out", "--model", str(whole / "model")]
    if draw.random() < 0.2:
        argv += [
            draw.choice(["--text-column", "--audio-column", "--id-column"]),
            draw.choice(["text", "begin", "", "x"]),
        ]
    return Case(argv, outputs=("out",))


_TALK = [{"start": 0.1, "end": 0.9, "text": "Hello there.", "speaker": "anna"}]
_TALK.append({"start": 1.0, "end": 2.0, "text": "And hello to you.", "speaker": "ben"})
_SUBTITLES = "1\n00:00:00,100 --> 00:00:00,900\nHello there.\n\n2\n00:00:01,000 --> 00:00:02,000\n<i>And</i> hello.\n"
_TEXTGRID = 'File type = "ooTextFile"\nObject class = "TextGrid"\n\n0\n2.2\n<exists>\n2\n' + "".join(
    f'"IntervalTier"\n"{name}"\n0\n2.2\n2\n0\n1\n"{first}"\n1\n2.2\n"{second}"\n'
    for name, first, second in (("anna", "Hello there.", ""), ("ben", "", "And hello to you."))
)
_LAYOUTS: dict[str, dict[str, str]] = {
    "srt": {"0.srt": _SUBTITLES, "0.rttm": "SPEAKER 0 1 0.0 2.2 <NA> <NA> anna <NA> <NA>\n"},
    "vtt": {"0.vtt": "WEBVTT\n\n" + _SUBTITLES.replace(",", ".").replace("<i>And</i>", "<v Ben>And</v>")},
    "textgrid": {"0.TextGrid": _TEXTGRID},
    "whisperx": {"0.json": json.dumps({"segments": _TALK})},
    "turns": {"metadata.jsonl": json.dumps({"path": "0.wav", "turns": _TALK}) + "\n"},
    "common voice": {"train.tsv": "client_id\tpath\tsentence\na\t0.wav\tHello there.\n", "clips/1.txt": ""},
    "esd": {"0011/0011.txt": "0011_1\tHello there.\tSad\n"},
    "libritts": {"0.normalized.txt": "Hello there."},
    "librispeech": {"0.trans.txt": "0 HELLO THERE\n"},
    "kaldi": {"wav.scp": "0 0.wav\n", "text": "a HELLO THERE\n", "segments": "a 0 0.1 1.9\n", "utt2spk": "a x\n"},
}


def _make_layouts(folder: Path) -> None:
    _make_checkpoint(folder)
    for name, files in _LAYOUTS.items():
        for path, content in files.items():
            (folder / name / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / name / path).write_text(content, "utf-8")
        sf.write(folder / name / "0.wav", _sound(2.2), 16000)


def _layouts(draw: Random, whole: Path, folder: Path) -> Case:
    """Damaged annotations and lists of corpora."""
    name = draw.choice(sorted(_LAYOUTS))
    source = copy_fresh(whole / name, folder / "in")
    damage_file(draw, source / draw.choice(sorted(_LAYOUTS[name])))
    argv = ["prepare", "in", "out", "--model", str(whole / "model"), "--join-turns"]
    return Case(argv, outputs=("out",))


def _make_training(folder: Path) -> None:
    write_prepared(folder / "data", num_clips=4)
    step = DiaTrainer.training_step

    def interrupted(self: DiaTrainer, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 3:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    recipe = quick_recipe(str(folder / "data"), folder / "run", {"max_steps": 4, "save_steps": 1})
    with mock.patch.object(DiaTrainer, "training_step", interrupted), contextlib.suppress(KeyboardInterrupt):
        finetune(recipe, say=lambda line: None)


_RECIPE = {
    "model": MINIATURE,
    "eval_fraction": 0.3,
    "text_dropout": 0.1,
    "lora": {"r": 2, "lora_alpha": 4},
    "training": {
        "max_steps": 1,
        "learning_rate": 1e-4,
        "per_device_train_batch_size": 1,
        "report_to": "none",
        "use_cpu": True,
        "eval_strategy": "no",
        "save_strategy": "no",
    },
}


def _recipes(draw: Random, whole: Path, folder: Path) -> Case:
    """Damaged recipes, and hostile `--set`."""
    import yaml

    content = json.dumps(_RECIPE).encode()
    if draw.random() < 0.5:
        content = damage_json(draw, content)
    else:
        text = yaml.safe_dump(_RECIPE)
        content = damage_text(draw, text).encode("utf-8", "surrogatepass")
    (folder / "recipe.yaml").write_bytes(content)
    argv = ["finetune", str(whole / "data"), "out", "--recipe", "recipe.yaml"]
    if draw.random() < 0.3:
        key = draw.choice(
            ["training.max_steps", "lora.r", "lora", "training", "model", "x", "", "eval_fraction", "seed"]
        )
        argv += ["--set", f"{key}={str(draw.choice(ODD_VALUES))[:300]}".replace("\0", "")]
    return Case(argv, outputs=("out",))


def _prepared(draw: Random, whole: Path, folder: Path) -> Case:
    """Damaged folders of prepared data."""
    copy_fresh(whole / "data", folder / "data")
    damage_folder(draw, folder / "data")
    (folder / "recipe.yaml").write_text(json.dumps(_RECIPE))
    return Case(["finetune", "data", "out", "--recipe", "recipe.yaml"], outputs=("out",))


def _runs(draw: Random, whole: Path, folder: Path) -> Case:
    """Damaged folders of runs that are resumed."""
    copy_fresh(whole / "run", folder / "run")
    damage_folder(draw, folder / "run" if draw.random() < 0.4 else folder / "run" / "checkpoint-3")
    return Case(["finetune", str(whole / "data"), "run", "--resume"], outputs=("run",))


def _odd(draw: Random) -> object:
    return draw.choice(
        [
            *ODD_VALUES,
            *(np.zeros(0), np.zeros((2, 0, 3)), np.ones(10, dtype=complex), np.array(["x"]), np.full(100, np.nan)),
            *(torch.zeros(()), torch.zeros(2, 3, 4, 5), torch.full((3, 9), 5000), torch.zeros(2, 3, dtype=torch.bool)),
            *(object(), b"\0" * 10, (16000, np.zeros(4)), {"array": None, "sampling_rate": 1}, {"path": "x"}, range(3)),
            *(["[S1] a", None], ["[S1] a", "[S2] b"], [_sound(0.1), None], torch.zeros(1, 9, dtype=torch.long)),
        ]
    )


def _python(draw: Random, whole: Path, folder: Path) -> Case:
    """Hostile calls from Python."""

    def call() -> None:
        processor = DiaProcessor.from_pretrained(whole / "model")
        kind = draw.randrange(6)
        if kind == 0:
            names = ["audio", "sampling_rate", "padding", "truncation", "max_length", "generation", "output_labels"]
            processor(draw.choice(["[S1] Hi.", _odd(draw)]), **{draw.choice(names): _odd(draw)})
        elif kind == 1:
            processor.batch_decode(_odd(draw), **draw.choice([{}, {"audio_prompt_len": _odd(draw)}]))
        elif kind == 2:
            processor.feature_extractor(_odd(draw), sampling_rate=draw.choice([44100, None, _odd(draw)]))
        elif kind == 3:
            processor.tokenizer(draw.choice([_odd(draw), "[S1] Hi."]), **draw.choice([{}, {"max_length": _odd(draw)}]))
        elif kind == 4:
            model = DiaForConditionalGeneration.from_pretrained(whole / "model")
            inputs = processor("[S1] Hi.")
            name = draw.choice(
                [
                    "input_ids",
                    "attention_mask",
                    "decoder_input_ids",
                    "decoder_attention_mask",
                    "guidance_scale",
                    "temperature",
                    "top_p",
                    "top_k",
                    "max_new_tokens",
                    "max_length",
                    "do_sample",
                    "num_return_sequences",
                    "num_beams",
                    "seed",
                    "streamer",
                ]
            )
            model.generate(**{"max_new_tokens": 3, **inputs, name: _odd(draw)})
        else:
            dia = Dia.from_pretrained(whole / "model", device="cpu")
            names = [
                "text",
                "audio_prompt",
                "seed",
                "max_seconds",
                "max_tokens",
                "cfg_scale",
                "temperature",
                "top_p",
                "cfg_filter_top_k",
            ]
            dia.generate(**{"text": "[S1] Hi.", "max_seconds": 0.1, draw.choice(names): _odd(draw)})

    return Case(call=call)


FAMILIES = {
    "texts": Family(_make_checkpoint, _texts),
    "recordings": Family(_make_recordings, _recordings),
    "checkpoints": Family(_make_checkpoints, _checkpoints),
    "formats": Family(_make_formats, _formats),
    "voices": Family(_make_voices, _voices),
    "dialogues": Family(_make_dialogues, _dialogues),
    "arguments": Family(_make_recordings, _arguments),
    "tables": Family(_make_tables, _tables),
    "layouts": Family(_make_layouts, _layouts),
    "recipes": Family(_make_training, _recipes),
    "prepared": Family(_make_training, _prepared),
    "runs": Family(_make_training, _runs),
    "python": Family(_make_recordings, _python),
}
