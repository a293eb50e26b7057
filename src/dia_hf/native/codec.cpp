// The decoder of an audio codec, on the next frames of some clips: from codebook entries to samples, in one region of
// threads.
//
// Computes what `GrowingRun` in `audio/layers.py` does, which is its oracle. Values lie as [positions, channels], so the
// inputs of an output are rows of one buffer, and a convolution is a sum of products of rows with matrices. A transposed
// convolution is one for each of its phases. What follows a convolution (the residual, Snake, rounding) is done while its
// sums are in the cache.
//
// Every output has the same operations in the same order wherever its row lies. So a clip has the same samples, to the
// bit, in whatever pieces it comes and whatever clips are computed with it.

#include <algorithm>
#include <vector>

#include "simd.h"
#include "threads.h"

namespace {

#if defined(__AVX512F__)
constexpr int ROWS = 8;  // of a tile, whose sums are in registers
#else
constexpr int ROWS = 4;
#endif
constexpr int WIDE = 3;          // vectors of a tile's row
constexpr int64_t PANEL = 48;    // outputs whose weights lie together
constexpr int64_t UNIT = 16;     // rows are padded to multiples of it
constexpr int64_t BLOCK = 128;   // positions of a chunk of work
constexpr int64_t CACHED = 384 * 1024;  // bytes of weights that a block of rows is multiplied with at once

enum Flag : int64_t { SNAKE = 1, OPENS = 2, CLOSES = 4, TANH = 8 };

// A convolution, and what follows it. Position q has the inputs q - left + tap * dilation, and the outputs from
// q * phases - crop to that + phases - 1.
struct Layer {
    int64_t inputs, outputs;  // channels
    int64_t taps, dilation, phases, left, crop;
    int64_t extra;  // outputs of a whole clip beyond inputs * phases - crop
    int64_t flags;
    // [phases, panels of outputs, taps, inputs, outputs of the panel]; bfloat16 in pairs of inputs
    const void* weight;
    const float* bias;   // [outputs]
    const float* alpha;  // [outputs], of the Snake that follows

    int64_t width_in() const { return round_up(inputs, UNIT); }
    int64_t width_out() const { return round_up(outputs, UNIT); }
    int64_t num_panels() const { return (outputs + PANEL - 1) / PANEL; }
    int64_t reach() const { return (taps - 1) * dilation; }
    int64_t lag() const { return reach() - left; }
    bool has(Flag flag) const { return flags & flag; }

    // Outputs that are final after some inputs.
    int64_t num_outputs(int64_t count, bool has_ended) const {
        if (has_ended) return std::max<int64_t>(0, count * phases + extra - crop);
        return std::max<int64_t>(0, num_positions(count, false) * phases - crop);
    }

    int64_t num_positions(int64_t count, bool has_ended) const {
        if (!has_ended) return std::max<int64_t>(0, count - lag());
        return (num_outputs(count, true) + crop + phases - 1) / phases;
    }
};

struct Clip {
    int64_t num_before, num_added;  // frames
    int64_t has_ended;
    const char* state;  // null at the beginning
    char* next_state;
};

// A clip at a layer: which inputs, positions and outputs are new, and where they are in the buffers.
struct Span {
    int64_t input, input_end, position, position_end, output, output_end;
    int64_t first, last;  // inputs in the buffer; from first to input, those of the state
    int64_t base;         // row of the first
    int64_t kept;         // the first output that is kept for the residual unit that opens here
    int64_t kept_base;
};

// A position of a layer: rows of the buffers, for the first phase.
struct Row {
    int32_t in, out, kept, added;
    int32_t phase, phase_end;  // whose outputs are part of the clip and new
};

// How values of a kind are multiplied: STEP inputs of a row at once.
template <class T>
struct Multiply;

template <>
struct Multiply<float> {
    static constexpr int STEP = 1;
    static float input(const float* from) { return *from; }
    static vf weights(const float* from) { return load(from); }
    static void add(vf& sum, float input, vf weights) { sum += input * weights; }
};

#if defined(__AVX512BF16__)
template <>
struct Multiply<uint16_t> {
    static constexpr int STEP = 2;
    static __m512i input(const uint16_t* from) {
        int32_t pair;
        std::memcpy(&pair, from, sizeof pair);
        return _mm512_set1_epi32(pair);
    }
    static __m512i weights(const uint16_t* from) { return _mm512_loadu_si512(from); }
    static void add(vf& sum, __m512i input, __m512i weights) {
        asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(input), "v"(weights));  // with the intrinsic, GCC 12 spills
    }
};
#endif

