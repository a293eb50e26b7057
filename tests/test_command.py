"""`dia_hf_command`, before anything heavy is there."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import dia_hf_command

HOME = Path(__file__).parent.parent


def start(tmp_path, before: str) -> subprocess.CompletedProcess:
    """Run the command with another `dia_hf`, so that no test waits for PyTorch."""
    package = tmp_path / "dia_hf" / "cli"
    package.mkdir(parents=True)
    interrupt = "import os, signal; os.kill(os.getpid(), signal.SIGINT)\n"
    (package.parent / "__init__.py").write_text(f"try:\n    {interrupt}except BaseException:\n    pass\n")
    (package / "__init__.py").write_text("def main():\n    print('begun')\n    return 3\n")
    source = str(Path(dia_hf_command.__file__).parent.parent)
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {source!r}]; {before}\n"
    code += "from dia_hf_command import main; sys.exit(main())"
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=False, env=buffered)


def test_interrupted_while_it_imports(tmp_path):
    """Ctrl-C in the first seconds printed forty lines of stack, or was swallowed by a library half imported."""
    done = start(tmp_path, "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)")
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "dia-hf: interrupted; nothing was written.\n"


def test_an_ignored_interrupt_stays_ignored(tmp_path):
    """What runs behind `nohup` or `&` in a script must not be ended by the Ctrl-C that is for another."""
    done = start(tmp_path, "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)")
    assert (done.returncode, done.stdout, done.stderr) == (3, "begun\n", "")


def test_interrupts_are_the_verbs_afterwards(monkeypatch):
    """A verb that is interrupted tells what is kept, which nobody hears who has left at once."""
    seen = []

    def main():
        seen.append(signal.getsignal(signal.SIGINT))
        return 0

    monkeypatch.setattr("dia_hf.cli.main", main)
    before = signal.getsignal(signal.SIGINT)
    try:
        assert dia_hf_command.main() == 0
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [before]


@pytest.mark.parametrize(
    ("before", "status", "told"),
    [
        ("sys.stdout = None", 3, ""),  # as Python has it where a shell closed it: dia-hf ... >&-
        ("import os; r, w = os.pipe(); os.close(r); os.dup2(w, 1)", 3, "Broken pipe"),
        ("import os; os.dup2(os.open('/dev/full', os.O_WRONLY), 1)", 3, "No space left on device"),
    ],
)
def test_nobody_reads_what_is_printed(tmp_path, before, status, told):
    """What was printed last ended in a traceback where standard output was closed, full, or not read to its end."""
    done = start(tmp_path, f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); {before}")
    assert done.returncode == status
    assert done.stderr == (f"dia-hf: error: standard output: {told}\n" if told else "")


def test_the_entry_point_is_light():
    """An entry point inside `dia_hf` imports all of PyTorch before it can hear anything."""
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has none")
    project = tomllib.loads((HOME / "pyproject.toml").read_text("utf-8"))
    assert project["project"]["scripts"]["dia-hf"] == "dia_hf_command:main"
    assert "src/dia_hf_command" in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
