"""Every code block of README and docs runs, offline, on the miniature."""

import functools
import re
import shlex
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from urllib.request import urlopen

import pytest
import torch

import dia_hf.evaluation
from conftest import REFERENCE
from dia_hf import MINIATURE, Dia, DiaForConditionalGeneration, DiaProcessor, cli
from dia_hf.audio.io import write_audio
from dia_hf.speech.voices import Voice
from dia_hf.training import DiaTrainer
from dia_hf_command.parser import make_parser
from other_formats import random_v0_1, write_mlx, write_tts_cpp
from tiny import random_codec

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
REAL = "nari-labs/Dia-1.6B-0626"
SERVER = "http://127.0.0.1:8000"

# Limits that keep the examples quick. The pages do not show them: a reader who copies an example gets complete
# audio and a complete training run.
SECONDS, DIALOGUE_SECONDS, FRAMES, STEPS = 1, 4, 60, 2
SHELL_LIMITS = {
    "generate": {"--max-seconds": DIALOGUE_SECONDS},
    "evaluate": {"--max-seconds": SECONDS},
    "batch": {"--max-seconds": SECONDS},
    "bench": {"--frames": 24, "--repeats": 1, "--threads": 1},
}


def limited(function, limits: tuple[str, ...], value: float):
    """Wrap `function` so that the last of `limits` is `value` where a call gives none of them."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        if all(kwargs.get(name) is None for name in limits):
            kwargs[limits[-1]] = value
        return function(*args, **kwargs)

    return call


@pytest.fixture
def short(monkeypatch):
    """Set the limits for the Python code of the pages."""
    in_seconds = ("max_tokens", "max_seconds")
    monkeypatch.setattr(Dia, "generate", limited(Dia.generate, in_seconds, SECONDS))
    monkeypatch.setattr(Dia, "stream", limited(Dia.stream, in_seconds, SECONDS))
    monkeypatch.setattr(Dia, "dialogue", limited(Dia.dialogue, in_seconds[1:], DIALOGUE_SECONDS))
    monkeypatch.setattr(dia_hf.evaluation, "evaluate", limited(dia_hf.evaluation.evaluate, in_seconds[1:], SECONDS))
    generate = DiaForConditionalGeneration.generate
    in_frames = ("max_length", "generation_config", "max_new_tokens")
    monkeypatch.setattr(DiaForConditionalGeneration, "generate", limited(generate, in_frames, FRAMES))
    train = DiaTrainer.train

    def train_shortly(self, *args, **kwargs):
        self.args.max_steps = STEPS
        return train(self, *args, **kwargs)

    monkeypatch.setattr(DiaTrainer, "train", train_shortly)


@pytest.fixture
def desk(tmp_path, monkeypatch, tone):
    """A working directory with the recording and the checkpoints that the pages use."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIA_HF_VOICES", str(tmp_path / "my-voices"))
    write_audio("voice.wav", tone(0.5, 44100), 44100)
    Path("cast").mkdir()
    shutil.copy("voice.wav", "cast/clara.wav")
    Path("cast/clara.txt").write_text("This is what I said.", "utf-8")
    Path("recordings").mkdir()
    table = ["file_name,text"]
    for number in range(6):
        write_audio(f"recordings/{number}.wav", tone(1 + 0.1 * number, 44100, pitch=150 + 20 * number), 44100)
        table.append(f"{number}.wav,This is recording number {number}.")
    Path("recordings/metadata.csv").write_text("\n".join(table), "utf-8")
    Path("script.txt").write_text("[S1] Hello. [S2] Hi!\n" * 30, "utf-8")
    processor = DiaProcessor.from_pretrained(MINIATURE)
    with pytest.warns(UserWarning, match="5 to 10 s"):
        Voice.from_audio("voice.wav", "This is what I said.", processor).save("voice.safetensors")
    for layout in ("nari-0626", "nari-v0.1"):
        shutil.copytree(REFERENCE / layout, layout, ignore=shutil.ignore_patterns("expected*"))
    Path("nari-0626").rename("dia-0626")
    shutil.copy(REFERENCE / "descript-dac" / "weights.pth", "dac.pth")
    for file in Path("nari-v0.1").iterdir():
        shutil.copy(file, file.name)
    config, tensors = random_v0_1()
    write_tts_cpp(Path("dia-q8_0.gguf"), config, tensors, "Q8_0", random_codec())
    write_mlx(Path("dia-4bit"), config, tensors, 4, 64, "affine", "bfloat16")
    torch.manual_seed(0)
    return tmp_path


@pytest.fixture
def server(tmp_path):
    """The URL of a server with the miniature, for pages whose Python code is a client."""
    pytest.importorskip("fastapi", reason='needs the extra "serve"')
    from dia_hf.serving import Server, ServerStatus, create_app
    from dia_hf.serving.voices import ServedVoices
    from dia_hf.speech.engine import SpeechEngine

    dia, status = Dia.from_pretrained(), ServerStatus()
    with SpeechEngine(dia) as engine:
        app = create_app(engine, ServedVoices(dia, tmp_path / "served-voices"), status=status)
        server = Server(app, engine, status, port=0)
        thread = threading.Thread(target=server.run)
        thread.start()
        yield f"http://127.0.0.1:{server.port}"
        server.stop()
        thread.join()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:the recording has")
