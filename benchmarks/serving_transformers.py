"""Baseline of `serving_load.py`: transformers' own Dia behind one route, one request at a time, whole wavs.

    python benchmarks/serving_transformers.py FOLDER PORT_FILE

Takes `input` and `seed` of OpenAI's request. Nothing of dia_hf is imported, so that no class is registered over
transformers' own. FOLDER has the layout of a saved checkpoint, with its codec in `audio_tokenizer`.
"""

import io
import os
import socket
import sys
import threading
from pathlib import Path

import numpy as np
import soundfile
import torch
import transformers
import uvicorn
from fastapi import FastAPI, Response


def main(folder: str, port_file: str) -> None:
    """Load the model, listen on a free port, and write its number."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    transformers.logging.set_verbosity_error()
    model = transformers.DiaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor = transformers.DiaProcessor(
        transformers.DiaFeatureExtractor.from_pretrained(folder),
        transformers.DiaTokenizer.from_pretrained(folder),
        transformers.DacModel.from_pretrained(Path(folder, "audio_tokenizer")).eval(),
    )
    app, lock = FastAPI(), threading.Lock()

    @app.get("/ready")
    def show_readiness() -> dict[str, str]:
        return {"status": "ready"}

    @app.post("/v1/audio/speech")
    def speak(body: dict) -> Response:
        with lock, torch.inference_mode():
            torch.manual_seed(body["seed"])
            inputs = processor(text=[body["input"]], padding=True, return_tensors="pt")
            waveform = processor.batch_decode(model.generate(**inputs))[0]
            wav = io.BytesIO()
            samples = np.asarray(waveform.float()).reshape(-1)
            soundfile.write(wav, samples, processor.feature_extractor.sampling_rate, "PCM_16", format="WAV")
        return Response(wav.getvalue(), media_type="audio/wav")

    listening = socket.create_server(("127.0.0.1", 0))
    Path(port_file).write_text(str(listening.getsockname()[1]), "utf-8")
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run([listening])


if __name__ == "__main__":
    main(*sys.argv[1:])
