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
    int64_t num_positions;  // of the rotary embeddings
    int64_t is_half;  // whether embedding, keys and values are bfloat16
    float epsilon;
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
    int64_t num_slots;  // capacity in frames
    const int64_t* recorded;  // [J, 2]: layer and query head of each head of cross-attention whose weights are kept
    int64_t num_recorded;     // J
    float* attention;         // [B, capacity, J, capacity of text]
    int64_t attention_row_stride, attention_frame_stride, attention_head_stride;
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

constexpr int64_t NEAR = 64;   // frames whose values stay in the first cache while they are used
constexpr int64_t AHEAD = 32;  // frames between a request for keys or values and their use

// Request the vector of a later frame: the processor does not foresee beyond a page.
template <class T>
void request(const T* from, int64_t width) {
    if (uintptr_t(from) % 64 < N * sizeof(T)) __builtin_prefetch(from + AHEAD * width);
}

// Products of Q queries with keys: out[q][t]. `out` has room for whole vectors.
template <int Q, class T>
void multiply_keys(const float* queries, const T* keys, int64_t count, int64_t width, float* out, int64_t stride) {
    constexpr int F = N / Q;
    for (int64_t first = 0; first < count; first += F) {
        const T* rows[F];
        for (int f = 0; f < F; f++) rows[f] = keys + std::min(first + f, count - 1) * width;
        vf products[N] = {};
        for (int64_t i = 0; i < width; i += N) {
            vf query[Q];
            for (int q = 0; q < Q; q++) query[q] = load(queries + q * width + i);
            for (int f = 0; f < F; f++) {
                request(rows[f] + i, width);
                vf key = load(rows[f] + i);
                for (int q = 0; q < Q; q++) products[q * F + f] = fma(query[q], key, products[q * F + f]);
            }
        }
        vf sums = sums_of(products);
        for (int q = 0; q < Q; q++) std::memcpy(out + q * stride + first, (float*)&sums + q * F, 4 * F);
    }
}

// Add values, each times its weight, to P vectors of Q outputs.
template <int Q, int P, class T>
void add_weighted(const float* weights, int64_t stride, const T* values, int64_t count, int64_t width, float* out) {
    vf sums[Q][P];
    for (int q = 0; q < Q; q++)
        for (int p = 0; p < P; p++) sums[q][p] = load(out + q * width + p * N);
    for (int64_t t = 0; t < count; t++) {
        for (int p = 0; p < P; p++) {
            request(values + t * width + p * N, width);
            vf value = load(values + t * width + p * N);
            for (int q = 0; q < Q; q++) sums[q][p] = fma(splat(weights[q * stride + t]), value, sums[q][p]);
        }
    }
    for (int q = 0; q < Q; q++)
        for (int p = 0; p < P; p++) store(out + q * width + p * N, sums[q][p]);
}

// A row of which nothing is kept has weights of 0, as in PyTorch.
void softmax(float* row, int64_t stride) {
    vf most = splat(-INFINITY);
    for (int64_t t = 0; t < stride; t += N) most = max(load(row + t), most);
    float best = largest(most);
    if (best == -INFINITY) best = 0;
    vf total{};
    for (int64_t t = 0; t < stride; t += N) {
        vf weight = exponential(load(row + t) - best);
        store(row + t, weight);
        total += weight;
    }
    float whole = sum(total), factor = whole == 0 ? 0 : 1 / whole;
    for (int64_t t = 0; t < stride; t += N) store(row + t, load(row + t) * factor);
}

// softmax(queries @ keys) of Q queries, in rows of `length` rounded up to vectors. D is a multiple of N.
template <int Q, class T>
void weigh(const float* queries, const T* keys, int64_t length, int64_t width, const uint8_t* mask, float* weights) {
    const int64_t stride = round_up(length, N);
    multiply_keys<Q>(queries, keys, length, width, weights, stride);
    for (int q = 0; q < Q; q++) {
        float* row = weights + q * stride;
        for (int64_t t = 0; t < stride; t++)
            if (t >= length || (mask && !mask[t])) row[t] = -INFINITY;
        softmax(row, stride);
    }
}

// softmax(queries @ keys) @ values for Q queries of one key head, without scaling. D is a multiple of N.
//
// `weights` has room for a row of `length` for each query, rounded up to vectors.
template <int Q, class T>
void attend_with(const float* queries, const T* keys, const T* values, int64_t length, int64_t width, const uint8_t* mask,
                 float* weights, float* out) {
    const int64_t stride = round_up(length, N);
    weigh<Q>(queries, keys, length, width, mask, weights);
    std::fill_n(out, Q * width, 0.0f);
    constexpr int P = Q == 4 ? N / 4 : N / 2;
    for (int64_t first = 0; first < length; first += NEAR) {
        const int64_t count = std::min(NEAR, length - first);
        int64_t i = 0;
        for (; i + P * N <= width; i += P * N)
            add_weighted<Q, P>(weights + first, stride, values + first * width + i, count, width, out + i);
        for (; i < width; i += N)
            add_weighted<Q, 1>(weights + first, stride, values + first * width + i, count, width, out + i);
    }
}

