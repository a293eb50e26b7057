"""Pipecat: `python pipecat_tts.py URL FAILING_URL`, both without `/v1`. A pipeline with `OpenAITTSService`."""

from __future__ import annotations

import asyncio
import sys
from importlib.metadata import version

from expected import SECONDS, TEXT, report
from loguru import logger
from pipecat.frames.frames import ErrorFrame, Frame, InterruptionFrame, TTSAudioRawFrame, TTSSpeakFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.openai.tts import OpenAITTSService
from pipecat.workers.runner import WorkerRunner


class Recorder(FrameProcessor):
    """Collects audio frames and tells when the first came."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[TTSAudioRawFrame] = []
        self.has_audio = asyncio.Event()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, TTSAudioRawFrame):
            self.frames.append(frame)
            self.has_audio.set()
        await self.push_frame(frame, direction)


async def run(base_url: str, text: str, is_interrupted: bool = False, **settings) -> tuple[Recorder, list[str]]:
    """Speak a text in a pipeline.

    Returns:
        Audio frames that came through, and messages of errors.
    """
    tts = OpenAITTSService(
        api_key="none", base_url=base_url, settings=OpenAITTSService.Settings(**{"voice": "alloy", **settings})
    )
    recorder, errors = Recorder(), []
    worker = PipelineWorker(Pipeline([tts, recorder]), params=PipelineParams(audio_out_sample_rate=24000))

    @tts.event_handler("on_error")
    async def on_error(_service: OpenAITTSService, frame: ErrorFrame) -> None:
        errors.append(frame.error)

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    await worker.queue_frame(TTSSpeakFrame(text))

    async def end() -> None:
        if is_interrupted:
            await asyncio.wait_for(recorder.has_audio.wait(), 60)
            await worker.queue_frame(InterruptionFrame())
        await worker.stop_when_done()

    await asyncio.wait_for(asyncio.gather(runner.run(), end()), 120)
    return recorder, errors


def check(name: str, frames: list[TTSAudioRawFrame], **expected) -> None:
    assert {frame.sample_rate for frame in frames} == {24000}, "no audio"
    report(name, b"".join(frame.audio for frame in frames), 24000, **expected)


async def main(base_url: str, failing: str) -> None:
    print(f"pipecat-ai {version('pipecat-ai')}")
    recorder, errors = await run(base_url, TEXT)
    assert not errors, errors
    check("pipeline", recorder.frames)
    recorder, errors = await run(base_url, TEXT, speed=2.0, instructions="Speak calmly.")
    assert not errors, errors
    check("pipeline, twice as fast", recorder.frames, seconds=SECONDS / 2)
    recorder, errors = await run(base_url, TEXT, speed=9.0)
    assert not recorder.frames and "speed" in errors[0], errors
    print("errors: ErrorFrame with the server's message")
    count = 12
    for _ in range(count):
        await run(base_url, " ".join([TEXT] * 8), is_interrupted=True)
    recorder, errors = await run(base_url, TEXT)
    check(f"after {count} interruptions", recorder.frames)
    _, errors = await run(failing, TEXT)
    assert errors, "half of the audio passed for all of it"
    print(f"error midway: ErrorFrame, {errors[0]}")


if __name__ == "__main__":
    logger.remove()
    asyncio.run(main(*(f"{url}/v1" for url in sys.argv[1:])))