// Add the products of R rows with the weights of V vectors of outputs. Not inlined, so that all registers are free.
template <class T, int R, int V>
[[gnu::noinline]] void add_tile(const T* const* rows, const T* weight, int64_t width, int64_t taps, int64_t step,
                                int64_t channels, float* sums) {
    typedef Multiply<T> By;
    vf sum[R][V];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 3
        for (int v = 0; v < V; v++) sum[r][v] = load(sums + r * PANEL + v * N);
    const T* from[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) from[r] = rows[r];
    for (int64_t tap = 0; tap < taps; tap++) {
        for (int64_t i = 0; i < channels; i += By::STEP, weight += By::STEP * width) {
            decltype(By::weights(weight)) weights[V];
#pragma GCC unroll 3
            for (int v = 0; v < V; v++) weights[v] = By::weights(weight + By::STEP * v * N);
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
                const auto input = By::input(from[r] + i);
#pragma GCC unroll 3
                for (int v = 0; v < V; v++) By::add(sum[r][v], input, weights[v]);
            }
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) from[r] += step;
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 3
        for (int v = 0; v < V; v++) store(sums + r * PANEL + v * N, sum[r][v]);
}

// Add the products of some rows, each of which begins at its address, with the weights of V vectors of outputs.
template <class T, int V>
void add_products(const T* const* rows, int64_t count, const T* weight, int64_t width, int64_t taps, int64_t step,
                  int64_t channels, float* sums) {
    int64_t r = 0;
    for (; r + ROWS <= count; r += ROWS)
        add_tile<T, ROWS, V>(rows + r, weight, width, taps, step, channels, sums + r * PANEL);
    switch (count - r) {
#define REST(R)                                                                                                      \
    case R:                                                                                                          \
        if constexpr (R < ROWS)                                                                                      \
            add_tile<T, R, V>(rows + r, weight, width, taps, step, channels, sums + r * PANEL);                      \
        break;
        REST(1) REST(2) REST(3) REST(4) REST(5) REST(6) REST(7)
#undef REST
        default: break;
    }
}

constexpr float LARGEST_WAVE = 1e7f;  // for `sine_squared`

// sin(x)^2 of |x| <= 1e7, with an error below 1e-7. Its period is pi: x - n * pi is in [-pi / 2, pi / 2].
inline vf sine_squared(vf x) {
    vf n = round_nearest(x * 0.318309886f);
    vf r = fma(n, splat(-0x1.921fb6p+1f), x);  // pi in three parts
    r = fma(n, splat(0x1.777a5cp-24f), r);
    r = fma(n, splat(0x1.ee59dap-49f), r);
    vf z = r * r;
    vf p = fma(z, splat(0x1.5cf3f8p-19f), splat(-0x1.9f5f96p-13f));
    p = fma(p, z, splat(0x1.110e68p-7f));
    p = fma(p, z, splat(-0x1.555548p-3f));
    p = fma(p * z, r, r);
    return p * p;
}

// Snake of arguments that `sine_squared` is not made for.
vf slow_snake(vf x, vf alpha) {
    for (int i = 0; i < N; i++) {
        double wave = std::sin(double(alpha[i] * x[i]));
        x[i] += float(wave * wave) / (alpha[i] + 1e-9f);
    }
    return x;
}

// Where the outputs of a layer go.
struct Target {
    void* out;  // inputs of the next layer
    int64_t out_width;
    float *kept, *added;  // of the residual unit that opens, and of the one that closes; or null
    int64_t kept_width;
};