// The same for any number of queries; the order of operations for each is the same.
template <class T>
void attend(const float* queries, int64_t num_queries, const T* keys, const T* values, int64_t length, int64_t width,
            const uint8_t* mask, float* weights, float* out) {
    int64_t q = 0;
    for (; q + 4 <= num_queries; q += 4)
        attend_with<4>(queries + q * width, keys, values, length, width, mask, weights, out + q * width);
    for (; q + 2 <= num_queries; q += 2)
        attend_with<2>(queries + q * width, keys, values, length, width, mask, weights, out + q * width);
    for (; q < num_queries; q++)
        attend_with<1>(queries + q * width, keys, values, length, width, mask, weights, out + q * width);
}

// Rows of another width, as floats padded with zeros.
template <class T>
const float* padded(const T* from, int64_t count, int64_t width, std::vector<float>& memory) {
    const int64_t wide = round_up(width, N);
    memory.assign(count * wide, 0.0f);
    for (int64_t t = 0; t < count; t++)
        for (int64_t i = 0; i < width; i++) memory[t * wide + i] = to_float(from[t * width + i]);
    return memory.data();
}

// Memory of a step that all threads see.
struct Shared {
    std::vector<float> hidden, heads, attended, queries, activated;
};

// Memory of one thread.
struct Own {
    std::vector<float> normed, out, weights, padded, keys, values;
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
    void attend_padded(int64_t num_queries, const T* keys, const T* values, int64_t length, int64_t width,
                       const uint8_t* mask, float* out, Own& own) {
        const int64_t wide = round_up(width, N);
        float* attended = own.at_least(own.out, num_queries * wide);
        float* weights = own.at_least(own.weights, 4 * round_up(length, N));
        const float* queries = own.padded.data();
        if (width == wide) {
            attend(queries, num_queries, keys, values, length, width, mask, weights, attended);
        } else {
            attend(queries, num_queries, padded(keys, length, width, own.keys), padded(values, length, width, own.values),
                   length, wide, mask, weights, attended);
        }
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
            attend_padded(group, keys, values, length + 1, width, nullptr, out, own);
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
            attend_padded(group, (const T*)cache_.text_keys[index] + place, (const T*)cache_.text_values[index] + place,
                        step_.num_bytes, width, cache_.text_mask + row * cache_.mask_stride,
                        shared_.attended.data() + (row * heads.queries + head * group) * width, own);
            for (int64_t j = 0; j < cache_.num_recorded; j++) {
                const int64_t q = cache_.recorded[2 * j + 1] - head * group;
                if (cache_.recorded[2 * j] == index && q >= 0 && q < group)
                    record(row, j, own.padded.data() + q * wide, (const T*)cache_.text_keys[index] + place, own);
            }
        });
    }

    // Keep the weights of a head of cross-attention.
    void record(int64_t row, int64_t j, const float* query, const T* keys, Own& own) {
        const int64_t width = decoder_.cross_heads.width, wide = round_up(width, N), length = step_.num_bytes;
        const uint8_t* mask = cache_.text_mask + row * cache_.mask_stride;
        float* weights = own.at_least(own.weights, 4 * round_up(length, N));
        if (width == wide) {
            weigh<1>(query, keys, length, width, mask, weights);
        } else {
            weigh<1>(query, padded(keys, length, width, own.keys), length, wide, mask, weights);
        }
        std::copy_n(weights, length, cache_.attention + row * cache_.attention_row_stride +
                                         step_.lengths[row] * cache_.attention_frame_stride +
                                         j * cache_.attention_head_stride);
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

// Outputs that INT4 weights are computed for at once; their blocks must be multiples of it.
int64_t dia_int4_unit() { return 4 * N; }

// Read one frame of each sample, and predict the next. Having done nothing, return 1 if a token is none of the vocabulary,
// and 2 if there is no place for the frame of a row.
int dia_step(const Decoder* decoder, const Cache* cache, const Step* step, int num_threads) {
    for (int64_t i = 0; i < step->num_samples * decoder->num_channels; i++)
        if (step->tokens[i] < 0 || step->tokens[i] >= decoder->vocab_size) return 1;
    for (int64_t r = 0; r < step->num_rows; r++)
        if (step->lengths[r] < 0 || step->lengths[r] >= std::min(cache->num_slots, decoder->num_positions)) return 2;
    if (decoder->is_half) {
        run<uint16_t>(*decoder, *cache, *step, num_threads);
    } else {
        run<float>(*decoder, *cache, *step, num_threads);
    }
    return 0;
}
}
