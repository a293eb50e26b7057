"""`dia-hf convert`: its result for programs."""

import json

from conftest import REFERENCE
from dia_hf import MINIATURE, DiaTokenizer, cli

PACK = REFERENCE / "nari-0626"


def test_extra_tags(tmp_path, capsys):
    """The byte of a tag was dropped, or a tag without one took it."""
    options = ["--extra-tag", "nl=14", "--extra-tag", "[S3]"]
    assert cli.main(["convert", MINIATURE, str(tmp_path / "dest"), "--quiet", *options]) == 0
    assert DiaTokenizer.from_pretrained(tmp_path / "dest")("[nl][S3]")["input_ids"] == [14, 3]
    for wrong, message in (["nl=x"], "is no TAG or TAG=ID"), (["nl", "[nl]=4"], "twice"), (["nl=65"], "text needs"):
        options = [word for tag in wrong for word in ("--extra-tag", tag)]
        assert cli.main(["convert", MINIATURE, str(tmp_path / "other"), *options]) == 2
        assert message in capsys.readouterr().err


def test_a_result_for_programs(tmp_path, capsys):
    """A script had to parse a sentence to learn whether anything was written."""
    for options, written in (["--dry-run"], False), ([], True):
        assert cli.main(["convert", str(PACK), str(tmp_path / "dest"), "--json", "--quiet", *options]) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        result = json.loads(captured.out)
        assert (result["path"], result["written"]) == (str(tmp_path / "dest"), written)
        assert "parameters" in result["summary"]