template <class T>
void put(const Layer& layer, const Row* rows, int64_t count, int64_t phase, int64_t column, int64_t width,
         const float* sums, const Target& target) {
    T* out = static_cast<T*>(target.out) + column;
    for (int64_t v = 0; v < width; v += N) {
        vf alpha{}, factor{}, most{};
        if (layer.has(SNAKE)) {
            alpha = load(layer.alpha + column + v);
            factor = 1.0f / (alpha + 1e-9f);
        }
        auto value_of = [&](int64_t i) {
            vf x = load(sums + i * PANEL + v);
            return target.added ? x + load(target.added + (rows[i].added + phase) * target.kept_width + column + v) : x;
        };
        for (int64_t i = 0; i < count; i++) {
            const Row& row = rows[i];
            if (phase < row.phase || phase >= row.phase_end) continue;
            vf x = value_of(i);
            if (target.kept) store(target.kept + (row.kept + phase) * target.kept_width + column + v, x);
            if (layer.has(SNAKE)) {
                vf wave = alpha * x;
                most = max(absolute(wave), most);
                x = fma(sine_squared(wave), factor, x);
            }
            store(out + (row.out + phase) * target.out_width + v, x);
        }
        if (largest(most) <= LARGEST_WAVE) continue;
        for (int64_t i = 0; i < count; i++) {
            if (phase < rows[i].phase || phase >= rows[i].phase_end) continue;
            vf x = value_of(i);
            if (largest(absolute(alpha * x)) > LARGEST_WAVE)
                store(out + (rows[i].out + phase) * target.out_width + v, slow_snake(x, alpha));
        }
    }
}

int64_t aligned(int64_t bytes) { return round_up(bytes, 64); }

// Bytes of a clip's state for the last inputs of a layer.
int64_t inputs_size(const Layer& layer, int64_t item_size) {
    return aligned(layer.reach() * layer.width_in() * item_size);
}

int64_t closing(const Layer* layers, int64_t opening) {
    while (!layers[++opening].has(CLOSES)) continue;
    return opening;
}

// Bytes of a clip's state for the outputs of a layer that a residual unit will add.
int64_t kept_size(const Layer* layers, int64_t index) {
    if (!layers[index].has(OPENS)) return 0;
    int64_t rows = 0;
    for (int64_t i = index + 1; i <= closing(layers, index); i++) rows += layers[i].lag();
    return aligned(rows * layers[index].width_out() * int64_t(sizeof(float)));
}

class Plan {
public:
    Plan(const Layer* layers, int64_t num_layers, const Clip* clips, int64_t num_clips, int64_t item_size)
        : num_clips_(num_clips), spans_(num_layers * num_clips) {
        for (int64_t c = 0; c < num_clips; c++) {
            int64_t before = clips[c].num_before, after = before + clips[c].num_added;
            for (int64_t l = 0; l < num_layers; l++) {
                const Layer& layer = layers[l];
                Span& span = at(l, c);
                span.input = before, span.input_end = after;
                span.position = layer.num_positions(before, false);
                span.position_end = layer.num_positions(after, clips[c].has_ended);
                span.output = layer.num_outputs(before, false);
                span.output_end = layer.num_outputs(after, clips[c].has_ended);
                span.first = span.position - layer.left;
                span.last = after;
                if (clips[c].has_ended) span.last = std::max(after, span.position_end + layer.lag());
                before = span.output, after = span.output_end;
            }
        }
        for (int64_t l = 0; l < num_layers; l++) {
            const Layer& layer = layers[l];
            int64_t num_rows = 0, num_inputs = 0, num_kept = 0;
            for (int64_t c = 0; c < num_clips; c++) {
                Span& span = at(l, c);
                span.base = num_inputs, num_inputs += span.last - span.first;
                num_rows += span.position_end - span.position;
                if (!layer.has(OPENS)) continue;
                span.kept = at(closing(layers, l), c).output;
                span.kept_base = num_kept, num_kept += span.output_end - span.kept;
            }
            buffer_size = std::max(buffer_size, aligned(num_inputs * layer.width_in() * item_size));
            kept_size = std::max(kept_size, aligned(num_kept * layer.width_out() * int64_t(sizeof(float))));
            rows_size = std::max(rows_size, aligned(num_rows * int64_t(sizeof(Row))));
            num_chunks.push_back(int((num_rows + BLOCK - 1) / BLOCK * layer.phases * layer.num_panels()));
        }
    }

