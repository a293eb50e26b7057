#!/usr/bin/env bash
# Download ggml, pinned, and build `step_products` outside the repository: FOLDER/step_products_ggml with ggml's own
# kernels, FOLDER/step_products_llamafile with llamafile's, which llama.cpp turns on.
#
#     benchmarks/ggml/build.sh FOLDER [PYTHON]
#
# ggml comes from the source archive of the package llama-cpp-python, which
# contains it. Needs CMake and a C++ compiler; optimized for this processor (-O3 -march=native).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=${1:?folder for the sources and the program}
python=${2:-python3}
version=0.3.36 # holds ggml 0.25.3
sha256=832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e

mkdir -p "$folder"
archive=$folder/llama_cpp_python-$version.tar.gz
if [ ! -f "$archive" ]; then
  # Only the archive is wanted, but pip asks the package for its metadata, for which it installs a build backend.
  "$python" -m pip download --quiet --no-deps --no-binary :all: --dest "$folder" "llama-cpp-python==$version"
fi
echo "$sha256  $archive" | sha256sum --check --quiet
source=$folder/llama_cpp_python-$version/vendor/llama.cpp/ggml
if [ ! -d "$source" ]; then
  tar -xzf "$archive" -C "$folder" --wildcards '*/vendor/llama.cpp/ggml/*'
fi
log=$folder/build.log
: >"$log"
for kernels in ggml llamafile; do
  switch=$([ "$kernels" = llamafile ] && echo ON || echo OFF)
  {
    cmake -S "$here" -B "$folder/$kernels" -DGGML_SOURCE="$source" -DCMAKE_BUILD_TYPE=Release -DGGML_LLAMAFILE="$switch"
    cmake --build "$folder/$kernels" --parallel "$(nproc)" --target step_products
  } >>"$log" 2>&1 || {
    tail -20 "$log" >&2
    exit 1
  }
  cp "$folder/$kernels/step_products" "$folder/step_products_$kernels"
done