def test_code_runs(page, desk, short, request):
    """An example on a page failed."""
    names: dict = {"__name__": "__main__"}
    for language, code in BLOCK.findall(page.read_text("utf-8")):
        code = code.replace(REAL, MINIATURE)
        if language == "python" and SERVER in code:
            code = code.replace(SERVER, request.getfixturevalue("server"))
        if language == "python":
            exec(compile(code, page.name, "exec"), names)
        elif language == "console":
            for line in code.splitlines():
                run_line(line)
        else:
            assert language == "text", f"a block of {page.name} is in {language!r}, which nobody runs"


def run_line(line: str) -> None:
    """Run `dia-hf …`; for `make …`, which .ci/run runs too, check that there is such a target."""
    words = shlex.split(line, comments=True)
    if words[0] == "dia-hf" and words[1] in ("serve", "ui", "wyoming"):
        make_parser().parse_args(words[1:])  # it would run until a signal; tests/serving run it
    elif words[0] == "dia-hf":
        generates = not {"--audio", "--compare"} & set(words)  # which judge what there is, and refuse a limit
        for option, value in SHELL_LIMITS.get(words[1], {}).items() if generates else ():
            words += [] if option in words else [option, str(value)]
        assert cli.main(words[1:]) == 0, line
    elif words[0] in ("git", "pip", "cd"):
        pass  # needs the repository's address or a package index: .ci/run installs from a clone
    else:
        assert words[0] == "make", line
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert f"make {words[1]}" in (ROOT / ".ci" / "run").read_text()


def test_the_readme_begins_with_the_two_commands():
    """The first lines of the README did not contain `make demo` and `make test`."""
    screen = "\n".join((ROOT / "README.md").read_text("utf-8").splitlines()[:25])
    assert "make demo" in screen
    assert "make test" in screen


def test_the_page_on_serving_is_complete(server):
    """A field, an option or a metric of the server was renamed or added, and the page did not say so."""
    from dia_hf.serving.requests import SpeechBody

    page = (ROOT / "docs" / "serving.md").read_text("utf-8")
    sections = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE))
    rows = re.findall(r"^\| (`.*?) \|", sections["Fields of a request"], re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", "".join(rows))) == sorted(SpeechBody.model_fields)
    helped = subprocess.run([sys.executable, "-m", "dia_hf_command", "serve", "--help"], capture_output=True, text=True)
    options = set(re.findall(r"^  (--[\w-]+)", helped.stdout, re.MULTILINE))
    assert options <= set(re.findall(r"(--[\w-]+)", page.partition("## ")[0]))
    metrics = urlopen(f"{server}/metrics").read().decode()
    known = re.findall(r"^# HELP (\w+)(?<!_created) ", metrics, re.MULTILINE)
    assert set(re.findall(r"`(dia_\w+)`", sections["Health and metrics"])) == set(known)


def test_the_page_on_tables_is_complete():
    """A column or a field of the manifest was renamed or added, and the page did not say so."""
    from dia_hf.batch.rows import FIELDS
    from dia_hf.batch.speak import Entry

    page = (ROOT / "docs" / "batch.md").read_text("utf-8")
    sections = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE))
    rows = re.findall(r"^\| (`.*?) \|", sections["Tables"], re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", "".join(rows))) == sorted(FIELDS)
    manifest = re.search(r"^A line of the manifest has .*?\n\n", page, re.DOTALL | re.MULTILINE)
    assert set(Entry.__annotations__) <= set(re.findall(r"`(\w+)`", manifest[0]))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    """A renamed page left broken links."""
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_every_file_is_on_the_architecture_page():
    """A new file was missing on the architecture page."""
    source = ROOT / "src" / "dia_hf"
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    tree = (ROOT / "README.md").read_text("utf-8")
    rooms = dict(re.findall(r"^\| `([\w/.]+)` \| (.*) \|$", page, re.MULTILINE))
    for path in sorted(source.rglob("*.py")):
        room, *names = path.relative_to(source).parts
        if path.name.startswith("__"):
            continue
        room += "/" if names else ""
        assert room in rooms, f"docs/architecture.md has no row for {room}"
        assert re.search(rf"^  {re.escape(room)} ", tree, re.MULTILINE), f"README's file tree has no line for {room}"
        if names and room != "cli/":  # the files of `cli/` are the commands
            assert f"`{path.name}`" in rooms[room], f"docs/architecture.md does not name {room}{path.name}"


def test_tests_named_in_the_source_exist():
    """A comment named a test that does not exist."""
    for path in (ROOT / "src").rglob("*.py"):
        for file, test in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", path.read_text("utf-8")):
            assert f"def {test}(" in (ROOT / file).read_text("utf-8")
