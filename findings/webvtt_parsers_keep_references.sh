#!/usr/bin/env bash
# Python's parsers of WebVTT give "&amp;" for "&": they neither decode character references nor write them.
#
# Versions: webvtt-py 0.6.0, pysubs2 1.8.1; Python 3.11.
# Input: a WebVTT cue in which & and < are escaped, as the format asks for; and a SubRip cue with a plain & and <, which
#   pysubs2 converts to WebVTT.
# Expected: the text as a browser shows it, "Q & A: 1 < 2"; and after the conversion the references.
# Seen: both parsers remove tags such as <i>, but give the text "Q &amp; A: 1 &lt; 2". pysubs2 copies that into SubRip,
#   where there are no references and players show it literally. The other way it writes "&" and "<" as they are, and a
#   browser takes what follows "<" for a tag, up to the end of the cue.
# Why it matters: subtitles with the exact text of a script, or transcripts for training that are read from WebVTT (as
#   video platforms offer it), silently get words such as "amp". Unescape after reading (html.unescape), and escape
#   &, < and > before writing.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet webvtt-py==0.6.0 pysubs2==1.8.1
cat >try.py <<'PYTHON'
import pysubs2
import webvtt

VTT = "WEBVTT\n\n00:00:01.000 --> 00:00:02.000\n<v Anna>Q &amp; A: 1 &lt; 2, <i>she</i> said</v>\n"
SRT = "1\n00:00:01,000 --> 00:00:02,000\nQ & A: 1 <2, she said\n"

(caption,) = webvtt.from_string(VTT)
print("webvtt-py:", caption.text)
subtitles = pysubs2.SSAFile.from_string(VTT, format_="vtt")
print("pysubs2:", subtitles[0].plaintext)
print("to SubRip:", subtitles.to_string("srt").splitlines()[2])
print("from SubRip:", pysubs2.SSAFile.from_string(SRT, format_="srt").to_string("vtt").splitlines()[4])
PYTHON
env/bin/python try.py >seen
cat seen
diff - seen <<'SEEN'
webvtt-py: Q &amp; A: 1 &lt; 2, she said
pysubs2: Q &amp; A: 1 &lt; 2, she said
to SubRip: Q &amp; A: 1 &lt; 2, <i>she</i> said
from SubRip: Q & A: 1 <2, she said
SEEN