    Span& at(int64_t layer, int64_t clip) { return spans_[layer * num_clips_ + clip]; }
    int64_t scratch_size() const { return 2 * buffer_size + 2 * kept_size + rows_size; }

    int64_t buffer_size = 0, kept_size = 0, rows_size = 0;
    std::vector<int> num_chunks;  // of each layer

private:
    int64_t num_clips_;
    std::vector<Span> spans_;
};

template <class T>
class Run {
public:
    Run(const Layer* layers, int64_t num_layers, const Clip* clips, int64_t num_clips, Plan& plan, const float* entries,
        float* samples, char* scratch)
        : layers_(layers), num_layers_(num_layers), clips_(clips), num_clips_(num_clips), plan_(plan),
          entries_(entries), samples_(samples), phases_(int(2 * num_layers)) {
        for (char*& buffer : buffers_) buffer = scratch, scratch += plan.buffer_size;
        for (char*& buffer : kept_) buffer = scratch, scratch += plan.kept_size;
        rows_ = reinterpret_cast<Row*>(scratch);
    }

    // What each thread does.
    void operator()() {
        for (int64_t l = 0; l < num_layers_; l++) {
            phases_.run(int(2 * l), 1, [&](int) { prepare(l); });
            phases_.run(int(2 * l) + 1, plan_.num_chunks[l], [&](int chunk) { compute(chunk); });
        }
    }

private:
    // Complete the inputs of a layer, write their last rows to the next states, and list its positions.
    void prepare(int64_t index) {
        if (index == 0) {
            read_entries();
        } else {
            conclude(index - 1);
        }
        const Layer& layer = layers_[index];
        const bool is_last = index + 1 == num_layers_;
        const int64_t row_size = layer.width_in() * sizeof(T), kept_row_size = layer.width_out() * sizeof(float);
        char *in = buffers_[index % 2], *kept = kept_[num_opened_ % 2];
        int64_t num_outputs = 0;
        num_rows_ = 0;
        for (int64_t c = 0; c < num_clips_; c++) {
            const Clip& clip = clips_[c];
            const Span& span = plan_.at(index, c);
            copy(in + span.base * row_size, clip.state, state_at_, (span.input - span.first) * row_size);
            copy(in + (span.base + span.input_end - span.first) * row_size, nullptr, 0,
                 (span.last - span.input_end) * row_size);
            if (!clip.has_ended) {
                const int64_t needed = span.position_end - layer.left;
                copy(clip.next_state + state_at_, in, (span.base + needed - span.first) * row_size,
                     (span.input_end - needed) * row_size);
            }
            if (layer.has(OPENS))
                copy(kept + span.kept_base * kept_row_size, clip.state, state_at_ + inputs_size(layer, sizeof(T)),
                     (span.output - span.kept) * kept_row_size);
            const int64_t out = is_last ? num_outputs - span.output : next_row(index, c);
            const int64_t added = layer.has(CLOSES) ? plan_.at(opened_, c).kept_base - span.output : 0;
            for (int64_t q = span.position; q < span.position_end; q++) {
                const int64_t output = q * layer.phases - layer.crop;
                Row& row = rows_[num_rows_++];
                row.in = int32_t(span.base + q - span.position);
                row.out = int32_t(out + output);
                row.kept = int32_t(span.kept_base + output - span.kept);
                row.added = int32_t(added + output);
                row.phase = int32_t(std::clamp<int64_t>(span.output - output, 0, layer.phases));
                row.phase_end = int32_t(std::clamp<int64_t>(span.output_end - output, 0, layer.phases));
            }
            num_outputs += span.output_end - span.output;
        }
        layer_ = &layer, in_ = in;
        target_ = {buffers_[(index + 1) % 2], is_last ? 0 : layers_[index + 1].width_in(),
                   layer.has(OPENS) ? reinterpret_cast<float*>(kept) : nullptr,
                   layer.has(CLOSES) ? reinterpret_cast<float*>(kept_[(num_opened_ + 1) % 2]) : nullptr,
                   layer.width_out()};
        is_last_ = is_last;
    }

