#!/usr/bin/env bash
# Latency and throughput of `dia-hf serve` at the published size, on a GPU.
#
#   benchmarks/serving_gpu.sh [--model DIR] [--device cuda] [--size full] [--duration 60] [--output benchmarks/results]
#
# Without --model: random weights of the published configuration in bfloat16 that never end by themselves, since speed
# does not depend on their values; each request lasts --seconds (5). Open loop with 1 and 8 requests a second, then 32
# requests at once. Writes OUTPUT/serving-gpu.json and prints the figures with their aims:
# p95 of the first audible sample 80 ms and 150 ms, 90 s of audio a second. Exits with 1 if one was missed.
#
# About five minutes. A trial without a GPU: --device cpu --dtype float32 --size toy --duration 5 --rates 0.2,0.5.
set -euo pipefail

model="" device=cuda dtype=bfloat16 size=full duration=60 seconds=5 rates=1,8 batch=32 output=benchmarks/results
while (($#)); do
    case "$1" in
        --model | --device | --dtype | --size | --duration | --seconds | --rates | --batch | --output)
            declare "${1#--}=$2"
            shift 2
            ;;
        *)
            echo "unknown option $1" >&2
            exit 2
            ;;
    esac
done
python=${PYTHON:-python}
work=$(mktemp -d)
server=""
finish() {
    local status=$?
    if [[ -n $server ]]; then
        kill "$server" 2>/dev/null || true
        wait "$server" || true
    fi
    if ((status)) && [[ -f $work/log ]]; then
        tail -n 20 "$work/log" >&2
    fi
    rm -rf "$work"
}
trap finish EXIT
mkdir -p "$output"
if command -v nvidia-smi >/dev/null; then
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
fi

if [[ -z $model ]]; then
    model=$work/random
    "$python" - "$model" "$size" "$dtype" <<'PYTHON'
import sys

import torch

from dia_hf.bench import make_config, make_model, make_processor

folder, size, dtype = sys.argv[1:]
config = make_config(size)
model = make_model(config, "cpu", getattr(torch, dtype))
decoder = config.decoder_config
head = model.logits_dense.weight.view(decoder.num_channels, decoder.vocab_size, -1)
head[0, decoder.eos_token_id] = 0  # a logit of 0 is never the highest of channel 0
processor = make_processor(config, "full" if size == "full" else "toy")
codec = processor.audio_tokenizer
with torch.inference_mode():
    codes = torch.randint(0, 1024, (1, decoder.num_channels, 50), generator=torch.Generator().manual_seed(0))
    quiet = codec.decode(audio_codes=codes).audio_values.std()
    # Random weights are nearly silent; the first audible sample would be none.
    codec.decoder.conv2.weight.mul_(0.1 / quiet)
model.save_pretrained(folder)
processor.save_pretrained(folder)
PYTHON
    fields="{\"max_seconds\": $seconds, \"seed\": 1}"
else
    fields='{"seed": 1}'
fi

"$python" -m dia_hf_command serve --model "$model" --device "$device" --dtype "$dtype" --max-batch-size "$batch" \
    --port 0 --port-file "$work/port" 2>"$work/log" &
server=$!
"$python" - "$work/port" "$server" <<'PYTHON'
import os
import sys
import time
import urllib.request

port_file, server = sys.argv[1:]
begin = time.monotonic()
while True:
    os.kill(int(server), 0)  # raises if it has ended
    try:
        with open(port_file) as file:
            urllib.request.urlopen(f"http://127.0.0.1:{int(file.read())}/ready", timeout=10).close()
        break
    except (OSError, ValueError):
        time.sleep(0.5)
print(f"ready after {time.monotonic() - begin:.0f} s", flush=True)
PYTHON

"$python" -m dia_hf_command bench --serve "http://127.0.0.1:$(cat "$work/port")" --rate "$rates" --concurrency "$batch" \
    --duration "$duration" --fields "$fields" --output "$output/serving-gpu.json"

"$python" - "$output/serving-gpu.json" "$device" <<'PYTHON'
import json
import sys

from dia_hf.bench.tables import environment

path, device = sys.argv[1:]
with open(path) as file:
    content = json.load(file)
content["machine"] = environment(device)  # the load generator does not know the GPU
content["serving"]["loads"] = loads = [{**load, "requests": []} for load in content["serving"]["loads"]]
with open(path, "w") as file:
    json.dump(content, file, indent=2)
    file.write("\n")
*rates, full = loads
is_fine = True
for load, aim in zip(rates, (80, 150)):
    milliseconds = 1e3 * load["first_audible"]["p95"]
    is_fine &= milliseconds <= aim and not load["errors"]
    print(f"p95 of the first audible sample at {load['load']:g} requests/s: {milliseconds:.0f} ms (aim: {aim} or less)")
is_fine &= full["audio_per_second"] >= 90 and not full["errors"]
print(f"{full['load']:g} requests at once: {full['audio_per_second']:.1f} s of audio a second (aim: 90 or more)")
sys.exit(not is_fine)
PYTHON
