// A step of the decoder: one frame of every row, from tokens to logits, in one region of threads.
//
// Computes what `FrameDecoder.step` in `engine/decoder.py` does, which is its oracle. Hidden states are float32 throughout;
// keys and values are stored in the dtype of the model.
//
// Legend: B samples, R rows (B, or 2 * B under guidance, conditional ones first), C channels, V vocabulary, H hidden,
// A query heads, K key-value heads, D head width, S text bytes.

#include "products.h"
#include "threads.h"

namespace {

struct Heads {
    int64_t queries, keys, width;
};

struct Layer {
    const float* self_norm;
    const float* cross_norm;
    const float* mlp_norm;
    const float* cross_constant;  // what cross-attention adds to an unconditional row
    Matrix query, key, value, self_out, cross_query, cross_out, gate_up, down;
};

struct Decoder {
    int64_t num_layers, num_channels, vocab_size, hidden;
    int64_t is_half;  // whether embedding, keys and values are bfloat16
    float epsilon;
    float unused;
    Heads self_heads, cross_heads;
    const void* embedding;      // [C * V, H]
    const float* final_norm;    // [H]
    const float* rotary;        // [positions, 2, D]: cosine, and the signed sine of the partner
    const float* cross_rotary;  // the same for queries of cross-attention, or null
    const Layer* layers;
    Matrix head;
};

struct Cache {
    void* const* keys;  // one a layer: [R, K, capacity, D]
    void* const* values;
    const void* const* text_keys;  // one a layer: [B, K, capacity, D]
    const void* const* text_values;
    const uint8_t* text_mask;  // [B, capacity of text]
    int64_t row_stride, head_stride, text_row_stride, text_head_stride, mask_stride;
};

struct Step {
    const int64_t* tokens;   // [B, C]
    const int64_t* lengths;  // [R]
    int64_t num_samples, num_rows, num_bytes;
    float* logits;  // [R, C * V]
};

void normalize(const float* rows, int64_t num_rows, int64_t width, const float* weight, float epsilon, float* out) {
    for (int64_t r = 0; r < num_rows; r++, rows += width, out += width) {
        vf squares{};
        int64_t i = 0;
        for (; i + N <= width; i += N) squares = fma(load(rows + i), load(rows + i), squares);
        float total = sum(squares);
        for (; i < width; i++) total += rows[i] * rows[i];
        float factor = 1 / std::sqrt(total / float(width) + epsilon);
        for (i = 0; i + N <= width; i += N) store(out + i, load(rows + i) * factor * load(weight + i));
        for (; i < width; i++) out[i] = rows[i] * factor * weight[i];
    }
}

// Rotate each pair (i, i + D / 2) of a head.
void rotate(const float* head, const float* rotary, int64_t width, float* out) {
    const float *cosine = rotary, *sine = rotary + width;
    for (int64_t i = 0; i < width; i++) {
        int64_t partner = i < width / 2 ? i + width / 2 : i - width / 2;
        out[i] = head[i] * cosine[i] + head[partner] * sine[i];
    }
}

void assign(float* to, float value) { *to = value; }

void assign(uint16_t* to, float value) { *to = to_bfloat16(splat(value))[0]; }

template <class T>
void copy_head(T* to, const float* from, int64_t width) {
    int64_t i = 0;
    for (; i + N <= width; i += N) store(to + i, load(from + i));
    for (; i < width; i++) assign(to + i, from[i]);
}

// N frames of keys or values as floats, each padded to whole vectors; zeros beyond the last frame.
template <class T>
const float* as_floats(const T* from, int64_t count, int64_t width, float* memory) {
    const int64_t wide = round_up(width, N);
    if (width == wide) {
        // Of the frames after the next ones, which the processor does not foresee beyond a page.
        for (int64_t i = 0; i < N * width; i += int64_t(64 / sizeof(T))) __builtin_prefetch(from + 2 * N * width + i);
        if (std::is_same<T, float>::value && count == N) return (const float*)from;
        for (int64_t i = 0; i < count * width; i += N) store(memory + i, load(from + i));
    } else {
        std::fill_n(memory, count * wide, 0.0f);
        for (int64_t t = 0; t < count; t++)
            for (int64_t i = 0; i < width; i++) memory[t * wide + i] = to_float(from[t * width + i]);
    }
    std::fill(memory + count * wide, memory + N * wide, 0.0f);
    return memory;
}

// Add N rows, each times its weight, to P vectors.
template <int P>
void add_weighted(const float* weights, const float* rows, int64_t stride, float* to) {
    vf sums[P];
    for (int p = 0; p < P; p++) sums[p] = load(to + p * N);
    for (int t = 0; t < N; t++) {
        vf weight = splat(weights[t]);
        for (int p = 0; p < P; p++) sums[p] = fma(weight, load(rows + t * stride + p * N), sums[p]);
    }
    for (int p = 0; p < P; p++) store(to + p * N, sums[p]);
}

// softmax(queries @ keys) @ values for the queries of one key head, without scaling.
//
// Queries and `out` are padded to whole vectors. `weights` has room for a row of `length` for each query, rounded up to
// vectors, and `memory` for N frames.
template <class T>
void attend(const float* queries, int64_t num_queries, const T* keys, const T* values, int64_t length, int64_t width,
            const uint8_t* mask, float* weights, float* memory, float* out) {
    const int64_t stride = round_up(length, N), wide = round_up(width, N);
    for (int64_t first = 0; first < length; first += N) {
        const int64_t count = std::min<int64_t>(N, length - first);
        const float* near = as_floats(keys + first * width, count, width, memory);
        vf hidden{};  // what a mask adds
        for (int64_t t = 0; t < N; t++)
            if (t >= count || (mask && !mask[first + t])) hidden[t] = -INFINITY;
        for (int64_t q = 0; q < num_queries; q++) {
            vf products[N] = {};
            for (int64_t i = 0; i < wide; i += N) {
                vf query = load(queries + q * wide + i);
                for (int t = 0; t < N; t++) products[t] = fma(query, load(near + t * wide + i), products[t]);
            }
            store(weights + q * stride + first, sums_of(products) + hidden);
        }
    }
    for (int64_t q = 0; q < num_queries; q++) {
        float* row = weights + q * stride;
        vf most = splat(-INFINITY);
        for (int64_t t = 0; t < stride; t += N) most = max(load(row + t), most);
        float best = largest(most);
        vf total{};
        for (int64_t t = 0; t < stride; t += N) {
            vf weight = exponential(load(row + t) - best);
            store(row + t, weight);
            total += weight;
        }
        float factor = 1 / sum(total);
        for (int64_t t = 0; t < stride; t += N) store(row + t, load(row + t) * factor);
    }
    std::fill_n(out, num_queries * wide, 0.0f);
    for (int64_t first = 0; first < length; first += N) {
        const int64_t count = std::min<int64_t>(N, length - first);
        const float* near = as_floats(values + first * width, count, width, memory);
        for (int64_t q = 0; q < num_queries; q++) {
            const float* row = weights + q * stride + first;
            float* to = out + q * wide;
            int64_t i = 0;
            for (; i + 8 * N <= wide; i += 8 * N) add_weighted<8>(row, near + i, wide, to + i);
            for (; i + 4 * N <= wide; i += 4 * N) add_weighted<4>(row, near + i, wide, to + i);
            for (; i < wide; i += N) add_weighted<1>(row, near + i, wide, to + i);
        }
    }
}

// Memory of a step that all threads see.
struct Shared {
    std::vector<float> hidden, heads, attended, queries, activated;
};

// Memory of one thread.
struct Own {
    std::vector<float> normed, out, weights, near, padded;
    Input input;

