import itertools
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dia_hf import DiaTokenizer
from dia_hf.speech.script import (
    NON_VERBAL_TAGS,
    Turn,
    check_script,
    estimate_seconds,
    parse_script,
    plan_chunks,
    render,
    split_prefix,
)

TOKENIZER = DiaTokenizer(max_length=10**8)

# Any Unicode string but for the three characters whose bytes mean padding and tags.
texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00\x01\x02"), max_size=30)
fragments = st.one_of(
    st.sampled_from(["[S1]", "[S2]", "\n[S1] ", "\n[S2] ", " ", ". ", ", ", "。", "，", "[", "S1]", "(", "Dr. "]),
    st.sampled_from([f"({tag})" for tag in NON_VERBAL_TAGS]),
    st.sampled_from(
        ["Well. ", "I do not know, really. ", "the cat sat on the mat ", "我不知道", "e\u0301\u0302", "👩🏽‍🚀"]
    ),
    st.builds(
        lambda text, times: text * times,
        st.sampled_from(["a", "la ", "好", "\u0301", "So. ", "[1] "]),
        st.integers(1, 600),
    ),
    texts,
)
scripts = st.lists(fragments, max_size=30).map("".join)
limits = st.tuples(
    st.sampled_from([2.0, 6.0, 20.0]), st.sampled_from([0.0, 0.25, 1.0]), st.sampled_from([64, 300, 1024])
)


@pytest.mark.parametrize(
    ("text", "prefix"),
    [
        ("[nl] [S1] Dag. [nl] [S2] Hoi.", "[nl]"),
        ("\n [nl][slow]\n[S2] Dag.", "[nl] [slow]"),
        ("[nl] Dag. [S1] Hoi.", "[nl]"),
        ("[S1] [nl] Dag.", ""),
        ("[S1] [S2] Dag.", ""),
        ("[de] [S1] Tag.", ""),
        ("Dag.", ""),
        ("[nl]", "[nl]"),
    ],
)
def test_a_prefix_is_no_speakers(text, prefix):
    """A speaker tag was taken for a language, or the prefix shifted the places in warnings."""
    found, rest = split_prefix(text, ["[nl]", "[slow]"])
    assert found == prefix
    assert len(rest) == len(text)
    assert rest.count("\n") == text.count("\n")
    assert " ".join(f"{found} {rest}".split()) == " ".join(text.replace("][", "] [").split())
    assert split_prefix(text, []) == ("", text)


def merge(turns):
    groups = itertools.groupby(turns, lambda turn: turn.speaker)
    return [Turn(speaker, " ".join(turn.text for turn in group)) for speaker, group in groups]


def seconds_of(turns):
    return round(sum(estimate_seconds(turn.text) for turn in turns), 9)


def rendered_chunks(script, *args, **kwargs):
    return [render(turns) for turns in plan_chunks(parse_script(script), *args, **kwargs)]


def speech(num_characters):
    """One sentence of one clause with a number of characters."""
    return ("abcd " * num_characters)[: num_characters - 2] + "e."


# Reading


def test_turns_have_speaker_text_and_place():
    """Warnings named a wrong line or column."""
    turns = parse_script("[S1] Hello.  [S2] Hi!\n\n  [S1] How\nare\tyou? ")
    assert turns == [Turn("[S1]", "Hello."), Turn("[S2]", "Hi!"), Turn("[S1]", "How are you?")]
    assert [(turn.line, turn.column) for turn in turns] == [(1, 1), (1, 14), (3, 3)]


def test_text_before_the_first_tag_is_the_first_speakers():
    """Text before the first tag was lost."""
    assert parse_script("\n Hello. [S2] Hi!") == [Turn("[S1]", "Hello."), Turn("[S2]", "Hi!")]
    assert (parse_script("\n Hello.")[0].line, parse_script("\n Hello.")[0].column) == (2, 2)


