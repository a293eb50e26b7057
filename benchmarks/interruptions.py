"""Robustness of all commands that write: kills, interrupts and concurrent runs, and the files that they leave.

    python benchmarks/interruptions.py [VERB ...] [--kills N] [--interrupts N] [--imports N] [--rounds N] [--seed N]

A verb first runs undisturbed twice; files that differ, because they contain times, are volatile and only need to exist.
Then, each time with a fresh copy of its inputs: SIGKILL right before one of its file operations, spread over all of
them, and half as often at random moments; SIGINT at random moments; two processes at once. After a kill no earlier file
may be lost, and the same command must give the undisturbed bytes and leave no hidden files. Processes are forked from
one that has imported everything and computed nothing; `--imports` counts whole commands that get SIGINT while they
import. Prints a table; exits with 1 if there were findings.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", TQDM_DISABLE="1")
HOME = Path(__file__).parent.parent
sys.path[:0] = [str(HOME / "src"), str(HOME / "tests")]

import numpy as np  # noqa: E402

from dia_hf import MINIATURE, cli  # noqa: E402
from dia_hf.audio.io import write_audio  # noqa: E402

CHANGES = {"os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.chmod", "os.link", "os.truncate"}
Tree = dict[str, bytes]

LONG = " ".join(f"[S{1 + i % 2}] I think it is a good day, and we can go home now, number {i}." for i in range(12))
VOICE = ["--transcript", "[S1] Hello there, good day."]
SHORT = ["--max-seconds", "0.5"]
QUICK = ["max_steps=4", "save_strategy=steps", "save_steps=2", "use_cpu=true", "report_to=none"]
QUICK += ["per_device_train_batch_size=2"]
SET = [part for setting in QUICK for part in ("--set", f"training.{setting}")]
FINETUNE = ["finetune", "data", "run", "--model", MINIATURE, *SET]
CONVERT = ["convert", str(HOME / "tests/reference/transformers-4.53")]
COMMANDS = {
    "generate": ["generate", "[S1] Hello. [S2] Hi!", "-o", "said.wav", "--seed", "1", "--max-seconds", "1"],
    "generate, replaced": ["generate", "[S1] Hello. [S2] Hi!", "-o", "old.wav", "--seed", "1", "--max-seconds", "1"],
    "generate, long": ["generate", LONG, "-o", "long.wav", "--seed", "1", "--max-seconds", "2"],
    "voices add": ["voices", "add", "anna", "tone.wav", *VOICE],
    "voices remove": ["voices", "remove", "berta"],
    "convert": [*CONVERT, "new"],
    "convert --force": [*CONVERT, "models", "--force"],
    "prepare": ["prepare", "rec", "made"],
    "prepare, update": ["prepare", "rec", "data"],
    "evaluate": ["evaluate", "--sentences", "s.txt", "--asr", "pocketsphinx", "-o", "r.json", "--keep", "kept", *SHORT],
    "bench": ["bench", "--frames", "20", "--repeats", "1", "--against", "none", "-o", "bench.json", "--threads", "1"],
    "finetune": FINETUNE,
    "finetune --resume": [*FINETUNE, "--resume"],
}


def _tone(seconds: float, pitch: int) -> np.ndarray:
    time_of = np.arange(int(seconds * 44100)) / 44100
    return (0.2 * np.sin(2 * np.pi * pitch * time_of) * (1 + np.sin(20 * time_of)) / 2).astype(np.float32)


def start(
    folder: Path, command: list[str], kill_at: int | None = None, count: bool = False, wait_for: int | None = None
) -> int:
    """Fork, and run a command in a folder with its output in a file beside it; return the process id."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        said = os.open(f"{folder}.said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False, buffering=1)
        os.chdir(folder)
        os.environ["DIA_HF_VOICES"] = str(folder / "voices")
        seen = 0

        def watch(event: str, args: tuple) -> None:
            nonlocal seen
            is_open = event == "open" and isinstance(args[2], int) and bool(args[2] & (os.O_WRONLY | os.O_RDWR))
            if event in CHANGES or is_open:
                if seen == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                seen += 1

        sys.addaudithook(watch)
        try:
            status = cli.main(command)
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        if count:
            Path(f"{folder}.count").write_text(str(seen))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def ended(pid: int) -> int:
    """Wait for a process; return the exit status, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run(folder: Path, command: list[str], **kwargs: object) -> int:
    """Run a command to its end."""
    return ended(start(folder, command, **kwargs))  # type: ignore[arg-type]


def said(folder: Path) -> list[str]:
    """Return the output of the last command in a folder."""
    return Path(f"{folder}.said").read_text("utf-8", "replace").splitlines()


def tree(folder: Path) -> Tree:
    """Return all files, including hidden ones, and empty folders."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() or not any(path.iterdir()):
            found[str(path.relative_to(folder))] = path.read_bytes() if path.is_file() else b"folder"
    return found


def hidden(now: Tree) -> list[str]:
    """Return temporary files that should have been removed."""
    return [name for name in now if any(part.startswith((".dia-hf-", "tmp")) for part in Path(name).parts)]


