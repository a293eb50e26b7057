"""The load generator: figures of recorded times, and requests to a server of the test."""

import asyncio
import json
from contextlib import asynccontextmanager
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dia_hf.bench import tables
from dia_hf.bench.serving import (
    PCM_RATE,
    Answer,
    Percentiles,
    ServingReport,
    measure_answer,
    measure_load,
    measure_serving,
    plan_arrivals,
    speech_url,
)

TONE = (8000 * np.sin(np.arange(PCM_RATE) / 10)).astype("<i2")  # one second
SILENCE = np.zeros(PCM_RATE, "<i2")
STREAMED_WAV = (  # 16 kHz
    b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0\x01\0\x01\0\x80\x3e\0\0\x00\x7d\0\0\x02\0\x10\0data\xff\xff\xff\xff"
)


def answer_of(*chunks, arrival=0.0, sent=None, error=None, end=None):
    parts = [(when, part if isinstance(part, bytes) else part.tobytes()) for when, part in chunks]
    last = parts[-1][0] if parts else arrival
    return Answer(arrival, arrival if sent is None else sent, parts, last if end is None else end, error)


# --- figures of an answer


def test_times_count_from_the_planned_arrival():
    """A request that was sent late, or waited for the one before it, looked fast."""
    answer = answer_of((13.0, TONE), (13.5, TONE), arrival=12.0, sent=12.75, end=14.0)
    figures = measure_answer(answer, start=10.0)
    assert (figures.arrival, figures.lag, figures.first_byte, figures.end) == (2.0, 0.75, 1.0, 2.0)
    assert figures.first_audible == figures.heard == 1.0
    assert figures.audio_seconds == 2.0
    assert (figures.num_underruns, figures.gap_seconds, figures.error) == (0, 0.0, None)


def test_silence_is_not_audible():
    """A server that sends silence at once looked faster than one that sends speech."""
    figures = measure_answer(answer_of((1.0, SILENCE[:6000]), (1.1, SILENCE[:6000]), (1.5, TONE)))
    assert (figures.first_byte, figures.first_audible) == (1.0, 1.5)
    assert figures.heard == 1.5, "the player plays half a second of silence first"
    late = measure_answer(answer_of((1.0, SILENCE), (1.5, TONE)))
    assert (late.first_audible, late.heard) == (1.5, 2.0)
    silent = measure_answer(answer_of((1.0, SILENCE)))
    assert silent.first_audible is None and silent.heard is None and silent.error is None


def test_underruns():
    """Gaps between chunks were not counted, or one gap was counted again for each later chunk."""
    smooth = answer_of((0.5, TONE), (1.5, TONE), (1.6, TONE), (3.5, TONE))
    assert measure_answer(smooth).num_underruns == 0
    figures = measure_answer(answer_of((0.5, TONE), (2.0, TONE), (2.5, TONE), (4.25, TONE), end=9.0))
    assert (figures.num_underruns, figures.gap_seconds) == (2, 0.75)


def test_sound_after_an_underrun_is_heard_later():
    """The time of the first audible sample was computed as if no gap were before it."""
    figures = measure_answer(answer_of((0.0, SILENCE), (2.0, SILENCE[:12000]), (2.1, TONE)))
    assert (figures.first_audible, figures.heard, figures.num_underruns) == (2.1, 2.5, 1)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (answer_of(error="429"), "429"),
        (answer_of((1.0, b""), end=2.0), "no audio"),
        (answer_of((1.0, b"\x01")), "no audio"),
        (answer_of(), "no audio"),
        (answer_of((1.0, TONE), error="RemoteProtocolError"), "RemoteProtocolError"),
    ],
)
def test_errors(answer, error):
    """A broken or empty answer was counted as a good one."""
    figures = measure_answer(answer)
    assert figures.error == error
    assert figures.audio_seconds == 0 and figures.first_audible is None and figures.num_underruns == 0


def test_streamed_wav():
    """The header was played, its rate was ignored, or a header in two parts was not found."""
    body = STREAMED_WAV + TONE[:16000].tobytes()
    for cut in (10, 43, 44, 45, 5000):
        figures = measure_answer(answer_of((1.0, body[:cut]), (1.25, body[cut:])), "wav")
        assert figures.error is None and figures.audio_seconds == 1.0
        assert figures.first_byte == 1.0 and figures.first_audible == (1.0 if cut == 5000 else 1.25)


