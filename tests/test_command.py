"""`dia_hf_command`: arguments and imports, before the work."""

import ast
import os
import signal
import subprocess
import sys
import textwrap
from importlib.metadata import version
from pathlib import Path

import pytest

import dia_hf
import dia_hf_command
from dia_hf_command.imports import needs_all_packages
from dia_hf_command.options import MINIATURE
from dia_hf_command.parser import make_parser

HOME = Path(__file__).parent.parent
SOURCE = Path(dia_hf_command.__file__).parent
VERBS = [
    "generate",
    "voices",
    "align",
    "batch",
    "serve",
    "ui",
    "prepare",
    "finetune",
    "evaluate",
    "convert",
    "heads",
    "bench",
]


def start(tmp_path, before: str) -> subprocess.CompletedProcess:
    """Run the command with another `dia_hf`, so that no test waits for PyTorch."""
    package = tmp_path / "dia_hf" / "cli"
    package.mkdir(parents=True)
    interrupt = "import os, signal; os.kill(os.getpid(), signal.SIGINT)\n"
    (package.parent / "__init__.py").write_text(f"try:\n    {interrupt}except BaseException:\n    pass\n")
    (package / "__init__.py").write_text("def run(args):\n    print('begun')\n    return 3\n")
    source = str(Path(dia_hf_command.__file__).parent.parent)
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {source!r}]; {before}\n"
    code += "from dia_hf_command import main; sys.exit(main(['bench']))"
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=False, env=buffered)


def test_interrupted_while_it_imports(tmp_path):
    """Ctrl-C in the first seconds printed forty lines of traceback, or was swallowed by a half-imported library."""
    done = start(tmp_path, "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)")
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "dia-hf: interrupted; nothing was written.\n"


def test_an_ignored_interrupt_stays_ignored(tmp_path):
    """A command behind `nohup` or `&` in a script was ended by a Ctrl-C for another process."""
    done = start(tmp_path, "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)")
    assert (done.returncode, done.stdout, done.stderr) == (3, "begun\n", "")


def test_interrupts_are_the_verbs_afterwards(monkeypatch):
    """The early handler stayed active: an interrupted verb ended at once, without reporting the kept files."""
    seen = []

    def run(args):
        seen.append(signal.getsignal(signal.SIGINT))
        return 0

    monkeypatch.setattr("dia_hf.cli.run", run)
    before = signal.getsignal(signal.SIGINT)
    try:
        assert dia_hf_command.main(["bench"]) == 0
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [before]


def test_interrupted_outside_of_the_verb(monkeypatch, capsys):
    """Ctrl-C just after a file was written printed a traceback, and ended the process by the signal."""

    def run(args):
        raise KeyboardInterrupt

    monkeypatch.setattr("dia_hf.cli.run", run)
    before = signal.getsignal(signal.SIGINT)
    try:
        assert dia_hf_command.main(["bench"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "dia-hf: interrupted; no file is half-written.\n"


@pytest.mark.parametrize(
    ("before", "status", "told"),
    [
        ("sys.stdout = None", 3, ""),  # as in Python after a shell closed it: dia-hf ... >&-
        ("import os; r, w = os.pipe(); os.close(r); os.dup2(w, 1)", 3, "Broken pipe"),
        ("import os; os.dup2(os.open('/dev/full', os.O_WRONLY), 1)", 3, "No space left on device"),
    ],
)
def test_nobody_reads_what_is_printed(tmp_path, before, status, told):
    """The last output caused a traceback where standard output was closed, full, or not read to its end."""
    done = start(tmp_path, f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); {before}")
    assert done.returncode == status
    assert done.stderr == (f"dia-hf: error: standard output: {told}\n" if told else "")


def test_the_entry_point_is_light():
    """An entry point inside `dia_hf` imports all of PyTorch before it can handle a signal."""
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has none")
    project = tomllib.loads((HOME / "pyproject.toml").read_text("utf-8"))
    assert project["project"]["scripts"]["dia-hf"] == "dia_hf_command:main"
    assert "src/dia_hf_command" in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]


def python(program: str, *args: str) -> subprocess.CompletedProcess:
    """Run a program in a process of its own."""
    command = [sys.executable, "-c", textwrap.dedent(program), *args]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_parsers_import_the_standard_library_only():
    """`--help` took eight seconds, seven of them for PyTorch and transformers."""
    for path in SOURCE.glob("*.py"):
        if path.name == "imports.py":
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            for name in names:
                assert name.split(".")[0] in sys.stdlib_module_names or name == "shtab", f"{path.name} imports {name}"


@pytest.mark.parametrize("args", [["--help"], *([verb, "--help"] for verb in VERBS), ["--version"]], ids=" ".join)
def test_help_is_quick_and_quiet(args):
    """With torchao installed, `--help` began with four lines of other libraries."""
    program = """
        import sys
        from dia_hf_command import main
        try:
            main(sys.argv[1:])
        finally:
            assert not {"torch", "transformers", "numpy", "dia_hf"} & set(sys.modules)
    """
    done = python(program, *args)
    assert (done.returncode, done.stderr) == (0, "")
    assert "dia-hf" in done.stdout


def test_the_version(capsys):
    """`--version` did not report the release, which a bug report needs."""
    with pytest.raises(SystemExit) as end:
        dia_hf_command.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"dia-hf {version('dia-hf')}\n"


def test_verbs_come_in_the_order_of_the_work(capsys):
    """`--help` listed the verbs in alphabetical order and not in the order of use."""
    with pytest.raises(SystemExit):
        make_parser().parse_args(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("    ") and line.split()[0] in VERBS] == VERBS


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell, capsys):
    """The completion script lacked verbs or options."""
    with pytest.raises(SystemExit) as end:
        make_parser().parse_args(["--print-completion", shell])
    assert end.value.code == 0
    script = capsys.readouterr().out
    assert all(verb in script for verb in VERBS) and "max-seconds" in script