@pytest.mark.parametrize("script", ["", " \n", "[S1]", "[S1] [S2]\n"])
def test_scripts_that_say_nothing(script):
    """An empty turn became a chunk, which is generated as noise."""
    assert parse_script(script) == []
    assert plan_chunks(parse_script(script)) == []
    assert render([]) == render([Turn("[S1]", " ")]) == ""


@pytest.mark.parametrize("script", ["[[S1]] a", "a[S2]b", "[S1][S2]c", "[s1] [S 1] [S3] d", "[S1]\u2028e"])
def test_tags_are_those_of_the_tokenizer(script):
    """Script and tokenizer found different tags."""
    ids = TOKENIZER(script)["input_ids"]
    tags = [f"[S{i}]" for i in ids if i in (1, 2)]
    before = [] if script.startswith("[S1]") else ["[S1]"]
    assert {turn.speaker for turn in parse_script(script)} <= {*tags, *before}
    assert parse_script(script)[-1].speaker == (tags[-1] if tags else "[S1]")


def test_further_speakers():
    """Tags of fine-tunes were taken for text; of two tags with a common beginning the shorter one won."""
    tokens = ("[S1]", "[S2]", "[S3]", "<x>", "<x>y")
    assert [turn.speaker for turn in parse_script("[S3] a <x> b <x>y c", tokens)] == ["[S3]", "<x>", "<x>y"]
    assert check_script("[S3] a <x> b", tokens) == []
    assert parse_script("a", ["[S7]"]) == [Turn("[S7]", "a")]


@pytest.mark.parametrize("tokens", [(), ("[S1]", ""), ("[S 1]",)])
def test_impossible_speaker_tokens_raise(tokens):
    """An empty tag matches between any two letters."""
    with pytest.raises(ValueError, match=r"'\[S1\]'"):
        parse_script("[S1] a", tokens)
    with pytest.raises(ValueError, match=r"'\[S1\]'"):
        check_script("[S1] a", tokens)


# Warnings


@pytest.mark.parametrize(
    ("script", "warnings"),
    [
        ("[S1] a\n [S5] b", ["line 2, column 2: unknown speaker tag [S5]; known are [S1], [S2]"]),
        ("[S1] a [s2] b", ["line 1, column 8: unknown speaker tag [s2]; known are [S1], [S2]"]),
        ("[S1] a [ S2 ] b", ["line 1, column 8: unknown speaker tag [ S2 ]; known are [S1], [S2]"]),
        (
            "[S1] a [laughs] b",
            [
                "line 1, column 8: [laughs] is no speaker tag (known are [S1], [S2]); sounds stand in parentheses, "
                "such as (laughs)"
            ],
        ),
        ("[S1] a S2] b", ["line 1, column 10: ] is not paired; known speaker tags are [S1], [S2]"]),
        ("[S1] a [S2 b", ["line 1, column 8: [ is not paired; known speaker tags are [S1], [S2]"]),
        ("\n Title\n[S1] a", ["line 2, column 2: text before the first speaker tag; it becomes [S1]'s"]),
        ("Hello", ["line 1, column 1: text before the first speaker tag; it becomes [S1]'s"]),
        ("[S1] a\n[S1] b", ["line 2, column 1: [S1] is repeated; the two turns become one"]),
        ("[S1] a [S2]\n[S1] b", ["line 1, column 8: [S2] has no text; the turn is left out"]),
        ("[S1] a [S1]", ["line 1, column 8: [S1] has no text; the turn is left out"]),
        ("[S1]", ["line 1, column 1: [S1] has no text; the turn is left out"]),
        (
            "[S1] a ] b [S1] c",
            [
                "line 1, column 8: ] is not paired; known speaker tags are [S1], [S2]",
                "line 1, column 12: [S1] is repeated; the two turns become one",
            ],
        ),
        ("[S1] [S1] b", ["line 1, column 1: [S1] has no text; the turn is left out"]),
        (
            "[S1] (Laughs) a (sniff-s)",
            [
                "line 1, column 6: (Laughs) is no sound that Dia was trained on; the nearest is (laughs)",
                "line 1, column 17: (sniff-s) is no sound that Dia was trained on; the nearest is (sniffs)",
            ],
        ),
        (
            "[S1] (giggles) a",
            [
                "line 1, column 6: (giggles) is no sound that Dia was trained on; known are "
                + ", ".join(NON_VERBAL_TAGS)
            ],
        ),
        (
            "[S1] a\x00b\n\x02",
            [
                "line 1, column 7: control character U+0000, which the tokenizer refuses: it means padding",
                "line 2, column 1: control character U+0002, which the tokenizer refuses: it means [S2]",
            ],
        ),
    ],
)
def test_warnings_name_what_and_where(script, warnings):
    """These mistakes were read aloud, in the wrong voice, or refused after minutes of generation."""
    assert check_script(script) == warnings