    float* at_least(std::vector<float>& memory, int64_t size) {
        if (int64_t(memory.size()) < size) memory.resize(size);
        return memory.data();
    }
};

template <class T>
class Run {
public:
    Run(const Decoder& decoder, const Cache& cache, const Step& step)
        : decoder_(decoder), cache_(cache), step_(step), phases_(int(2 + 8 * decoder.num_layers)) {
        const Heads &self = decoder.self_heads, &cross = decoder.cross_heads;
        shared_.hidden.resize(step.num_rows * decoder.hidden);
        shared_.heads.resize(step.num_rows * (self.queries + 2 * self.keys) * self.width);
        shared_.queries.resize(step.num_samples * cross.queries * cross.width);
        shared_.attended.resize(step.num_rows * std::max(self.queries * self.width, cross.queries * cross.width));
        int64_t widest = 0;
        for (int64_t i = 0; i < decoder.num_layers; i++) widest = std::max(widest, decoder.layers[i].down.width);
        shared_.activated.resize(step.num_rows * widest);
    }

    // The body of every thread.
    void operator()() {
        Own own;
        int phase = 0;
        embed(phase++);
        for (int64_t i = 0; i < decoder_.num_layers; i++) {
            const Layer& layer = decoder_.layers[i];
            project_heads(phase++, layer, own);
            self_attention(phase++, i, own);
            add_product(phase++, layer.self_out, shared_.attended.data(), step_.num_rows, nullptr, own);
            project_queries(phase++, layer, own);
            cross_attention(phase++, i, own);
            add_product(phase++, layer.cross_out, shared_.attended.data(), step_.num_samples, layer.cross_constant, own);
            gate(phase++, layer, own);
            add_product(phase++, layer.down, shared_.activated.data(), step_.num_rows, nullptr, own);
        }
        predict(phase++, own);
    }

private:
    static int chunks_of(int64_t outputs) { return int((outputs + MOST_TOGETHER - 1) / MOST_TOGETHER); }

