// What the loader asks of every library.

#include "threads.h"

ParallelFunction openmp_parallel = nullptr;

extern "C" {

// Identifies the sources of this library.
const char* dia_source_hash() { return DIA_SOURCE_HASH; }

// Use the entry point of PyTorch's OpenMP, `GOMP_parallel`.
void dia_set_openmp(void* parallel) { openmp_parallel = (ParallelFunction)parallel; }
}