@pytest.mark.parametrize(
    "script",
    [
        "",
        "[S1] Hello. (laughs) [S2] Hi! How are you?\n[S1] Fine (clears\nthroat), thanks.",
        "[S1] He came (or so they say today) at ten (10:30, to be exact) in (2024). [S2] It's (don't ask) a 'test'.",
        "[S2] 你好！（笑）[S1] ¿Qué? – \x07\tOui…",
        "[S1] One. [S2] Two. [S1]",
    ],
)
def test_no_false_alarms(script):
    """Correct scripts caused warnings."""
    assert check_script(script) == []


@given(st.lists(st.sampled_from(["Hello.", "(laughs)", "How are you (if I may ask you)?", "Ja – „gut“!"]), min_size=1))
def test_what_we_render_is_well_formed(speeches):
    """The closing tag of `render` caused a warning of an empty turn."""
    turns = [Turn(f"[S{1 + i % 2}]", text) for i, text in enumerate(speeches)]
    assert check_script(render(turns, closing_tag=True)) == []


@pytest.mark.parametrize("code", range(10))
def test_control_characters_are_those_the_tokenizer_refuses(code):
    """Control characters of additional speakers were not found."""
    tokens = ["[S1]", "[S2]", "[S3]"]
    try:
        DiaTokenizer(speaker_tokens=tokens)(chr(code))
        is_refused = False
    except ValueError:
        is_refused = True
    assert bool(check_script(f"[S1] a{chr(code)}b", tokens)) == is_refused


def test_warnings_about_tags_of_languages():
    """A known tag of a language was reported, or a misspelled one taken for text."""
    languages = {"[nl]": 14, "[whisper]": 30}
    assert check_script("[S1] a [nl] b [whisper] c", ("[S1]", "[S2]"), languages) == []
    assert check_script("[S1] a [NL] b [xx]\x0e\x1e", {"[S1]": 1, "[anna]": 5}, languages) == [
        "line 1, column 8: unknown language tag [NL]; known are [nl], [whisper]",
        "line 1, column 15: [xx] is no tag (known are [S1], [anna], [nl], [whisper]); sounds stand in parentheses, "
        "such as (laughs)",
        "line 1, column 19: control character U+000E, which the tokenizer refuses: it means [nl]",
    ]


@pytest.mark.parametrize("before", [0, 1, 33, 90])
def test_a_tag_is_never_split(before):
    """A tag within a long word was cut in two, and read as letters."""
    turns = [Turn("[S1]", f"{'好' * before}[zh]{'好' * 200}")]
    chunks = plan_chunks(turns, max_seconds=2, min_seconds=0, max_bytes=64)
    assert sum(turn.text.count("[zh]") for chunk in chunks for turn in chunk) == 1


def test_long_finds_are_shortened():
    """A bracket that is closed much later filled the screen."""
    (warning,) = check_script(f"[S1] [{'la ' * 1000}]")
    assert len(warning) < 200


@given(scripts)
def test_every_warning_has_a_place(script):
    """The check raised an error, or named a place outside the script."""
    lines = script.split("\n")
    for warning in check_script(script):
        line, column = map(int, re.match(r"line (\d+), column (\d+): \S", warning).groups())
        assert len(lines[line - 1]) >= column


