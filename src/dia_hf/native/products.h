// Products of a few rows with a matrix of weights, each weight read once.
//
// The weights stay where PyTorch has them, in its layout. Every row is computed in the same order of operations whatever
// the number of rows, so a result does not depend on what else is in the batch.
//
// Legend: R rows, I width of the input, O width of the output.
#pragma once

#include <algorithm>
#include <vector>

#include "simd.h"

enum Kind : int64_t { FLOAT32 = 0, BFLOAT16 = 1, INT8 = 2, INT4 = 3 };

struct Matrix {
    int64_t kind;
    const void* data;    // FLOAT32, BFLOAT16, INT8: [O, I]; INT4: PyTorch's layout for CPUs
    const void* scales;  // INT8: float [O]; INT4: bfloat16 [I / 32, O, 2], scale and zero
    int64_t outputs;
    int64_t width;
    int64_t block;  // INT4: outputs that are packed together
};

constexpr int64_t GROUP = 32;      // inputs that share an INT4 scale
constexpr int64_t MOST_TOGETHER = 64;  // outputs of a chunk of work; a multiple of every INT4 block

#if defined(__AVX512BF16__)
constexpr bool HAS_BFLOAT16_PRODUCTS = true;
#else
constexpr bool HAS_BFLOAT16_PRODUCTS = false;
#endif

// --- inputs, in the form that a kind of weights is multiplied with ---

struct Input {
    std::vector<float> floats;       // [R, stride]
    std::vector<uint16_t> halves;    // bfloat16 [R, stride]
    std::vector<int16_t> shorts;     // INT8: [R, stride], times a scale for each row
    std::vector<int8_t> bytes;       // INT4: [R, stride], times a scale for each group
    std::vector<float> scales;       // [R] or [R, I / 32]
    std::vector<float> sums;         // INT4: of the inputs of each group, [R, I / 32]
    int64_t num_rows = 0, width = 0, stride = 0;

    void set(int64_t kind, const float* rows, int64_t count, int64_t size) {
        num_rows = count, width = size, stride = round_up(size, 64);
        if (kind == INT8) return set_shorts(rows);
        if (kind == INT4) return set_bytes(rows);
        if (kind == BFLOAT16 && HAS_BFLOAT16_PRODUCTS) {
            halves.assign(count * stride, 0);
            for (int64_t r = 0; r < count; r++) copy(halves.data() + r * stride, rows + r * size);
        } else {
            floats.assign(count * stride, 0);
            for (int64_t r = 0; r < count; r++) copy(floats.data() + r * stride, rows + r * size);
        }
    }

private:
    template <class T>
    void copy(T* to, const float* from) {
        int64_t i = 0;
        for (; i + N <= width; i += N) store(to + i, load(from + i));
        if (i < width) {
            float rest[N] = {};
            std::memcpy(rest, from + i, 4 * (width - i));
            store(to + i, load(rest));
        }
    }

    static float largest_of(const float* from, int64_t count) {
        vf best{};
        int64_t i = 0;
        for (; i + N <= count; i += N) best = max(absolute(load(from + i)), best);
        float result = largest(best);
        for (; i < count; i++) result = std::max(result, std::fabs(from[i]));
        return result;
    }

    // 16 bits a row: products with 8 bits are then exact integers, and a tenth of the error of bfloat16.
    void set_shorts(const float* rows) {
        shorts.assign(num_rows * stride, 0);
        scales.resize(num_rows);
        // A lane adds two products of at most 128 * limit for each `2 * N` inputs, and must stay below 2^31.
        int64_t terms = round_up(width, 2 * N) / (2 * N);
        float limit = float(std::min<int64_t>(32767, 2147483647 / (256 * terms)));
        for (int64_t r = 0; r < num_rows; r++) {
            const float* from = rows + r * width;
            int16_t* to = shorts.data() + r * stride;
            float most = largest_of(from, width), inverse = most > 0 ? limit / most : 0;
            scales[r] = is_finite(from) ? most / limit : NAN;
            quantize(from, width, inverse, limit, to);
        }
    }