def test_what_follows_the_audio_of_a_wav():
    """Metadata behind the audio were played."""
    body = STREAMED_WAV[:40] + (3200).to_bytes(4, "little") + TONE[:1600].tobytes() + b"LIST\x04\0\0\0INFO"
    assert measure_answer(answer_of((1.0, body)), "wav").audio_seconds == 0.1


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (TONE.tobytes(), "no wav"),
        (STREAMED_WAV[:30], "no wav"),
        (STREAMED_WAV.replace(b"\x10\0data", b"\x18\0data"), "wav is not 16-bit mono"),
    ],
)
def test_no_wav(body, error):
    """Another format was measured as if it were the requested one."""
    assert error in measure_answer(answer_of((1.0, body)), "wav").error


@given(st.lists(st.integers(0, 3 * len(TONE)), max_size=8), st.booleans())
def test_parts_do_not_change_the_audio(cuts, is_wav):
    """A sample that was cut in two by the network was lost, and all later ones were noise."""
    body = (STREAMED_WAV if is_wav else b"") + TONE.tobytes()
    places = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    parts = [(1.0, body[begin:end]) for begin, end in pairwise(places)]
    figures = measure_answer(answer_of(*parts), "wav" if is_wav else "pcm")
    assert figures.audio_seconds == len(TONE) / (16000 if is_wav else PCM_RATE)
    assert figures.first_audible == figures.heard == 1.0 and figures.num_underruns == 0


@given(
    st.lists(st.tuples(st.floats(0, 2, allow_subnormal=False), st.integers(1, 48000)), min_size=1, max_size=20),
    st.floats(0.01, 1),
)
def test_gaps_are_what_playing_takes_longer(pieces, delay):
    """The sum of the gaps differed from the time by which playing took longer than the audio is long."""
    now, chunks, ends = 0.0, [], None
    for pause, num_samples in pieces:
        now += pause
        chunks.append((now, np.zeros(num_samples, "<i2")))
        ends = max(now, now if ends is None else ends) + num_samples / PCM_RATE
    figures = measure_answer(answer_of(*chunks))
    assert figures.gap_seconds == pytest.approx(ends - chunks[0][0] - figures.audio_seconds, abs=1e-6)
    later = measure_answer(answer_of(*((when + delay, chunk) for when, chunk in chunks)))
    assert later.first_byte == pytest.approx(figures.first_byte + delay)


# --- figures of a load


def test_a_load():
    """A failed request, or one with a gap, was counted as good, or the failed ones made the percentiles better."""
    answers = [
        answer_of((2.0, TONE), (2.5, TONE), arrival=1.0),
        answer_of((4.0, TONE), (6.0, TONE), arrival=2.0),
        answer_of(arrival=0.0, error="429"),
    ]
    load = measure_load("rate", 1.5, 8.0, [measure_answer(answer) for answer in answers])
    assert (load.num_requests, load.errors) == (3, {"429": 1})
    assert (load.audio_per_second, load.goodput) == (4 / 8, 1 / 8)
    assert (load.num_underruns, load.gap_seconds) == (1, 1.0)
    assert load.first_audible.p50 == 1.5 and load.first_audible.p99 == pytest.approx(2.0, abs=0.02)
    assert [request.arrival for request in load.requests] == [0.0, 1.0, 2.0]


def test_percentiles():
    """Missing values were counted as 0."""
    assert Percentiles.of([None, *range(101)]) == Percentiles(50, 95, 99)
    assert Percentiles.of([None]) is None


def test_arrivals():
    """Arrivals were even, depended on the run, or exceeded the limits."""
    arrivals = plan_arrivals(20.0, 100.0, None, 0)
    assert arrivals == plan_arrivals(20.0, 100.0, None, 0) != plan_arrivals(20.0, 100.0, None, 1)
    assert len(arrivals) == pytest.approx(2000, rel=0.1) and arrivals[0] > 0 and arrivals[-1] <= 100
    gaps = np.diff(arrivals)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.1), "as in an exponential distribution"
    assert plan_arrivals(20.0, None, 7, 0) == arrivals[:7]
    assert plan_arrivals(20.0, 0.5, 1000, 0) == [arrival for arrival in arrivals if arrival <= 0.5]
    np.testing.assert_allclose(plan_arrivals(40.0, None, 7, 0), np.array(arrivals[:7]) / 2)
    with pytest.raises(ValueError, match="give one"):
        plan_arrivals(1.0, None, None, 0)


