"""The check of the project's language."""

import runpy
from pathlib import Path

SCRIPT = runpy.run_path(str(Path(__file__).parent.parent / "scripts" / "check_language.py"))


def test_finds_openings_and_phrases(tmp_path):
    """The check found none of the openings and phrases, so every file passed."""
    (tmp_path / "src").mkdir()
    (tmp_path / "docs").mkdir()
    (tmp_path / "src" / "a.py").write_text(
        '"""Who ends."""\n\n\ndef f():\n    """Return whether the behaviour is known."""\n', "utf-8"
    )
    (tmp_path / "docs" / "a.md").write_text(
        "# Many at once\n\nThe use_frame_loop of many at once is colored.\n", "utf-8"
    )
    for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md"):
        (tmp_path / name).write_text("Plain.\n", "utf-8")
    SCRIPT["findings"].__globals__["ROOT"] = tmp_path
    assert list(SCRIPT["findings"]()) == [
        "src/a.py:1: docstring begins with 'Who ends.'",
        "src/a.py:5: 'behaviour': American spelling",
        "docs/a.md:1: '# Many at once': batches",
        "docs/a.md:3: 'use_frame_loop': use_fast_path",
    ]
