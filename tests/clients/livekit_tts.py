"""LiveKit agents: `python livekit_tts.py URL FAILING_URL`, both without `/v1`."""

from __future__ import annotations

import asyncio
import sys
from importlib.metadata import version

from expected import TEXT, report
from livekit.agents import APIConnectionError, APIConnectOptions, APIStatusError
from livekit.plugins import openai

ONCE = APIConnectOptions(max_retry=0)


async def speak(base_url: str, model: str, response_format: str) -> None:
    tts = openai.TTS(model=model, voice="ash", base_url=base_url, api_key="none", response_format=response_format)
    try:
        events = [event async for event in tts.synthesize(TEXT, conn_options=ONCE)]
    finally:
        await tts.aclose()
    assert events[0].request_id, "there is no x-request-id"
    pcm = b"".join(bytes(event.frame.data) for event in events)
    report(f"{response_format} as {'audio' if model == 'tts-1' else 'sse'}", pcm, events[0].frame.sample_rate)


async def fail(base_url: str) -> None:
    tts = openai.TTS(voice="nobody", base_url=base_url, api_key="none")
    stream = tts.synthesize(TEXT, conn_options=ONCE)
    (error,) = await asyncio.gather(anext(stream), return_exceptions=True)
    await tts.aclose()
    assert isinstance(error, APIStatusError) and error.status_code == 400 and "nobody" in str(error), error
    print("errors: APIStatusError 400")


async def interrupt(base_url: str) -> None:
    count = 12
    tts = openai.TTS(voice="ash", base_url=base_url, api_key="none")
    tts.prewarm()
    try:
        for _ in range(count):
            stream = tts.synthesize(" ".join([TEXT] * 8), conn_options=ONCE)
            async for _event in stream:
                break
            await stream.aclose()
    finally:
        await tts.aclose()
    print(f"interrupted {count} times")
    await speak(base_url, "tts-1", "pcm")


async def break_off(base_url: str) -> None:
    for model in ("gpt-4o-mini-tts", "tts-1"):
        tts = openai.TTS(model=model, voice="ash", base_url=base_url, api_key="none")
        try:
            async for _ in tts.synthesize(TEXT, conn_options=ONCE):
                pass
        except APIConnectionError:
            pass
        else:
            raise AssertionError(f"{model}: half of the audio passed for all of it")
        finally:
            await tts.aclose()
    print("errors midway: APIConnectionError")


async def main(base_url: str, failing: str) -> None:
    print(f"livekit-agents {version('livekit-agents')}, livekit-plugins-openai {version('livekit-plugins-openai')}")
    for response_format in ("mp3", "opus", "aac", "flac", "wav", "pcm"):
        for model in ("gpt-4o-mini-tts", "tts-1"):  # the second is asked without server-sent events
            await speak(base_url, model, response_format)
    await fail(base_url)
    await interrupt(base_url)
    await break_off(failing)


if __name__ == "__main__":
    asyncio.run(main(*(f"{url}/v1" for url in sys.argv[1:])))