    // 8 bits a group, and exact sums for the zeros: far less error than that of the 4 bits of a weight.
    void set_bytes(const float* rows) {
        int64_t groups = width / GROUP;
        bytes.assign(num_rows * stride, 0);
        scales.resize(num_rows * groups);
        sums.resize(num_rows * groups);
        for (int64_t r = 0; r < num_rows; r++) {
            float factor = is_finite(rows + r * width) ? 1 : NAN;
            for (int64_t g = 0; g < groups; g++) {
                const float* from = rows + r * width + g * GROUP;
                int8_t* to = bytes.data() + r * stride + g * GROUP;
                float most = largest_of(from, GROUP), inverse = most > 0 ? 127 / most : 0;
                float total = quantize(from, GROUP, inverse, 127, to);
                scales[r * groups + g] = factor * most / 127;
                sums[r * groups + g] = scales[r * groups + g] * total;
            }
        }
    }

    // Round `from * inverse` to integers of at most `limit`; return their sum, exact where it is below 2^24.
    template <class T>
    static float quantize(const float* from, int64_t count, float inverse, float limit, T* to) {
        typedef T Narrow __attribute__((vector_size(N * sizeof(T))));
        vf total{};
        for (int64_t i = 0; i < count; i += N) {
            vf values{};
            int64_t there = std::min<int64_t>(N, count - i);
            std::memcpy(&values, from + i, there == N ? 4 * N : 4 * there);
            vf rounded = round_nearest(min(max(values * inverse, splat(-limit)), splat(limit)));
            total += rounded;
            Narrow narrow = __builtin_convertvector(__builtin_convertvector(rounded, vi), Narrow);
            std::memcpy(to + i, &narrow, sizeof narrow);  // `to` has room for whole vectors
        }
        return sum(total);
    }

    // NaN and infinity have no integer: they make the whole row NaN, as they would in floats.
    bool is_finite(const float* from) const {
        uint32_t found = 0;
        for (int64_t i = 0; i < width; i++) {
            uint32_t bits;
            std::memcpy(&bits, from + i, 4);
            found |= uint32_t((bits & 0x7f800000) == 0x7f800000);
        }
        return found == 0;
    }
};

// --- kinds whose rows are contiguous: a dot product for each output ---

struct FloatDot {
    typedef float Weight;
    typedef float In;
    typedef vf Sum;
    static constexpr int STEP = N;
    static vf weight(const float* from) { return load(from); }
    static vf input(const float* from) { return load(from); }
    static vf add(vf sum, vf weight, vf input) { return fma(weight, input, sum); }
    static float total(vf sum) { return ::sum(sum); }
};

struct HalfDot : FloatDot {  // bfloat16 weights without products of bfloat16
    typedef uint16_t Weight;
    static vf weight(const uint16_t* from) { return load(from); }
};

#if defined(__AVX512BF16__)
struct BrainDot {
    typedef uint16_t Weight;
    typedef uint16_t In;
    typedef vf Sum;
    static constexpr int STEP = 2 * N;
    static __m512bh weight(const uint16_t* from) { return (__m512bh)_mm512_loadu_si512(from); }
    static __m512bh input(const uint16_t* from) { return (__m512bh)_mm512_loadu_si512(from); }
    static vf add(vf sum, __m512bh weight, __m512bh input) {
        return (vf)_mm512_dpbf16_ps((__m512)sum, weight, input);
    }
    static float total(vf sum) { return ::sum(sum); }
};
#endif

struct ByteDot {
    typedef int8_t Weight;
    typedef int16_t In;
    typedef vi Sum;
    static constexpr int STEP = 2 * N;
#if defined(__AVX512F__)
    static __m512i weight(const int8_t* from) { return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i*)from)); }
    static __m512i input(const int16_t* from) { return _mm512_loadu_si512(from); }
    static vi add(vi sum, __m512i weight, __m512i input) {
        return (vi)_mm512_dpwssd_epi32((__m512i)sum, weight, input);
    }
#else
    static __m256i weight(const int8_t* from) { return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)from)); }
    static __m256i input(const int16_t* from) { return _mm256_loadu_si256((const __m256i*)from); }
    static vi add(vi sum, __m256i weight, __m256i input) { return sum + (vi)_mm256_madd_epi16(weight, input); }
#endif
    static float total(vi sum) { return ::sum(__builtin_convertvector(sum, vf)); }
};