def test_addresses():
    """An address that ends in /v1, as OpenAI's clients have it, led to /v1/v1."""
    for url in ("http://a:1", "http://a:1/", "http://a:1/v1", "http://a:1/v1/", "http://a:1/v1/audio/speech"):
        assert speech_url(url) == "http://a:1/v1/audio/speech"
    with pytest.raises(ValueError, match="'a:1' is no address"):
        speech_url("a:1")


# --- requests to a server


@asynccontextmanager
async def server_of(answer):
    """Serve HTTP on a free port; `answer(body, send)` gets each request as JSON, and sends parts of a chunked body."""
    seen, open_tasks = [], set()

    async def handle(reader, writer):
        open_tasks.add(asyncio.current_task())
        try:
            while True:
                try:
                    head = await reader.readuntil(b"\r\n\r\n")
                except asyncio.IncompleteReadError:
                    return
                fields = dict(line.lower().split(": ", 1) for line in head.decode().split("\r\n")[1:] if line)
                body = json.loads(await reader.readexactly(int(fields["content-length"])))
                seen.append((head, body))

                async def send(part):
                    writer.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
                    await writer.drain()

                status = await answer(body, writer, send, len(seen))
                if status == "broken":
                    return
                writer.write(b"0\r\n\r\n")
                await writer.drain()
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", seen
    finally:
        server.close()
        for task in open_tasks:
            task.cancel()
        await asyncio.gather(*open_tasks, return_exceptions=True)


def start(writer, status="200 OK"):
    writer.write(f"HTTP/1.1 {status}\r\nContent-Type: audio/pcm\r\nTransfer-Encoding: chunked\r\n\r\n".encode())


async def speak(body, writer, send, number):
    start(writer)
    for piece in np.split(TONE, 4):
        await send(piece.tobytes())


def test_open_loop_does_not_wait_for_answers():
    """Arrivals waited for slow answers: this server answers nobody before the last request has come."""

    async def run():
        last = asyncio.Event()

        async def answer(body, writer, send, number):
            if number == 121:  # more than the 100 connections that httpx opens by default; the first one is a warm-up
                last.set()
            if number > 1:
                await last.wait()
            await speak(body, writer, send, number)

        async with server_of(answer) as (url, seen):
            report = await measure_serving(url, rates=[1000.0], num_requests=120, texts=["[S1] Hello."])
            return report, seen

    report, seen = asyncio.run(asyncio.wait_for(run(), 60))
    (load,) = report.loads
    assert (load.kind, load.load, load.num_requests, load.errors) == ("rate", 1000.0, 120, {})
    assert [request.arrival for request in load.requests] == pytest.approx(plan_arrivals(1000.0, None, 120, 0))
    assert all(request.audio_seconds == 1.0 for request in load.requests)
    assert len(seen) == 121


def test_closed_loop_has_so_many_requests_at_once():
    """More or fewer requests were under way than there are clients."""

    async def run():
        under_way, most = 0, []
        both = asyncio.Event()

        async def answer(body, writer, send, number):
            nonlocal under_way
            under_way += 1
            most.append(under_way)
            if number > 1:  # after the warm-up; the first two wait for each other
                if under_way == 2:
                    both.set()
                await both.wait()
            await speak(body, writer, send, number)
            under_way -= 1

        async with server_of(answer) as (url, _):
            return await measure_serving(url, concurrencies=[2], num_requests=5), most

    report, most = asyncio.run(asyncio.wait_for(run(), 60))
    assert (report.loads[0].kind, report.loads[0].num_requests) == ("concurrency", 5)
    assert max(most) == 2 and len(most) == 6