class Verb:
    """Command with its inputs and its undisturbed output."""

    def __init__(self, name: str, home: Path, inputs: Path) -> None:
        self.name, self.command, self.home, self.inputs = name, COMMANDS[name], home, inputs
        self.totals: Counter[str] = Counter()
        self.found: list[str] = []
        if name == "finetune --resume":
            self.inputs = self._interrupted()
        self.before = tree(self.inputs)
        trees = []
        begin = time.monotonic()
        for _ in range(2):
            folder = self.fresh()
            if run(folder, self.command, count=True):
                raise RuntimeError(f"{name}: {said(folder)}")
            trees.append(tree(folder))
        self.seconds = (time.monotonic() - begin) / 2
        self.after, other = trees
        self.volatile = {key for key in self.after if other.get(key) != self.after[key]}
        self.num_operations = int(Path(f"{folder}.count").read_text())

    def _interrupted(self) -> Path:
        """Make a run that was killed after its first checkpoint."""
        folder = self.fresh()
        pid = start(folder, FINETUNE)
        while not (folder / "run").is_dir() or not list((folder / "run").rglob("checkpoint-2/trainer_state.json")):
            time.sleep(0.005)
        os.kill(pid, signal.SIGKILL)
        ended(pid)
        return folder.rename(self.home / "interrupted")

    def fresh(self) -> Path:
        """Restore the state before, always in the same place, since outputs contain paths."""
        folder = self.home / "case"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.inputs, folder)
        return folder

    def differs(self, now: Tree) -> list[str]:
        """Return the files that differ from the undisturbed run."""
        return [
            key
            for key in sorted(now.keys() | self.after.keys())
            if (key in now) != (key in self.after) or (key not in self.volatile and now[key] != self.after[key])
        ]

    def tell(self, kind: str, what: object) -> None:
        """Record a finding."""
        self.found.append(f"{self.name}, {kind}: {what}")
        print("FOUND", self.found[-1], file=sys.stderr, flush=True)

    def look(self, kind: str, folder: Path) -> None:
        """Check the files after an interrupted command, and run the same command again."""
        now = tree(folder)
        lost = [key for key, content in self.before.items() if content not in now.values()]
        if lost and not all(key in now for key in self.after):
            self.tell(kind, f"lost {lost}")
        status = run(folder, self.command)
        if status == 2 and self.name == "finetune" and "--resume" in said(folder)[-1]:
            status = run(folder, [*self.command, "--resume"])
        now = tree(folder)
        if status == 2 and not self.differs(now):
            self.totals["done already"] += 1  # killed after its last rename: refused, as it is there
        elif status:
            self.tell(kind, f"the same command again: {status}, {said(folder)[-1:]}")
        if status == 0 and (different := self.differs(now)):
            self.tell(kind, f"differs from undisturbed: {different[:6]}")
        if left := hidden(now):
            self.tell(kind, f"left: {left[:4]}")

    def case(self, kind: str, draw: random.Random, place: int | None = None) -> None:
        """Run one case of a kind."""
        folder = self.fresh()
        self.totals[kind] += 1
        try:
            if kind == "two":
                pids = [start(folder, self.command), start_second(self, folder)]
                statuses = [ended(pid) for pid in pids]
                words = [said(folder)[-1:], Path(f"{self.home}/second.said").read_text("utf-8").splitlines()[-1:]]
                for status, last in zip(statuses, words, strict=True):
                    if status not in (0, 2) or (status == 2 and not last[0].startswith("dia-hf: error:")):
                        self.tell(kind, f"{status}: {last}")
                if 0 not in statuses:
                    self.tell(kind, f"nobody did it: {words}")
                elif different := self.differs(tree(folder)):
                    self.tell(kind, f"differs {different[:6]} {statuses} {words}")
                return
            number = signal.SIGINT if kind == "Ctrl-C" else signal.SIGKILL
            pid = start(folder, self.command, kill_at=place)
            if place is None:
                time.sleep(draw.uniform(0, self.seconds))
                os.kill(pid, number)
            status = ended(pid)
            if kind == "Ctrl-C" and status != 0:
                lines = said(folder)
                if status not in (130, -2):
                    self.tell(kind, f"status {status}: {lines[-1:]}")
                elif status == 130 and (
                    any("Traceback" in line for line in lines)
                    or [line[:21] for line in lines if "interrupted" in line] != ["dia-hf: interrupted; "]
                    or "dia-hf: interrupted; " in lines
                ):
                    self.tell(kind, lines[-3:])
                if left := hidden(tree(folder)):
                    self.tell(kind, f"left at once: {left[:4]}")
            self.look(kind, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def start_second(verb: Verb, folder: Path) -> int:
    """Run a second process in the same folder under another name, with separate output."""
    link = verb.home / "second"
    link.unlink(missing_ok=True)
    link.symlink_to(folder)
    return start(link, verb.command)


def interrupt_imports(number: int, home: Path, draw: random.Random) -> list[str]:
    """Send SIGINT to whole commands while they import."""
    found = []
    for _ in range(number):
        ready = home / "ready"
        ready.unlink(missing_ok=True)
        code = f"import dia_hf_command, sys; open({str(ready)!r}, 'w').close(); sys.exit(dia_hf_command.main())"
        environment = {**os.environ, "PYTHONPATH": str(HOME / "src")}
        command = [sys.executable, "-c", code, "generate", "[S1] Hi.", "-o", "x.wav", "--seed", "1"]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, cwd=home, env=environment, stdout=pipe, stderr=pipe, text=True) as process:
            while not ready.exists():
                time.sleep(0.001)
            time.sleep(draw.uniform(0.003, 3))
            process.send_signal(signal.SIGINT)
            _, error = process.communicate()
        lines = [line for line in error.splitlines() if line.startswith("dia-hf: interrupted")]
        if process.returncode != 130 or len(lines) != 1 or "Traceback" in error or (home / "x.wav").exists():
            found.append(f"imports, Ctrl-C: {process.returncode}: {error[-300:]}")
            print("FOUND", found[-1], file=sys.stderr, flush=True)
    return found