// O outputs of M rows: out[m][o].
template <class Dot, int O, int M>
static inline void dot_tile(const typename Dot::Weight* weights, const typename Dot::In* inputs, int64_t stride,
                            int64_t width, float* out, int64_t out_stride) {
    typename Dot::Sum sums[O][M] = {};
    int64_t i = 0;
    for (; i + Dot::STEP <= width; i += Dot::STEP) {
        decltype(Dot::weight(nullptr)) weight[O];
        for (int o = 0; o < O; o++) {
            weight[o] = Dot::weight(weights + o * width + i);
            __builtin_prefetch(weights + (O + o) * width + i);  // of the next outputs
        }
        for (int m = 0; m < M; m++) {
            auto input = Dot::input(inputs + m * stride + i);
            for (int o = 0; o < O; o++) sums[o][m] = Dot::add(sums[o][m], weight[o], input);
        }
    }
    if (i < width) {  // inputs are padded with zeros, weights are not
        for (int o = 0; o < O; o++) {
            typename Dot::Weight rest[Dot::STEP] = {};
            std::memcpy(rest, weights + o * width + i, sizeof(rest[0]) * (width - i));
            auto weight = Dot::weight(rest);
            for (int m = 0; m < M; m++)
                sums[o][m] = Dot::add(sums[o][m], weight, Dot::input(inputs + m * stride + i));
        }
    }
    for (int m = 0; m < M; m++)
        for (int o = 0; o < O; o++) out[m * out_stride + o] = Dot::total(sums[o][m]);
}

template <class Dot, int O>
static void dot_rows(const typename Dot::Weight* weights, const typename Dot::In* inputs, int64_t stride, int64_t width,
                     int64_t num_rows, float* out, int64_t out_stride) {
    int64_t r = 0;
    for (; r + 6 <= num_rows; r += 6)
        dot_tile<Dot, O, 6>(weights, inputs + r * stride, stride, width, out + r * out_stride, out_stride);
    for (; r + 4 <= num_rows; r += 4)
        dot_tile<Dot, O, 4>(weights, inputs + r * stride, stride, width, out + r * out_stride, out_stride);
    inputs += r * stride, out += r * out_stride;
    switch (num_rows - r) {
        case 3: return dot_tile<Dot, O, 3>(weights, inputs, stride, width, out, out_stride);
        case 2: return dot_tile<Dot, O, 2>(weights, inputs, stride, width, out, out_stride);
        case 1: return dot_tile<Dot, O, 1>(weights, inputs, stride, width, out, out_stride);
    }
}

template <class Dot>
static void dot_outputs(const typename Dot::Weight* weights, const typename Dot::In* inputs, int64_t stride,
                        int64_t width, int64_t num_rows, int64_t count, float* out) {
    int64_t o = 0;
    for (; o + 4 <= count; o += 4)
        dot_rows<Dot, 4>(weights + o * width, inputs, stride, width, num_rows, out + o, count);
    for (; o < count; o++) dot_rows<Dot, 1>(weights + o * width, inputs, stride, width, num_rows, out + o, count);
}

// --- INT4, in PyTorch's layout ---
//
// A block of outputs holds, for each input, block / 2 bytes: the low halves are the codes of its first outputs, the high
// halves those of its last ones. A weight is (code - 8) * scale + zero.

#if defined(__AVX512VBMI__)
constexpr bool IS_IN_ORDER = true;  // whether the outputs in vectors of codes are in their order
#else
constexpr bool IS_IN_ORDER = false;
#endif

constexpr int64_t AHEAD = 4096;   // bytes of codes, and ...
constexpr int64_t GROUPS_AHEAD = 2;  // ... groups of scales, between a request for them and their use

#if defined(__AVX512F__)
static inline vi halves_at(const uint8_t* from) {
    const __m512i shift = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(4), 1);
    __m512i twice = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i*)from));
    return (vi)_mm512_and_si512(_mm512_srlv_epi16(twice, shift), _mm512_set1_epi8(15));
}
#define UNPACK(half, bits) \
    static inline vi unpack##half##bits(vi a, vi b) { \
        return (vi)_mm512_unpack##half##_epi##bits((__m512i)a, (__m512i)b); \
    }
static inline vi add_products(vi sum, vi codes, vi inputs) {
    return (vi)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)codes, (__m512i)inputs);
}
#else
static inline vi halves_at(const uint8_t* from) {
    __m128i both = _mm_loadu_si128((const __m128i*)from);
    __m256i parts = _mm256_set_m128i(_mm_srli_epi16(both, 4), both);
    return (vi)_mm256_and_si256(parts, _mm256_set1_epi8(15));
}
#define UNPACK(half, bits) \
    static inline vi unpack##half##bits(vi a, vi b) { \
        return (vi)_mm256_unpack##half##_epi##bits((__m256i)a, (__m256i)b); \
    }