def test_paths_agree():
    """The default of `--model`, written without an import of `dia_hf`, differed from the package's path."""
    assert MINIATURE == dia_hf.MINIATURE


def test_commands_that_need_all_packages(tmp_path, checkpoint):
    """With torchao hidden, `--quantize` and saved quantized models failed."""
    quantized = tmp_path / "quantized"
    quantized.mkdir()
    (quantized / "config.json").write_text('{"quantization_config": {}}')
    for args, needed in [
        (["generate", "Hi."], False),
        (["generate", "Hi.", "--model", checkpoint], False),
        (["generate", "Hi.", "--model", "miniature"], False),
        (["voices", "list"], False),
        (["generate", "Hi.", "--model", str(quantized)], True),
        (["generate", "Hi.", "--model", "someone/dia"], True),
        (["generate", "Hi.", "--quantize", "int8"], True),
        (["generate", "Hi.", "--model", checkpoint, "--adapter", "anna"], True),
        (["generate", "Hi.", "--audio-prompt", "a.wav", "--transcribe", "whisper"], True),
        (["voices", "add", "anna", "a.wav", "--transcribe", "whisper"], True),
        (["finetune", "data", "run"], True),
        (["bench"], True),
    ]:
        assert needs_all_packages(make_parser().parse_args(args)) is needed, args


def test_only_lines_of_ours_on_standard_error(tmp_path):
    """torchao and torch print four lines while transformers imports them; an omitted import must not change a sample.

    The same file must be generated by `python -m dia_hf.cli`, which imports everything.
    """
    files = {}
    for module in ("dia_hf_command", "dia_hf.cli"):
        files[module] = tmp_path / f"{module}.wav"
        command = [sys.executable, "-m", module, "generate", "[S1] Hello.", "-o", str(files[module]), "--device", "cpu"]
        done = subprocess.run([*command, "--seed", "1"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        if module == "dia_hf_command":
            lines = done.stderr.strip().splitlines()
            assert lines[0].startswith("note: ") and len(lines) == 3, done.stderr
            assert all(line.startswith("      ") for line in lines[1:]), done.stderr
    assert files["dia_hf_command"].read_bytes() == files["dia_hf.cli"].read_bytes()


def test_what_was_left_out_is_back_afterwards():
    """After a start with few imports, a package stayed hidden, or torch.compile failed."""
    done = python("""
        import gc, importlib.util, logging, sys
        from dia_hf_command.imports import import_cli
        from dia_hf_command.parser import make_parser

        import_cli(make_parser().parse_args(["generate", "[S1] Hello."]))
        left_out = {"torchao", "scipy", "accelerate", "datasets", "peft", "pocketsphinx", "torch._dynamo.convert_frame"}
        assert not left_out & set(sys.modules), left_out & set(sys.modules)
        assert gc.isenabled() and logging.root.manager.disable == 0
        assert importlib.util.find_spec("accelerate") is not None

        import torch
        assert torch.distributed.is_available()
        compiled = torch.compile(lambda x: x * 2 + 1, backend="eager", fullgraph=True)
        assert compiled(torch.ones(2)).tolist() == [3.0, 3.0]
        assert "torch._dynamo.convert_frame" in sys.modules
        registry = sys.modules["torch._dynamo.backends.registry"]
        assert torch._dynamo.lookup_backend.__globals__ is vars(registry), "a module was imported twice"
        assert registry.__spec__.origin == registry.__file__
        assert not [finder for finder in sys.meta_path if type(finder).__module__ == "dia_hf_command.imports"]
        print("fine")
    """)
    assert done.stdout.strip() == "fine", done.stderr


def test_an_unknown_torch_is_imported_as_it_is():
    """The stand-in for `torch._dynamo` was used with a later PyTorch that imports its parts in another way."""
    done = python("""
        import importlib.metadata, sys
        version = importlib.metadata.version
        importlib.metadata.version = lambda name: "99.0" if name == "torch" else version(name)
        from dia_hf_command.imports import import_cli
        from dia_hf_command.parser import make_parser

        import_cli(make_parser().parse_args(["generate", "[S1] Hello."]))
        assert "torch._dynamo.convert_frame" in sys.modules
        print("fine")
    """)
    assert done.stdout.strip() == "fine", done.stderr
