"""`dia-hf convert`: its result for programs."""

import json

from conftest import REFERENCE
from dia_hf import cli

PACK = REFERENCE / "nari-0626"


def test_a_result_for_programs(tmp_path, capsys):
    """A script had to parse a sentence to learn whether anything was written."""
    for options, written in (["--dry-run"], False), ([], True):
        assert cli.main(["convert", str(PACK), str(tmp_path / "dest"), "--json", "--quiet", *options]) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        result = json.loads(captured.out)
        assert (result["path"], result["written"]) == (str(tmp_path / "dest"), written)
        assert "parameters" in result["summary"]
