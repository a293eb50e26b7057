"""Every code block of README and docs runs, offline, on the miniature."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch

from conftest import REFERENCE
from dia_hf import MINIATURE, DiaProcessor, cli
from dia_hf.audio.io import write_audio
from dia_hf.speech.voices import Voice

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
REAL = "nari-labs/Dia-1.6B-0626"


@pytest.fixture
def desk(tmp_path, monkeypatch, tone):
    """A folder to work in, with the recording and the checkpoints that the pages speak of."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIA_HF_VOICES", str(tmp_path / "my-voices"))
    write_audio("voice.wav", tone(0.5, 44100), 44100)
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
    torch.manual_seed(0)
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:the recording has")
def test_code_runs(page, desk):
    """A page whose example fails costs each reader an hour."""
    names: dict = {"__name__": "__main__"}
    for language, code in BLOCK.findall(page.read_text("utf-8")):
        code = code.replace(REAL, MINIATURE)
        if language == "python":
            exec(compile(code, page.name, "exec"), names)
        elif language == "console":
            for line in code.splitlines():
                run_line(line)
        else:
            assert language == "text", f"a block of {page.name} is in {language!r}, which nobody runs"


def run_line(line: str) -> None:
    """Run `dia-hf …`; for `make …`, which the pages' reader runs and .ci/run too, check that there is such a target."""
    words = shlex.split(line, comments=True)
    if words[0] == "dia-hf":
        assert cli.main(words[1:]) == 0, line
    else:
        assert words[0] == "make", line
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert f"make {words[1]}" in (ROOT / ".ci" / "run").read_text()


def test_the_readme_begins_with_the_two_commands():
    """A newcomer reads one screen."""
    screen = "\n".join((ROOT / "README.md").read_text("utf-8").splitlines()[:25])
    assert "make demo" in screen
    assert "make test" in screen


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    """A page that was renamed leaves dead links behind."""
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_tests_named_in_the_source_exist():
    """A comment that points to the test of a difference must not point nowhere."""
    for path in (ROOT / "src").rglob("*.py"):
        for file, test in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", path.read_text("utf-8")):
            assert f"def {test}(" in (ROOT / file).read_text("utf-8")
