// Vectors of the instruction set that this file is compiled for, by the vector extensions of GCC and Clang.
//
// One source serves AVX2 and AVX-512; only products of integers and of bfloat16 need intrinsics.
#pragma once

#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__AVX512F__)
constexpr int N = 16;  // floats in a vector
#else
constexpr int N = 8;
#endif

typedef float vf __attribute__((vector_size(4 * N)));
typedef int32_t vi __attribute__((vector_size(4 * N)));
typedef uint32_t vu __attribute__((vector_size(4 * N)));
typedef uint16_t vh __attribute__((vector_size(2 * N)));

static inline int64_t round_up(int64_t number, int64_t unit) { return (number + unit - 1) / unit * unit; }

static inline vf splat(float value) { return value - vf{}; }

static inline vf load(const float* from) {
    vf value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

static inline void store(float* to, vf value) { std::memcpy(to, &value, sizeof value); }

// bfloat16 is the upper half of a float.
static inline vf load(const uint16_t* from) {
    vh half;
    std::memcpy(&half, from, sizeof half);
    return (vf)(__builtin_convertvector(half, vu) << 16);
}

static inline float to_float(float value) { return value; }

static inline float to_float(uint16_t value) {
    uint32_t bits = uint32_t(value) << 16;
    float result;
    std::memcpy(&result, &bits, sizeof result);
    return result;
}

// Round to the nearest bfloat16, ties to even; NaN stays NaN.
static inline vh to_bfloat16(vf value) {
    vu bits = (vu)value;
    vu rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    vu is_nan = (vu)(value != value);
    return __builtin_convertvector((rounded & ~is_nan) | (is_nan & 0x7fc0), vh);
}

static inline void store(uint16_t* to, vf value) {
    vh half = to_bfloat16(value);
    std::memcpy(to, &half, sizeof half);
}

static inline vf fma(vf a, vf b, vf c) { return a * b + c; }  // contracted by -ffp-contract=fast

static inline vf max(vf a, vf b) { return a > b ? a : b; }
static inline vf min(vf a, vf b) { return a < b ? a : b; }

static inline float sum(vf value) {
#if defined(__AVX512F__)
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256((__m512)value), _mm512_extractf32x8_ps((__m512)value, 1));
#else
    __m256 half = (__m256)value;
#endif
    __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    quarter = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
    return _mm_cvtss_f32(_mm_add_ss(quarter, _mm_movehdup_ps(quarter)));
}

// Fold neighboring segments of G floats of two vectors onto each other: the first of each two from `a`, then from `b`.
template <int G, int... I>
static inline vf fold(vf a, vf b, std::integer_sequence<int, I...>) {
    return __builtin_shufflevector(a, b, (I % (2 * G) < G ? I : N + I - G)...) +
           __builtin_shufflevector(a, b, (I % (2 * G) < G ? I + G : N + I)...);
}

// The sums of N vectors, in order. The vectors are overwritten.
template <int G = N / 2>
static inline vf sums_of(vf* values) {
    for (int i = 0; i < G; i++) values[i] = fold<G>(values[i], values[i + G], std::make_integer_sequence<int, N>());
    if constexpr (G > 1) {
        return sums_of<G / 2>(values);
    } else {
        return values[0];
    }
}

static inline float largest(vf value) {
    float result = value[0];
    for (int i = 1; i < N; i++) result = value[i] > result ? value[i] : result;
    return result;
}

static inline vf absolute(vf value) { return (vf)((vi)value & 0x7fffffff); }

// The nearest integer, ties to even, of |value| < 2^22.
static inline vf round_nearest(vf value) {
    const float magic = 12582912.0f;  // 1.5 * 2^23: the sum has no bits below 1
    return (value + magic) - magic;
}

// e^x, with a relative error below 2e-7; 0 below -87, infinity above 88.7.
static inline vf exponential(vf x) {
    vf clamped = min(max(x, splat(-87.3f)), splat(88.8f));
    vf n = round_nearest(clamped * 1.44269504f);
    vf r = fma(n, splat(-0.693145752f), clamped);
    r = fma(n, splat(-1.42860677e-6f), r);
    vf p = fma(splat(1.98756915e-4f), r, splat(1.39819995e-3f));
    p = fma(p, r, splat(8.33345205e-3f));
    p = fma(p, r, splat(4.16657962e-2f));
    p = fma(p, r, splat(1.66666657e-1f));
    p = fma(p, r, splat(0.5f));
    p = fma(p, r * r, r) + 1.0f;
    // Twice, because 2^128 is not a float but half of it is.
    vi e = __builtin_convertvector(n, vi);
    vi half = e >> 1;
    p = p * (vf)((half + 127) << 23) * (vf)((e - half + 127) << 23);
    p = x < -87.3f ? vf{} : p;
    return x != x ? x : p;
}

// x * sigmoid(x).
static inline vf silu(vf x) { return x / (1.0f + exponential(-x)); }
