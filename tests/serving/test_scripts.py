"""Checks of scripts over HTTP."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dia_hf import Dia
from dia_hf.serving.scripts import describe_script


@pytest.fixture(scope="module")
def dia():
    return Dia.from_pretrained()


def test_turns_issues_and_chunks(dia):
    """An editor could not tell where an issue is."""
    found = describe_script(dia, "[S1] Hello.\n[S2] 😀 Yes! [S5] (laugh)")
    places = [(turn["speaker"], turn["line"], turn["column"]) for turn in found["turns"]]
    assert places == [("[S1]", 1, 1), ("[S2]", 2, 1)]
    assert [(issue["line"], issue["column"]) for issue in found["issues"]] == [(2, 13), (2, 18)]
    assert found["issues"][0]["message"].startswith("unknown speaker tag [S5]")
    assert [turn["text"] for turn in found["chunks"][0]["turns"]] == ["Hello.", "😀 Yes! [S5] (laugh)"]
    assert found["seconds"] == pytest.approx(sum(chunk["seconds"] for chunk in found["chunks"]), abs=0.01)


def test_chunks_are_those_that_are_generated(dia):
    """The number of chunks was estimated, and differed from the one that was generated."""
    text = "[S1] I can read and I can sing. [S2] You can come home now. " * 12
    chunks = describe_script(dia, text)["chunks"]
    assert len(chunks) == len(dia.dialogue(text, seed=1).chunks) > 2


@pytest.mark.parametrize("text", ["", "  \n", "[S1]"])
def test_nothing_to_speak(dia, text):
    """An empty editor got an error."""
    found = describe_script(dia, text)
    assert found["chunks"] == found["turns"] == [] and found["seconds"] == 0


def test_a_control_character(dia):
    """A character that the tokenizer refuses ended in an error, and not in an issue at its place."""
    found = describe_script(dia, "[S1] Hello \x01 you.")
    assert found["issues"][0]["column"] == 12 and found["chunks"] == []


@given(st.text(st.sampled_from("[]()S12 \n\x01aé😀.")))
def test_any_text(dia, text):
    """The form of an issue's place was another one, and could not be read."""
    lines = text.split("\n")
    for issue in describe_script(dia, text)["issues"]:
        assert 1 <= issue["column"] <= len(lines[issue["line"] - 1])


def test_the_route(miniature):
    """The checks were there in Python only."""
    for path in ("/v1/audio/script", "/audio/script"):
        answer = miniature.http.post(path, json={"input": "[S1] Hello.", "voice": "alloy"})
        assert answer.status_code == 200 and len(answer.json()["chunks"]) == 1


@pytest.mark.parametrize(
    ("body", "param"), [({}, "input"), ({"input": 3}, "input"), ({"input": "a" * 5000}, "input"), ([], None)]
)
def test_wrong_bodies(miniature, body, param):
    """A wrong body ended in status 500 or 422."""
    answer = miniature.http.post("/v1/audio/script", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
