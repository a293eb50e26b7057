// Work shared by the threads of PyTorch's own OpenMP.
//
// A second OpenMP beside PyTorch's would keep its threads spinning on the same cores. So the library is linked with
// none: Python passes the entry point of the one that PyTorch has loaded.
#pragma once

#include <immintrin.h>
#include <sched.h>

#include <atomic>
#include <memory>

typedef void (*ParallelFunction)(void (*function)(void*), void* data, unsigned num_threads, unsigned flags);

extern ParallelFunction openmp_parallel;

// Call `body()` in each of some threads.
template <class Body>
static void run_parallel(int num_threads, Body& body) {
    if (num_threads <= 1 || openmp_parallel == nullptr) {
        body();
        return;
    }
    openmp_parallel([](void* data) { (*static_cast<Body*>(data))(); }, &body, unsigned(num_threads), 0);
}

// Phases one after the other, each of chunks that any thread takes.
//
// The end of a phase is the end of its chunks, not the arrival of all threads: a thread that has lost its core to other
// work delays nobody, unless it holds a chunk.
class Phases {
public:
    explicit Phases(int num_phases) : states_(new State[num_phases]) {}

    // Whether there is a chunk left: otherwise there is nothing to prepare for.
    bool has_work(int phase, int num_chunks) const {
        return states_[phase].next.load(std::memory_order_relaxed) < num_chunks;
    }

    // Compute chunks until none is left, then wait for those that other threads compute.
    template <class Work>
    void run(int phase, int num_chunks, Work work) {
        State& state = states_[phase];
        for (;;) {
            int chunk = state.next.fetch_add(1, std::memory_order_relaxed);
            if (chunk >= num_chunks) break;
            work(chunk);
            state.done.fetch_add(1, std::memory_order_release);
        }
        for (int spins = 0; state.done.load(std::memory_order_acquire) < num_chunks; spins++) {
            if (spins < 20000) {
                _mm_pause();
            } else {
                sched_yield();
            }
        }
    }

private:
    struct alignas(64) State {
        std::atomic<int> next{0};
        std::atomic<int> done{0};
    };
    std::unique_ptr<State[]> states_;
};
