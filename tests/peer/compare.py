"""Run transformers' common tests, and similar ones of ours, on transformers' own Dia and on this one, and compare.

    python tests/peer/compare.py

Their tests are fetched from the source distribution of the installed transformers and kept in `build/`. A test that
the control passes must pass here too, except the rows of the table "transformers' common tests" in
docs/differences.md, each of which must still differ. Exit status 1 if not.
"""

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from xml.etree import ElementTree

import transformers

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
BUILD = ROOT / "build" / "peer" / transformers.__version__
SUITES = ("suite_model.py", "suite_audio_and_text.py")

# Modules that their common tests import and their source distribution lacks.
STAND_INS = {
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "fixtures/sample_text.txt": "Any text will do. The tests read this one, and none of them is ours.\n" * 20,
    "utils/test_configuration_utils.py": "config_common_kwargs = {'return_dict': False}\n",
}


def fetch_tests() -> None:
    """Unpack their tests as the package `transformers_tests`."""
    package = BUILD / "transformers_tests"
    if (package / "__init__.py").exists():
        return
    BUILD.mkdir(parents=True, exist_ok=True)
    wanted = f"transformers=={transformers.__version__}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "transformers"]
    subprocess.run([*command, "--dest", str(BUILD), wanted], check=True)
    (archive,) = BUILD.glob("transformers-*.tar.gz")
    with tarfile.open(archive) as files:
        for member in files.getmembers():
            if match := re.fullmatch(r"[^/]+/tests/(\w+\.py)", member.name):
                (package / match[1]).parent.mkdir(exist_ok=True)
                (package / match[1]).write_bytes(files.extractfile(member).read())
    for name, text in STAND_INS.items():
        (package / name).parent.mkdir(exist_ok=True)
        (package / name).write_text(text)
        (package / name).with_name("__init__.py").touch()
    (package / "__init__.py").touch()


def start(side: str) -> subprocess.Popen:
    """Run both suites on one of the two implementations."""
    environment = os.environ | {
        "DIA_PEER": side,
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(BUILD), str(HERE)]),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(HERE)]
    report = BUILD / f"{side}.xml"
    report.unlink(missing_ok=True)
    with (BUILD / f"{side}.log").open("w") as log:
        return subprocess.Popen(
            [*command, f"--junitxml={report}", *(str(HERE / suite) for suite in SUITES)],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def outcomes(side: str) -> dict[str, str]:
    """Map each test to passed, failed or skipped."""
    result = {}
    for case in ElementTree.parse(BUILD / f"{side}.xml").iter("testcase"):
        name = f"{case.get('classname').rsplit('.')[-1]}.{case.get('name')}"
        kinds = {child.tag for child in case}
        result[name] = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
    return result


def named_differences() -> list[str]:
    """Read the tests that ours fails by design."""
    text = (ROOT / "docs" / "differences.md").read_text("utf-8")
    section = text.split("## transformers' common tests", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"^\| `([\w.]+)`", section, re.MULTILINE)


def main() -> int:
    """Run, compare, report."""
    fetch_tests()
    runs = [start(side) for side in ("theirs", "ours")]
    for run in runs:
        run.wait()
    theirs, ours = outcomes("theirs"), outcomes("ours")
    count = {side: list(found.values()).count("passed") for side, found in (("control", theirs), ("ours", ours))}
    print(f"transformers {transformers.__version__}: the control passes {count['control']}, ours {count['ours']}")
    short = {name for name, outcome in theirs.items() if outcome == "passed" and ours.get(name) != "passed"}
    named = set(named_differences())
    for name in sorted(short - named):
        print(f"  ours does not pass: {name} ({ours.get(name, 'not run')}; see {BUILD / 'ours.log'})")
    named &= theirs.keys()  # some tests come with a later release
    for name in sorted(named - short):
        print(f"  no difference any more: {name} (control {theirs.get(name)}, ours {ours.get(name)})")
    print(f"{count['ours']} passed, {len(short ^ named)} failed")
    return 1 if short ^ named else 0


if __name__ == "__main__":
    sys.exit(main())