    // Write the last outputs that a residual unit will add to the next states.
    void conclude(int64_t index) {
        const Layer& layer = layers_[index];
        const int64_t kept_at = state_at_ + inputs_size(layer, sizeof(T));
        state_at_ = kept_at + kept_size(layers_, index);
        if (!layer.has(OPENS)) return;
        const int64_t row_size = layer.width_out() * sizeof(float);
        for (int64_t c = 0; c < num_clips_; c++) {
            if (clips_[c].has_ended) continue;
            const Span& span = plan_.at(index, c);
            const int64_t needed = plan_.at(closing(layers_, index), c).output_end;
            copy(clips_[c].next_state + kept_at, kept_[num_opened_ % 2],
                 (span.kept_base + needed - span.kept) * row_size, (span.output_end - needed) * row_size);
        }
        num_opened_++;
        opened_ = index;
    }

    // Copy from a place in a buffer; zeros where there is none.
    static void copy(char* to, const char* from, int64_t place, int64_t bytes) {
        if (bytes <= 0) return;
        if (from) {
            std::memcpy(to, from + place, bytes);
        } else {
            std::memset(to, 0, bytes);
        }
    }

    int64_t next_row(int64_t index, int64_t clip) {
        const Span& next = plan_.at(index + 1, clip);
        return next.base - next.first;
    }

    void read_entries() {
        const Layer& layer = layers_[0];
        const float* from = entries_;
        for (int64_t c = 0; c < num_clips_; c++) {
            const Span& span = plan_.at(0, c);
            T* to = reinterpret_cast<T*>(buffers_[0]) + (span.base + span.input - span.first) * layer.width_in();
            for (int64_t n = span.input; n < span.input_end; n++, from += layer.inputs) {
                for (int64_t i = 0; i < layer.width_in(); i += N, to += N) {
                    float padded[N] = {};
                    const int64_t count = std::clamp<int64_t>(layer.inputs - i, 0, N);
                    std::memcpy(padded, from + i, count * sizeof(float));
                    store(to, load(padded));
                }
            }
        }
    }

    // Compute some outputs of a block of positions in one phase.
    void compute(int chunk) {
        const Layer& layer = *layer_;
        const int64_t channels = layer.width_in(), panels = layer.num_panels();
        const int64_t column = chunk % panels * PANEL, phase = chunk / panels % layer.phases;
        const int64_t first = chunk / (panels * layer.phases) * BLOCK, count = std::min(BLOCK, num_rows_ - first);
        const int64_t width = std::min(PANEL, layer.width_out() - column);
        const Row* rows = rows_ + first;
        alignas(64) float sums[BLOCK * PANEL];
        for (int64_t i = 0; i < count; i++)
            std::memcpy(sums + i * PANEL, layer.bias + column, width * sizeof(float));
        const T* weight = static_cast<const T*>(layer.weight) +
                          (phase * layer.width_out() + column) * layer.taps * channels;
        const int64_t most = std::max<int64_t>(1, CACHED / (channels * width * int64_t(sizeof(T))));
        const int64_t step = layer.dilation * channels;
        for (int64_t tap = 0; tap < layer.taps; tap += most) {
            const int64_t taps = std::min(most, layer.taps - tap);
            const T* from[BLOCK];
            for (int64_t i = 0; i < count; i++)
                from[i] = reinterpret_cast<const T*>(in_) + rows[i].in * channels + tap * step;
            for (int64_t v = 0; v < width; v += WIDE * N) {
                const T* part = weight + tap * channels * width + v * Multiply<T>::STEP;
                auto add = std::min<int64_t>(WIDE, (width - v) / N) == 3   ? add_products<T, 3>
                           : std::min<int64_t>(WIDE, (width - v) / N) == 2 ? add_products<T, 2>
                                                                           : add_products<T, 1>;
                add(from, count, part, width, taps, step, channels, sums + v);
            }
        }
        if (!is_last_) return put<T>(layer, rows, count, phase, column, width, sums, target_);
        const int64_t last = std::min(column + PANEL, layer.outputs);
        for (int64_t i = 0; i < count; i++) {
            if (phase < rows[i].phase || phase >= rows[i].phase_end) continue;
            for (int64_t channel = column; channel < last; channel++) {
                float x = sums[i * PANEL + channel - column];
                samples_[(rows[i].out + phase) * layer.outputs + channel] = layer.has(TANH) ? std::tanh(x) : x;
            }
        }
    }