    static int64_t size_of(int64_t outputs, int64_t chunk) {
        return std::min(MOST_TOGETHER, outputs - chunk * MOST_TOGETHER);
    }

    void embed(int phase) {
        const int64_t hidden = decoder_.hidden;
        phases_.run(phase, int(step_.num_samples), [&](int sample) {
            float* to = shared_.hidden.data() + sample * hidden;
            std::fill_n(to, hidden, 0.0f);
            for (int64_t channel = 0; channel < decoder_.num_channels; channel++) {
                int64_t token = step_.tokens[sample * decoder_.num_channels + channel];
                const T* row = (const T*)decoder_.embedding + (channel * decoder_.vocab_size + token) * hidden;
                for (int64_t i = 0; i < hidden; i++) to[i] += to_float(row[i]);
            }
            if (step_.num_rows > step_.num_samples)
                std::copy_n(to, hidden, to + step_.num_samples * hidden);
        });
    }

    void normalize_into(Own& own, const float* weight, int64_t num_rows, int64_t kind) {
        float* to = own.at_least(own.normed, num_rows * decoder_.hidden);
        normalize(shared_.hidden.data(), num_rows, decoder_.hidden, weight, decoder_.epsilon, to);
        own.input.set(kind, to, num_rows, decoder_.hidden);
    }

    void project_heads(int phase, const Layer& layer, Own& own) {
        const Matrix* matrices[] = {&layer.query, &layer.key, &layer.value};
        int total = 0;
        for (const Matrix* matrix : matrices) total += chunks_of(matrix->outputs);
        const int64_t width = layer.query.outputs + layer.key.outputs + layer.value.outputs;
        if (phases_.has_work(phase, total)) normalize_into(own, layer.self_norm, step_.num_rows, layer.query.kind);
        phases_.run(phase, total, [&](int chunk) {
            int64_t offset = 0;
            for (const Matrix* matrix : matrices) {
                int here = chunks_of(matrix->outputs);
                if (chunk < here) return put(*matrix, chunk, own, shared_.heads.data() + offset, width);
                chunk -= here, offset += matrix->outputs;
            }
        });
    }

