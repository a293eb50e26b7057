#!/usr/bin/env bash
# Download TTS.cpp and its ggml, pinned, and build FOLDER/tts-cli outside the repository.
#
#     benchmarks/tts_cpp/build.sh FOLDER
#
# Needs git, CMake and a C++20 compiler. Two lines are put into its source: where the environment names a file DIA_DUMP,
# the logits of each step are appended to it, and the tokens are written to DIA_DUMP.tokens.
#
# The commit is the last one whose pinned ggml is in that repository's history; up to 724d97f (2025-08-19) its Dia and its
# codec are the same, and files are mapped instead of copied.
set -euo pipefail
folder=${1:?folder for the sources and the program}
commit=fe6a6b06417488c5d3618e91ebb09e2f43657a46
ggml=136da02ac32d5011cf9b46b117a0ea1be24e2bad

mkdir -p "$folder"
log=$folder/build.log
: >"$log"
if [ ! -d "$folder/TTS.cpp" ]; then
  git clone --quiet https://github.com/mmwillet/TTS.cpp "$folder/TTS.cpp"
  git clone --quiet --branch support-for-tts https://github.com/mmwillet/ggml "$folder/ggml"
  git -C "$folder/TTS.cpp" checkout --quiet "$commit"
  git -C "$folder/ggml" checkout --quiet "$ggml"
  rmdir "$folder/TTS.cpp/ggml"
  mv "$folder/ggml" "$folder/TTS.cpp/ggml"
  size="(size_t) model->n_output_heads * model->output_vocab_size"
  open='FILE * dump = fopen((std::string(getenv("DIA_DUMP"))'
  logits="if (getenv(\"DIA_DUMP\")) { $open).c_str(), \"ab\"); fwrite(dctx->logits + dctx->current_position * $size, 4, $size, dump); fclose(dump); }"
  tokens="if (getenv(\"DIA_DUMP\")) { $open + \".tokens\").c_str(), \"wb\"); fwrite(dctx->output_tokens.data(), 4, dctx->output_tokens.size(), dump); fclose(dump); }"
  sed -i \
    -e "s|^ *decode_sampler->sample(dctx->logits.*|$logits\n&|" \
    -e "s|^ *adjust_output_tokens(dctx->output_tokens, .*|&\n$tokens|" \
    "$folder/TTS.cpp/src/models/dia/model.cpp"
fi
{
  cmake -S "$folder/TTS.cpp" -B "$folder/build" -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON
  cmake --build "$folder/build" --parallel "$(nproc)" --target tts-cli
} >>"$log" 2>&1 || {
  tail -20 "$log" >&2
  exit 1
}
cp "$folder/build/bin/tts-cli" "$folder/tts-cli"