# The estimate


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("", 0),
        ("a" * 30, 2),
        ("a\n  b c", 5 / 15),
        ("好" * 5, 1),
        ("(Laughs)(clears  throat)", 2),
        ("(hahaha)", 8 / 15),
    ],
)
def test_estimate(text, seconds):
    """The duration of Chinese text was underestimated by a factor of three."""
    assert estimate_seconds(text) == seconds


# Chunks


def test_a_script_that_fits_is_one_chunk():
    """A script that fits was split."""
    script = f"[S1] {speech(150)} [S2] {speech(100)} [S1] {speech(50)}"
    assert rendered_chunks(script) == [script]
    assert len(rendered_chunks(script + "a")) == 2
    assert rendered_chunks("[S2] No.") == ["[S2] No."]


def test_cuts_are_at_ends_of_turns_where_possible():
    """Greedy splitting cut the turn at the limit."""
    turns = [Turn(f"[S{1 + i % 2}]", f"{speech(90)} {speech(89)}") for i in range(7)]  # 12 s each
    assert plan_chunks(turns) == [[turn] for turn in turns]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (" ".join([speech(120)] * 3), [speech(120), f"{speech(120)} {speech(120)}"]),
        (f"{'abc ' * 40}abc; {'abc ' * 40}abc.", [f"{'abc ' * 40}abc;", f"{'abc ' * 40}abc."]),
        (f"{'一二三四五' * 12}，{'一二三四五' * 12}。", [f"{'一二三四五' * 12}，", f"{'一二三四五' * 12}。"]),
        (f"{speech(90)} {'a' * 85}b, {speech(160)}", [speech(90), f"{'a' * 85}b, {speech(160)}"]),
        (f"{'abc ' * 20}abc, {speech(240)}", [f"{'abc ' * 20}abc,", speech(240)]),
        ("abc " * 99 + "abc", ["abc " * 49 + "abc", "abc " * 49 + "abc"]),
        (f"{'abc ' * 25}{'a' * 210}", ["abc " * 25, "a" * 210]),
        (f"{'abc ' * 39}(clears throat) {'abc ' * 38}", ["abc " * 39, f"(clears throat) {'abc ' * 38}"]),
        (f"{'(laughs)' * 12}{'(sighs)' * 12}", ["(laughs)" * 12, "(sighs)" * 12]),
    ],
)
def test_a_turn_that_must_be_cut_is_cut_at_the_best_place(text, parts):
    """Sentences were split between words although a better place was available."""
    chunks = plan_chunks([Turn("[S2]", text, 7, 8), Turn("[S1]", speech(290))])
    cut = [turn for turns in chunks for turn in turns][:-1]
    assert sorted(turn.text for turn in cut) == sorted(part.strip() for part in parts)
    assert all((turn.speaker, turn.line, turn.column) == ("[S2]", 7, 8) for turn in cut)


@pytest.mark.parametrize(
    ("text", "seam"),
    [
        (f"{speech(100)} {speech(80)} {speech(115)}", f". {speech(115)}"),
        ("abcdefg " * 37 + "ab.", " "),
        ("a" * 299, ""),
        ("我" * 99, ""),
    ],
)
def test_no_tiny_rest(text, seam):
    """The last chunk was "Yes.", too short to be generated well."""
    rest = Turn("[S2]", "Yes.")
    (first,), (second, third) = plan_chunks([Turn("[S1]", text), rest])
    assert third == rest and min(seconds_of([first]), seconds_of([second, rest])) >= 5
    space = " " if seam else ""
    assert first.text + space + second.text == text
    assert seam in f"{first.text[-1]}{space}{second.text}"


def test_limits_are_exact():
    """The space at a split, or a missing tag, was counted, and fitting text was split."""
    assert rendered_chunks(f"[S1] {speech(300)} {speech(200)}") == [f"[S1] {speech(300)}", f"[S1] {speech(200)}"]

    sentences = "é" * 29 + "e.", "É" * 29 + "e."  # of 60 bytes each; 4 more are the tags
    assert rendered_chunks("[S1] " + " ".join(sentences), max_bytes=64) == [f"[S1] {text}" for text in sentences]

    turns = [Turn(f"[S{1 + i % 2}]", "é") for i in range(20)] + [Turn("[S2]", "é")]
    num_bytes = len(TOKENIZER(render(turns, closing_tag=True))["input_ids"])
    assert plan_chunks(turns, max_bytes=num_bytes) == [turns]
    assert len(plan_chunks(turns, max_bytes=num_bytes - 1)) == 2

    assert len(rendered_chunks("[S1] " + "é" * 100, max_bytes=64)) == 4