    // Compute a chunk of a product, and write it to rows of another width.
    void put(const Matrix& matrix, int chunk, Own& own, float* to, int64_t width) {
        int64_t first = chunk * MOST_TOGETHER, count = size_of(matrix.outputs, chunk), rows = own.input.num_rows;
        float* out = own.at_least(own.out, rows * count);
        product(matrix, own.input, first, count, out);
        for (int64_t r = 0; r < rows; r++) std::copy_n(out + r * count, count, to + r * width + first);
    }

    // Attend with the queries of a key head, padded to whole vectors in `own.padded`.
    void attend_with(int64_t num_queries, const T* keys, const T* values, int64_t length, int64_t width,
                     const uint8_t* mask, float* out, Own& own) {
        const int64_t wide = round_up(width, N);
        float* attended = own.at_least(own.out, num_queries * wide);
        attend(own.padded.data(), num_queries, keys, values, length, width, mask,
               own.at_least(own.weights, num_queries * round_up(length, N)), own.at_least(own.near, N * wide), attended);
        for (int64_t q = 0; q < num_queries; q++) std::copy_n(attended + q * wide, width, out + q * width);
    }

    void self_attention(int phase, int64_t index, Own& own) {
        const Heads& heads = decoder_.self_heads;
        const int64_t group = heads.queries / heads.keys, width = heads.width, wide = round_up(width, N);
        const int64_t all = heads.queries + 2 * heads.keys;
        phases_.run(phase, int(step_.num_rows * heads.keys), [&](int chunk) {
            int64_t row = chunk / heads.keys, head = chunk % heads.keys, length = step_.lengths[row];
            const float* from = shared_.heads.data() + row * all * width;
            const float* rotary = decoder_.rotary + length * 2 * width;
            int64_t place = row * cache_.row_stride + head * cache_.head_stride;
            T *keys = (T*)cache_.keys[index] + place, *values = (T*)cache_.values[index] + place;
            own.padded.assign((group + 1) * wide, 0.0f);
            float* key = own.padded.data() + group * wide;
            rotate(from + (heads.queries + head) * width, rotary, width, key);
            copy_head(keys + length * width, key, width);
            copy_head(values + length * width, from + (heads.queries + heads.keys + head) * width, width);
            for (int64_t q = 0; q < group; q++)
                rotate(from + (head * group + q) * width, rotary, width, own.padded.data() + q * wide);
            float* out = shared_.attended.data() + (row * heads.queries + head * group) * width;
            attend_with(group, keys, values, length + 1, width, nullptr, out, own);
        });
    }

    // Add a product to the hidden states of some rows, and a constant to those of the others.
    void add_product(int phase, const Matrix& matrix, const float* rows, int64_t num_rows, const float* constant,
                     Own& own) {
        int total = chunks_of(matrix.outputs);
        if (phases_.has_work(phase, total)) own.input.set(matrix.kind, rows, num_rows, matrix.width);
        phases_.run(phase, total, [&](int chunk) {
            int64_t first = chunk * MOST_TOGETHER, count = size_of(matrix.outputs, chunk);
            float* out = own.at_least(own.out, num_rows * count);
            product(matrix, own.input, first, count, out);
            for (int64_t r = 0; r < step_.num_rows; r++) {
                const float* summand = r < num_rows ? out + r * count : constant + first;
                float* to = shared_.hidden.data() + r * decoder_.hidden + first;
                for (int64_t o = 0; o < count; o++) to[o] += summand[o];
            }
        });
    }

    void project_queries(int phase, const Layer& layer, Own& own) {
        const Matrix& matrix = layer.cross_query;
        int total = chunks_of(matrix.outputs);
        if (phases_.has_work(phase, total)) normalize_into(own, layer.cross_norm, step_.num_samples, matrix.kind);
        phases_.run(phase, total,
                    [&](int chunk) { put(matrix, chunk, own, shared_.queries.data(), matrix.outputs); });
    }