static inline vi add_products(vi sum, vi codes, vi inputs) {
    // Sums of two products of at most 15 * 127: 16 bits hold them.
    __m256i pairs = _mm256_maddubs_epi16((__m256i)codes, (__m256i)inputs);
    return sum + (vi)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}
#endif
UNPACK(lo, 8)
UNPACK(hi, 8)
UNPACK(lo, 16)
UNPACK(hi, 16)

// Bytes of the outputs that a vector holds, whose numbers are not in order; see `order_of`.
typedef vi Codes[4];

// The codes of 4 inputs for the 4 * N outputs of a unit: 32 bits of a vector are those of one output.
static inline void unpack_quad(const uint8_t* from, int64_t bytes, Codes& codes) {
#if defined(__AVX512VBMI__)
    static const struct Index {
        alignas(64) uint8_t of[2][64];
        Index() {
            for (int half = 0; half < 2; half++)
                for (int i = 0; i < 64; i++) of[half][i] = uint8_t(i % 4 / 2 * 64 + i % 2 * 32 + half * 16 + i / 4);
        }
    } index;
    (void)bytes;
    __m512i first = _mm512_loadu_si512(from), second = _mm512_loadu_si512(from + 64), mask = _mm512_set1_epi8(15);
    for (int half = 0; half < 2; half++) {
        __m512i both = _mm512_permutex2var_epi8(first, _mm512_load_si512(index.of[half]), second);
        codes[half] = (vi)_mm512_and_si512(both, mask);
        codes[2 + half] = (vi)_mm512_and_si512(_mm512_srli_epi16(both, 4), mask);
    }
#else
    vi a = halves_at(from), b = halves_at(from + bytes), c = halves_at(from + 2 * bytes), d = halves_at(from + 3 * bytes);
    vi low = unpacklo8(a, b), high = unpackhi8(a, b), low2 = unpacklo8(c, d), high2 = unpackhi8(c, d);
    codes[0] = unpacklo16(low, low2), codes[1] = unpackhi16(low, low2);
    codes[2] = unpacklo16(high, high2), codes[3] = unpackhi16(high, high2);
#endif
}

// The first of the 4 outputs in a lane of 16 bytes of a vector of codes, or of sums.
static inline int64_t order_of(int v, int64_t lane, int64_t unit, int64_t block) {
    if (IS_IN_ORDER) return N * v + 4 * lane;
    constexpr int64_t lanes = N / 4;
    return lane / (lanes / 2) * (block / 2) + unit * 2 * N + 16 * (lane % (lanes / 2)) + 4 * v;
}

// Add M rows of products of a group, for one unit of outputs.
template <int M, class Quad>
static inline void add_group(Quad quad_of, const Input& input, int64_t row, int64_t group, const vf (&scale)[4],
                             const vf (&zero)[4], vf (*sums)[4]) {
    vi counts[M][4] = {};
    const int64_t groups = input.width / GROUP;
    const int8_t* rows = input.bytes.data() + row * input.stride + group * GROUP;
    for (int quad = 0; quad < 8; quad++) {
        Codes codes;
        quad_of(quad, codes);
        for (int m = 0; m < M; m++) {
            int32_t four;
            std::memcpy(&four, rows + m * input.stride + 4 * quad, 4);
            vi inputs = four - vi{};
            for (int v = 0; v < 4; v++) counts[m][v] = add_products(counts[m][v], codes[v], inputs);
        }
    }
    for (int m = 0; m < M; m++) {
        vf in_scale = splat(input.scales[(row + m) * groups + group]);
        vf in_sum = splat(input.sums[(row + m) * groups + group]);
        for (int v = 0; v < 4; v++) {
            vf part = __builtin_convertvector(counts[m][v], vf) * in_scale;
            sums[row + m][v] = fma(in_sum, zero[v], fma(part, scale[v], sums[row + m][v]));
        }
    }
}