def test_chunks_are_even():
    """Greedy splitting made chunks of 18, 18 and 6 s from 42 s."""
    turns = [Turn(f"[S{1 + i % 2}]", speech(45)) for i in range(14)]
    assert sorted(seconds_of(turns) for turns in plan_chunks(turns)) == [12.0, 15.0, 15.0]


def test_languages():
    """English rules split German text after an ordinal number."""
    script = f"[S1] {'abc ' * 35}am 3. Mai kam er{' abc' * 38}."
    assert rendered_chunks(script, language="en")[0].endswith("am 3.")
    assert not rendered_chunks(script, language="de")[0].endswith("am 3.")
    assert rendered_chunks(script, language="xx") == rendered_chunks(script, language="en")


def test_hand_made_turns():
    """Turns that were not parsed had line ends, or no text."""
    turns = [Turn("[S1]", " a\nb "), Turn("[S2]", "\n"), Turn("[S1]", "c")]
    assert plan_chunks(turns) == [[Turn("[S1]", "a b"), Turn("[S1]", "c")]]


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_seconds": 1.5}, r"max_seconds is 1\.5; use 2"),
        ({"max_seconds": float("nan")}, "max_seconds is nan; use 2"),
        ({"min_seconds": -1}, "min_seconds is -1; use 0"),
        ({"min_seconds": 21}, r"min_seconds is 21; use 0 to max_seconds \(20\.0\)"),
        ({"max_bytes": 63}, "max_bytes is 63; use 64"),
    ],
)
def test_impossible_limits_raise(limits, message):
    """A limit below one sound made planning impossible."""
    with pytest.raises(ValueError, match=message):
        plan_chunks([Turn("[S1]", "a")], **limits)


@given(scripts, limits)
def test_nothing_is_lost_and_limits_hold(script, limits):
    """A plan lost words, exceeded a limit, or split a sound."""
    max_seconds, fraction, max_bytes = limits
    turns = parse_script(script)
    chunks = plan_chunks(turns, max_seconds, fraction * max_seconds, max_bytes)
    assert chunks == plan_chunks(turns, max_seconds, fraction * max_seconds, max_bytes)

    parts = [turn for turns in chunks for turn in turns]
    assert all(turns for turns in chunks) and all(part.text == " ".join(part.text.split()) != "" for part in parts)
    places = [(part.speaker, part.line, part.column) for part in parts]
    said = [
        (*place, "".join("".join(part.text for _, part in group).split()))
        for place, group in itertools.groupby(zip(places, parts, strict=True), lambda pair: pair[0])
    ]
    assert said == [(turn.speaker, turn.line, turn.column, "".join(turn.text.split())) for turn in turns]

    for turns_of_chunk in chunks:
        assert seconds_of(turns_of_chunk) <= max_seconds
        assert len(TOKENIZER(render(turns_of_chunk, closing_tag=True))["input_ids"]) <= max_bytes

    def count_sounds(turns):
        return sum(turn.text.count(f"({tag})") for turn in turns for tag in NON_VERBAL_TAGS)

    assert count_sounds(parts) == count_sounds(turns)


@given(
    st.lists(
        st.sampled_from(
            [
                "Yes.",
                "the cat sat on the mat",
                "Well, I do not know.",
                "我不知道。",
                "ça va? [1] the dog lay under the table and slept",
            ]
        ),
        max_size=99,
    )
)
def test_words_stay_whole(speeches):
    """A space was missing between sentences, or added inside a word."""
    turns = [Turn(f"[S{1 + i // 9 % 2}]", text) for i, text in enumerate(speeches)]
    parts = [turn for turns in plan_chunks(merge(turns), max_seconds=10, min_seconds=2) for turn in turns]
    assert merge(parts) == merge(turns)