    void cross_attention(int phase, int64_t index, Own& own) {
        const Heads& heads = decoder_.cross_heads;
        const int64_t group = heads.queries / heads.keys, width = heads.width, wide = round_up(width, N);
        phases_.run(phase, int(step_.num_samples * heads.keys), [&](int chunk) {
            int64_t row = chunk / heads.keys, head = chunk % heads.keys;
            int64_t place = row * cache_.text_row_stride + head * cache_.text_head_stride;
            const float* queries = shared_.queries.data() + (row * heads.queries + head * group) * width;
            own.padded.assign(group * wide, 0.0f);
            for (int64_t q = 0; q < group; q++) {
                float* query = own.padded.data() + q * wide;
                if (decoder_.cross_rotary) {
                    rotate(queries + q * width, decoder_.cross_rotary + step_.lengths[row] * 2 * width, width, query);
                } else {
                    std::copy_n(queries + q * width, width, query);
                }
            }
            attend_with(group, (const T*)cache_.text_keys[index] + place, (const T*)cache_.text_values[index] + place,
                        step_.num_bytes, width, cache_.text_mask + row * cache_.mask_stride,
                        shared_.attended.data() + (row * heads.queries + head * group) * width, own);
        });
    }

    // silu(gate) * up, whose weights are the first and the second half of one matrix.
    void gate(int phase, const Layer& layer, Own& own) {
        const Matrix& matrix = layer.gate_up;
        const int64_t width = matrix.outputs / 2, rows = step_.num_rows;
        int total = chunks_of(width);
        if (phases_.has_work(phase, total)) normalize_into(own, layer.mlp_norm, rows, matrix.kind);
        phases_.run(phase, total, [&](int chunk) {
            int64_t first = chunk * MOST_TOGETHER, count = size_of(width, chunk);
            float* gates = own.at_least(own.out, 2 * rows * count + N);
            float* ups = gates + rows * count;
            product(matrix, own.input, first, count, gates);
            product(matrix, own.input, width + first, count, ups);
            for (int64_t r = 0; r < rows; r++) {
                float* to = shared_.activated.data() + r * width + first;
                int64_t o = 0;
                for (; o + N <= count; o += N)
                    store(to + o, silu(load(gates + r * count + o)) * load(ups + r * count + o));
                for (; o < count; o++) to[o] = silu(splat(gates[r * count + o]))[0] * ups[r * count + o];
            }
        });
    }

    void predict(int phase, Own& own) {
        const Matrix& matrix = decoder_.head;
        int total = chunks_of(matrix.outputs);
        if (phases_.has_work(phase, total)) normalize_into(own, decoder_.final_norm, step_.num_rows, matrix.kind);
        phases_.run(phase, total, [&](int chunk) { put(matrix, chunk, own, step_.logits, matrix.outputs); });
    }

    const Decoder& decoder_;
    const Cache& cache_;
    const Step& step_;
    Shared shared_;
    Phases phases_;
};

template <class T>
void run(const Decoder& decoder, const Cache& cache, const Step& step, int num_threads) {
    Run<T> body(decoder, cache, step);
    run_parallel(num_threads, body);
}

}  // namespace

extern "C" {

// Sizes of the structures, for a test that Python has the same.
int64_t dia_size_of(int64_t index) {
    const int64_t sizes[] = {sizeof(Matrix), sizeof(Layer), sizeof(Decoder), sizeof(Cache), sizeof(Step)};
    return sizes[index];
}

// Read one frame of each sample, and predict the next. Return 1, having done nothing, if a token is none of the vocabulary.
int dia_step(const Decoder* decoder, const Cache* cache, const Step* step, int num_threads) {
    for (int64_t i = 0; i < step->num_samples * decoder->num_channels; i++)
        if (step->tokens[i] < 0 || step->tokens[i] >= decoder->vocab_size) return 1;
    if (decoder->is_half) {
        run<uint16_t>(*decoder, *cache, *step, num_threads);
    } else {
        run<float>(*decoder, *cache, *step, num_threads);
    }
    return 0;
}
}