def make_inputs(folder: Path) -> None:
    """Make the inputs of all verbs, and the files that some of them replace."""
    for place in range(4):
        write_audio(folder / "rec" / f"{place}.wav", _tone(1.5, 150 + 40 * place), 44100)
        (folder / "rec" / f"{place}.txt").write_text(f"[S1] Hello there, number {place}.")
    write_audio(folder / "tone.wav", _tone(2, 180), 44100)
    write_audio(folder / "old.wav", _tone(0.5, 300), 44100)
    (folder / "s.txt").write_text("[S1] Hello there.\n[S2] Good bye!\n")
    (folder / "models").mkdir()
    (folder / "models" / "old.txt").write_text("what was there before")
    for command in (["prepare", "rec", "data"], ["voices", "add", "berta", "tone.wav", *VOICE]):
        if run(folder, command):
            raise RuntimeError(str(said(folder)))
    write_audio(folder / "rec" / "4.wav", _tone(1.5, 330), 44100)
    (folder / "rec" / "4.txt").write_text("[S1] Hello there, number 4.")


def main() -> int:
    """Parse the arguments, run all cases, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verbs", nargs="*", metavar="VERB", help=f"all unless given: {', '.join(COMMANDS)}")
    parser.add_argument("--kills", type=int, default=30, help="a verb; 0: before every file operation (30)")
    parser.add_argument("--interrupts", type=int, default=10, help="a verb (10)")
    parser.add_argument("--imports", type=int, default=40, help="Ctrl-C during imports (40)")
    parser.add_argument("--rounds", type=int, default=20, help="of two processes at once, a verb (20)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", help="append totals there, a line a verb")
    args = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` has it ignored
    draw = random.Random(args.seed)
    # Everything that verbs import, and nothing computed.
    import datasets  # noqa: F401
    import pocketsphinx  # noqa: F401
    import soundfile  # noqa: F401

    import dia_hf.bench
    import dia_hf.conversion
    import dia_hf.evaluation
    import dia_hf.training  # noqa: F401

    found, rows = [], []
    with tempfile.TemporaryDirectory(prefix="interruptions-") as home:
        inputs = Path(home, "inputs")
        inputs.mkdir()
        make_inputs(inputs)
        for name in args.verbs or COMMANDS:
            place = Path(home, name.replace(" ", "-").replace(",", ""))
            place.mkdir()
            begin = time.monotonic()
            try:
                verb = Verb(name, place, inputs)
            except RuntimeError as error:
                print("FOUND", error, file=sys.stderr, flush=True)
                found.append(str(error))
                continue
            at = (2 * args.kills + 2) // 3 if args.kills else verb.num_operations
            places = sorted(draw.sample(range(verb.num_operations), min(at, verb.num_operations)))
            for number in places:
                verb.case("kill at an operation", draw, number)
            for _ in range((args.kills or 30) - (len(places) if args.kills else 0)):
                verb.case("kill at random", draw)
            for _ in range(args.interrupts):
                verb.case("Ctrl-C", draw)
            for _ in range(args.rounds):
                verb.case("two", draw)
            row = {
                "verb": name,
                "operations": verb.num_operations,
                **verb.totals,
                "found": len(verb.found),
                "volatile": sorted(verb.volatile),
                "seconds": round(time.monotonic() - begin),
            }
            rows.append(row)
            print(json.dumps(row), flush=True)
            if args.json:
                with open(args.json, "a") as file:
                    file.write(json.dumps(row) + "\n")
            found += verb.found
            shutil.rmtree(place)
        if args.imports:
            found += interrupt_imports(args.imports, Path(home), draw)
            print(json.dumps({"verb": "imports", "Ctrl-C": args.imports}), flush=True)
    kinds = ["kill at an operation", "kill at random", "Ctrl-C", "two"]
    print(f"| verb | file operations | {' | '.join(kinds)} | found |\n|---|{'---|' * (len(kinds) + 2)}")
    for row in rows:
        cells = [row["verb"], row["operations"], *(row.get(kind, 0) for kind in kinds), row["found"]]
        print(f"| {' | '.join(map(str, cells))} |")
    print(*found, sep="\n")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