@given(scripts, st.sampled_from([10.0, 20.0]), st.sampled_from([0.1, 0.25, 0.375]))
def test_short_chunks_are_avoided(script, max_seconds, fraction):
    """Plans had chunks of one or two seconds, which are generated as noise."""
    turns = parse_script(script)
    chunks = plan_chunks(turns, max_seconds, fraction * max_seconds, max_bytes=10**6)
    if len(chunks) > 1:
        assert min(map(seconds_of, chunks)) >= fraction * max_seconds


@given(st.lists(st.integers(2, 75), min_size=1, max_size=10), st.sampled_from([0.0, 3.0, 9.0]))
def test_plan_is_the_best_of_all(lengths, min_seconds):
    """The dynamic program did not find the best plan."""
    turns = [Turn(f"[S{1 + i % 2}]", speech(length)) for i, length in enumerate(lengths)]

    def cost(chunks):
        seconds = [seconds_of(turns) for turns in chunks]
        if max(seconds) > 10:
            return (float("inf"), 0)
        return sum(s < min_seconds for s in seconds), round(sum(1 + (s / 10) ** 2 for s in seconds), 6)

    def plans():
        for cuts in itertools.product([False, True], repeat=len(turns) - 1):
            ends = [i for i, is_cut in enumerate([*cuts, True], start=1) if is_cut]
            yield [turns[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    plan = plan_chunks(turns, max_seconds=10, min_seconds=min_seconds)
    if all(part in turns for part in itertools.chain(*plan)):  # else a turn was cut to avoid a short chunk
        assert cost(plan) == min(map(cost, plans()))
    else:
        assert min(map(cost, plans()))[0] > 0


@pytest.mark.parametrize("letter", ["e\u0301", "कि", "👍🏽", "👩🏽\u200d🚀", "❤\ufe0f"])
@pytest.mark.parametrize("offset", range(10))
def test_letters_keep_their_accents(letter, offset):
    """A split separated a letter and its accent."""
    parts = [turn.text for turns in plan_chunks([Turn("[S1]", "a" * offset + letter * 300)]) for turn in turns]
    assert len(parts) > 1 and all(part.lstrip("a").replace(letter, "") == "" for part in parts)


def test_a_pile_of_accents_is_cut():
    """A letter with many accents did not fit into a chunk."""
    parts = plan_chunks([Turn("[S1]", "e" + "\u0301" * 1000)])
    assert all(seconds_of(turns) <= 20 for turns in parts)


def test_time_is_linear():
    """Planning took quadratic time."""
    script = "\n".join(f"[S{1 + i % 2}] {'Well, that is so. ' * (i % 12)}Yes." for i in range(10_000))
    start = time.perf_counter()
    chunks = plan_chunks(parse_script(script))
    assert time.perf_counter() - start < 20  # takes about a second
    assert len(chunks) > 3000 and not check_script(script)


# Writing


def test_neighbors_of_one_speaker_share_a_tag():
    """A tag was repeated for adjacent turns of one speaker."""
    assert render([Turn("[S1]", "a"), Turn("[S1]", "b"), Turn("[S2]", "c")]) == "[S1] a b [S2] c"


def test_closing_tag():
    """The closing tag was not that of the second-to-last speaker."""
    turns = [Turn("[S3]", "a"), Turn("[S1]", "b"), Turn("[S2]", "c"), Turn("[S2]", "d")]
    assert render(turns, closing_tag=True) == "[S3] a [S1] b [S2] c d [S1]"
    assert render(turns[2:], closing_tag=True) == "[S2] c d"
    assert render([], closing_tag=True) == ""


@given(scripts, st.booleans())
def test_rendering_reads_back(script, closing_tag):
    """Rendered turns were not parsed back to the same turns."""
    turns = parse_script(script)
    assert parse_script(render(turns, closing_tag)) == merge(turns)