static void int4_unit(const Matrix& matrix, const Input& input, int64_t first, int64_t unit, vf (*sums)[4]) {
    const int64_t bytes = matrix.block / 2, groups = matrix.width / GROUP, rows = input.num_rows;
    const uint8_t* data = (const uint8_t*)matrix.data + first * matrix.width / 2 + unit * 2 * N;
    const uint16_t* scales = (const uint16_t*)matrix.scales;
    for (int64_t r = 0; r < rows; r++)
        for (int v = 0; v < 4; v++) sums[r][v] = vf{};
    for (int64_t group = 0; group < groups; group++) {
        const uint8_t* from = data + group * GROUP * bytes;
        vf scale[4], zero[4];
        for (int v = 0; v < 4; v++) {
            // Far apart, so the processor does not foresee them.
            if (group + GROUPS_AHEAD < groups)
                __builtin_prefetch(scales + 2 * ((group + GROUPS_AHEAD) * matrix.outputs + first + v * N));
            const uint16_t* pairs_of = scales + 2 * (group * matrix.outputs + first);
            vu pairs;
            if (IS_IN_ORDER) {
                std::memcpy(&pairs, pairs_of + 2 * N * v, sizeof pairs);
            } else {
                for (int64_t lane = 0; lane < N / 4; lane++)
                    std::memcpy((char*)&pairs + 16 * lane, pairs_of + 2 * order_of(v, lane, unit, matrix.block), 16);
            }
            scale[v] = (vf)(pairs << 16);
            zero[v] = fma(splat(-8), scale[v], (vf)(pairs & 0xffff0000));
        }
        auto unpack = [&](int quad, Codes& codes) {
            __builtin_prefetch(from + 4 * quad * bytes + AHEAD);
            if (bytes > 16) __builtin_prefetch(from + 4 * quad * bytes + AHEAD + 64);
            unpack_quad(from + 4 * quad * bytes, bytes, codes);
        };
        int64_t r = 0;
        if (rows <= 2) {
            if (rows == 2) add_group<2>(unpack, input, 0, group, scale, zero, sums);
            else add_group<1>(unpack, input, 0, group, scale, zero, sums);
            continue;
        }
        Codes all[8];
        for (int quad = 0; quad < 8; quad++) unpack(quad, all[quad]);
        auto read = [&](int quad, Codes& codes) {
            for (int v = 0; v < 4; v++) codes[v] = all[quad][v];
        };
        for (; r + 4 <= rows; r += 4) add_group<4>(read, input, r, group, scale, zero, sums);
        for (; r + 2 <= rows; r += 2) add_group<2>(read, input, r, group, scale, zero, sums);
        for (; r < rows; r++) add_group<1>(read, input, r, group, scale, zero, sums);
    }
}

static void int4_outputs(const Matrix& matrix, const Input& input, int64_t first, int64_t count, float* out) {
    const int64_t units = matrix.block / (4 * N);
    std::vector<vf> memory(input.num_rows * 4);
    vf(*sums)[4] = (vf(*)[4])memory.data();
    for (int64_t block = first; block < first + count; block += matrix.block) {
        for (int64_t unit = 0; unit < units; unit++) {
            int4_unit(matrix, input, block, unit, sums);
            for (int64_t r = 0; r < input.num_rows; r++)
                for (int v = 0; v < 4; v++)
                    for (int64_t lane = 0; lane < N / 4; lane++) {
                        int64_t output = block - first + order_of(v, lane, unit, matrix.block);
                        std::memcpy(out + r * count + output, (char*)&sums[r][v] + 16 * lane, 16);
                    }
        }
    }
}

// --- any kind ---

// Compute outputs `first` to `first + count` of all rows: out[r][o], o from 0.
static void product(const Matrix& matrix, const Input& input, int64_t first, int64_t count, float* out) {
    int64_t width = matrix.width, rows = input.num_rows, stride = input.stride;
    switch (matrix.kind) {
        case FLOAT32: {
            auto weights = (const float*)matrix.data + first * width;
            return dot_outputs<FloatDot>(weights, input.floats.data(), stride, width, rows, count, out);
        }
        case BFLOAT16: {
            auto weights = (const uint16_t*)matrix.data + first * width;
#if defined(__AVX512BF16__)
            return dot_outputs<BrainDot>(weights, input.halves.data(), stride, width, rows, count, out);
#else
            return dot_outputs<HalfDot>(weights, input.floats.data(), stride, width, rows, count, out);
#endif
        }
        case INT8: {
            auto weights = (const int8_t*)matrix.data + first * width;
            dot_outputs<ByteDot>(weights, input.shorts.data(), stride, width, rows, count, out);
            auto scales = (const float*)matrix.scales + first;
            for (int64_t r = 0; r < rows; r++)
                for (int64_t o = 0; o < count; o++) out[r * count + o] *= scales[o] * input.scales[r];
            return;
        }
        case INT4: return int4_outputs(matrix, input, first, count, out);
    }
}