def test_what_is_sent():
    """A field, the key or a text was not sent, or the same seed sent other texts."""

    async def run():
        async with server_of(speak) as (url, seen):
            for _ in range(2):
                await measure_serving(
                    f"{url}/v1",
                    rates=[500.0],
                    num_requests=6,
                    texts=["one", "two", "three"],
                    fields={"voice": "anna", "seed": 7},
                    api_key="secret",
                    seed=3,
                )
            return seen

    seen = asyncio.run(asyncio.wait_for(run(), 60))
    head, body = seen[0]
    assert head.startswith(b"POST /v1/audio/speech HTTP/1.1") and b"authorization: bearer secret" in head.lower()
    assert b"accept-encoding: identity" in head.lower()
    assert body == {"model": "dia", "voice": "anna", "response_format": "pcm", "seed": 7, "input": "one"}
    first, second = ([body["input"] for _, body in seen[begin : begin + 7]] for begin in (0, 7))
    assert sorted(first) == sorted(second) and len(set(first)) > 1


def test_errors_of_a_server():
    """A refused or broken answer ended the whole load, or was counted as audio."""

    async def answer(body, writer, send, number):
        if number % 3 == 0:
            start(writer, "429 Too Many Requests")
            await send(b"{}")
            return None
        await speak(body, writer, send, number)
        return "broken" if number % 3 == 1 and number > 1 else None

    async def run():
        async with server_of(answer) as (url, _):
            return await measure_serving(url, concurrencies=[1], num_requests=6)

    (load,) = asyncio.run(asyncio.wait_for(run(), 60)).loads
    assert load.errors == {"429": 2, "RemoteProtocolError": 2}
    assert sum(request.error is None for request in load.requests) == 2


def test_a_server_that_is_not_there():
    """All requests of a load ran into a server that is not running."""

    async def run():
        async with server_of(speak) as (url, _):
            pass
        await measure_serving(url, rates=[1.0], num_requests=1)

    with pytest.raises(OSError, match="does not answer a first request with audio: ConnectError"):
        asyncio.run(run())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, "0 loads"),
        ({"rates": [1.0], "texts": []}, "0 texts"),
        ({"rates": [1.0], "fields": {"response_format": "mp3"}}, "'mp3' cannot be measured"),
        ({"rates": [1.0], "warmup": 0}, "neither `duration`"),
    ],
)
def test_what_cannot_be_measured(options, match):
    """A wrong option was reported by a traceback, or after the first request."""
    with pytest.raises(ValueError, match=match):
        asyncio.run(measure_serving("http://127.0.0.1:9", **options))


# --- tables


def make_report():
    good = measure_answer(answer_of((0.25, TONE), end=1.0))
    failed = measure_answer(answer_of(error="429"))
    settings = {"url": "http://a/v1/audio/speech", "response_format": "pcm", "seed": 0}
    loads = [measure_load("rate", 2.0, 4.0, [good, failed]), measure_load("concurrency", 8, 4.0, [failed])]
    return ServingReport(settings, loads)


def test_table_and_file(tmp_path):
    """A figure was in the wrong row, or missing in the file."""
    table = tables.serving_table(make_report())
    rows = {line[:28].strip(): line[28:].split("  ") for line in table.splitlines()[2:]}
    cells = {name: [cell.strip() for cell in row if cell.strip()] for name, row in rows.items()}
    assert cells["p50 / p95 / p99"] == ["2 requests/s", "8 at once"]
    assert cells["errors"] == ["1 × 429", "1 × 429"]
    assert cells["first audible sample, ms"] == ["250 / 250 / 250", "- / - / -"]
    assert cells["end, s"] == ["1.00 / 1.00 / 1.00", "- / - / -"]
    assert cells["goodput, requests a second"] == ["0.25", "0.00"]
    tables.write_json(tmp_path / "load.json", {}, serving=make_report())
    loads = json.loads((tmp_path / "load.json").read_text("utf-8"))["serving"]["loads"]
    assert loads[0]["first_audible"] == {"p50": 0.25, "p95": 0.25, "p99": 0.25}
    assert [request["error"] for request in loads[0]["requests"]] == [None, "429"]


def test_plot(tmp_path):
    """A load without one good request ended the plot with a traceback."""
    pytest.importorskip("matplotlib")
    tables.plot_loads(tmp_path / "load.svg", make_report())
    assert "<svg" in (tmp_path / "load.svg").read_text("utf-8")