    const Layer* layers_;
    int64_t num_layers_;
    const Clip* clips_;
    int64_t num_clips_;
    Plan& plan_;
    const float* entries_;
    float* samples_;
    char *buffers_[2], *kept_[2];
    Row* rows_;
    Phases phases_;

    // Of the layer that is computed; changed while no other thread computes.
    const Layer* layer_ = nullptr;
    const char* in_ = nullptr;
    Target target_{};
    bool is_last_ = false;
    int64_t num_rows_ = 0, state_at_ = 0;
    int64_t num_opened_ = 0, opened_ = 0;  // residual units
};

template <class T>
void run(const Layer* layers, int64_t num_layers, const Clip* clips, int64_t num_clips, const float* entries,
         float* samples, char* scratch, int num_threads) {
    Plan plan(layers, num_layers, clips, num_clips, sizeof(T));
    Run<T> body(layers, num_layers, clips, num_clips, plan, entries, samples, scratch);
    run_parallel(num_threads, body);
}

}  // namespace

extern "C" {

// Whether `item_size` of the other functions may be 2, for values and weights in bfloat16.
int dia_codec_has_bfloat16() {
#if defined(__AVX512BF16__)
    return 1;
#else
    return 0;
#endif
}

int64_t dia_codec_state_size(const Layer* layers, int64_t num_layers, int64_t item_size) {
    int64_t size = 0;
    for (int64_t l = 0; l < num_layers; l++) size += inputs_size(layers[l], item_size) + kept_size(layers, l);
    return size;
}

// Return the bytes of scratch memory that a run needs, and the samples of each clip.
int64_t dia_codec_sizes(const Layer* layers, int64_t num_layers, const Clip* clips, int64_t num_clips,
                        int64_t item_size, int64_t* num_samples) {
    Plan plan(layers, num_layers, clips, num_clips, item_size);
    for (int64_t c = 0; c < num_clips; c++) {
        const Span& span = plan.at(num_layers - 1, c);
        num_samples[c] = span.output_end - span.output;
    }
    return plan.scratch_size();
}

// Read the next frames of each clip, [frames of all clips, inputs], and compute the samples that they make final.
void dia_codec_run(const Layer* layers, int64_t num_layers, const Clip* clips, int64_t num_clips, int64_t item_size,
                   const float* entries, float* samples, char* scratch, int num_threads) {
#if defined(__AVX512BF16__)
    if (item_size == 2)
        return run<uint16_t>(layers, num_layers, clips, num_clips, entries, samples, scratch, num_threads);
#endif
    if (item_size == 4)
        run<float>(layers, num_layers, clips, num_clips, entries, samples, scratch, num_threads);
}

// Hash a few words of each of some tensors, all over them.
uint64_t dia_codec_sample(const uint32_t* const* tensors, const int64_t* num_words, int64_t count) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (int64_t t = 0; t < count; t++) {
        const int64_t words = num_words[t], taken = std::min<int64_t>(words, 16);
        for (int64_t i = 0; i < taken; i++) hash = (hash ^ tensors[t][i * words / taken]) * 0x100000001b3u;
    }
    return hash;
}
}
