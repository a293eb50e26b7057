// From logits to the next frame: `SamplingSpec` in `engine/sampling.py` and the rest of a step in `engine/step.py`, which
// are its oracles.
//
// Legend: B samples, R rows (B, or 2 * B under guidance, conditional ones first), C channels, V vocabulary, N new frames,
// G frames with forced tokens.

#include <algorithm>
#include <vector>

#include "simd.h"

namespace {

constexpr float NONE = -INFINITY;
constexpr int64_t NEVER = int64_t(1) << 62;

struct Spec {
    int64_t eos_token_id, pad_token_id;
    int64_t is_guided, do_sample;
    float eos_logit_scale;
};

struct State {
    int64_t num_samples, num_channels, vocab_size, num_new_frames, num_forced, num_slots;
    const float* guidance_weight;  // [B], and so on to `last_begin_of_end`
    const uint8_t* filters;
    const float* temperature;
    const int64_t* top_k;
    const float* dropped_mass;
    const int64_t* min_frames;
    const int64_t* last_begin_of_end;
    const int64_t* forced;  // [B, G, C]
    const int64_t* delays;  // [C]
    int64_t* tokens;        // [B, C]
    int64_t* lengths;       // [R]
    int64_t* num_new;       // [B]
    int64_t* end;           // [B]
    int64_t* new_frames;    // [B, N, C]
    const float* noise;     // [B, C, V], or null
    uint8_t* is_broken;     // [B]
};

// Memory of the rows of a step.
struct Memory {
    std::vector<float> guided, scores, kept;
    std::vector<int64_t> order;
};

// Numbers in the order of floats: NaN beyond infinity, and no two zeros.
inline int32_t rank_of(float value) {
    int32_t bits;
    value += 0.0f;
    std::memcpy(&bits, &value, 4);
    return bits < 0 ? bits ^ 0x7fffffff : bits;
}

// The float of a rank.
inline float value_of(int64_t rank) {
    int32_t bits = int32_t(rank);
    if (bits < 0) bits ^= 0x7fffffff;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

// The smallest of the `count` largest values, by bisection of the ranks: a pass over the row for each bit.
float least_of_largest(const float* values, int64_t size, int64_t count) {
    if (count >= size) return NONE;
    int64_t low = rank_of(NONE), high = rank_of(INFINITY);  // `low` has at least `count` values, `high + 1` fewer
    while (low < high) {
        int64_t middle = low + (high - low + 1) / 2;
        float limit = value_of(middle);
        vi found{};
        int64_t i = 0;
        for (; i + N <= size; i += N) found -= load(values + i) >= splat(limit);
        int64_t number = 0;
        for (int lane = 0; lane < N; lane++) number += found[lane];
        for (; i < size; i++) number += values[i] >= limit;
        if (number == count) return limit;
        if (number > count) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    return value_of(low);
}

// Keep the `count` largest of `by` in `values`, the first of equals; `always` is kept as well.
void keep_largest(const float* by, int64_t size, int64_t count, int64_t always, float* values) {
    float least = least_of_largest(by, size, count);
    int64_t above = 0;
    for (int64_t i = 0; i < size; i++) above += by[i] > least;
    int64_t equals = count - above;  // of those at the limit that are kept
    for (int64_t i = 0; i < size; i++) {
        bool is_kept = by[i] > least || (by[i] == least && equals-- > 0);
        if (!is_kept && i != always) values[i] = NONE;
    }
}

// x + weight * (y - x), by the formula of `torch.lerp`.
void interpolate(const float* x, const float* y, float weight, int64_t size, float* out) {
    const bool is_near = std::fabs(weight) < 0.5f;
    for (int64_t i = 0; i < size; i++) {
        float difference = y[i] - x[i];
        out[i] = is_near ? x[i] + weight * difference : y[i] - difference * (1 - weight);
    }
}

int64_t first_largest(const float* values, int64_t size) {
    return std::max_element(values, values + size) - values;
}

// Draw from the softmax of scores: the argmax of p / noise.
int64_t draw(float* scores, int64_t size, const float* noise, float dropped_mass, bool drops, Memory& memory) {
    float best = NONE;
    for (int64_t i = 0; i < size; i++) best = std::max(best, scores[i]);
    std::vector<int64_t>& order = memory.order;
    order.clear();
    for (int64_t i = 0; i < size; i++)
        if (scores[i] > NONE) order.push_back(i);
    if (order.empty()) return 0;
    float* mass = memory.kept.data();
    const int64_t count = int64_t(order.size());
    if (drops) {
        std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return scores[a] < scores[b]; });
    }
    for (int64_t i = 0; i < count; i++) mass[i] = scores[order[i]] - best;
    std::fill(mass + count, mass + round_up(count, N), NONE);
    vf total{};
    for (int64_t i = 0; i < count; i += N) {
        vf value = exponential(load(mass + i));
        store(mass + i, value);
        total += value;
    }
    int64_t first = 0;
    if (drops) {
        const float whole = sum(total);
        double below = 0;
        for (; first + 1 < count; first++) {
            below += mass[first] / whole;
            if (!(float(below) <= dropped_mass)) break;
        }
    }
    int64_t chosen = order[first];
    float most = -1;
    for (int64_t i = first; i < count; i++) {
        float value = mass[i] / noise[order[i]];
        if (value > most) most = value, chosen = order[i];
    }
    return chosen;
}

void choose(const Spec& spec, const State& state, const float* logits, int64_t sample, int64_t* chosen, float* best,
            bool* ends, Memory& memory) {
    const int64_t size = state.vocab_size, channels = state.num_channels, eos = spec.eos_token_id;
    for (int64_t channel = 0; channel < channels; channel++) {
        const float* conditional = logits + (sample * channels + channel) * size;
        float *guided = memory.guided.data(), *scores = memory.scores.data();
        if (spec.is_guided) {
            const float* unconditional = conditional + state.num_samples * channels * size;
            interpolate(unconditional, conditional, state.guidance_weight[sample], size, guided);
        } else {
            std::copy_n(conditional, size, guided);
        }
        if (state.filters[sample]) {
            // The best permitted token is a candidate in any case: a small number may hold only special tokens.
            int64_t always = first_largest(guided, channel == 0 ? eos + 1 : eos);
            std::copy_n(conditional, size, scores);
            keep_largest(guided, size, state.top_k[sample], always, scores);
        } else {
            std::copy_n(guided, size, scores);
        }
        float end = scores[eos] * spec.eos_logit_scale;
        std::fill(scores + eos, scores + size, NONE);
        float most = NONE;
        bool is_broken = false;
        for (int64_t i = 0; i < eos; i++) {
            is_broken |= scores[i] != scores[i] || guided[i] != guided[i];
            most = std::max(most, scores[i]);
        }
        best[channel] = is_broken ? NAN : most;
        if (channel == 0) *ends = end > best[0] && state.num_new[sample] >= state.min_frames[sample];
        if (!spec.do_sample) {
            chosen[channel] = best[channel] > NONE ? first_largest(scores, eos) : 0;
            continue;
        }
        if (is_broken) {
            chosen[channel] = 0;
            continue;
        }
        const float temperature = state.temperature[sample];
        for (int64_t i = 0; i < eos; i++) scores[i] /= temperature;
        if (!state.filters[sample] && state.top_k[sample] < size) {
            float least = least_of_largest(scores, size, state.top_k[sample]);
            for (int64_t i = 0; i < eos; i++)
                if (scores[i] < least) scores[i] = NONE;
        }
        const float dropped = state.dropped_mass[sample];
        const float* noise = state.noise + (sample * channels + channel) * size;
        chosen[channel] = draw(scores, eos, noise, dropped, dropped > 0, memory);
    }
    if (*ends) chosen[0] = eos;
}

}  // namespace

extern "C" {

// Sizes of the structures, for a test that Python has the same.
int64_t dia_size_of_sampling(int64_t index) {
    const int64_t sizes[] = {sizeof(Spec), sizeof(State)};
    return sizes[index];
}

// Choose the next frame of each sample by its logits `[R, C, V]`, and store it.
void dia_take_frame(const Spec* spec, const State* state, const float* logits) {
    const int64_t channels = state->num_channels, size = state->vocab_size;
    Memory memory;
    memory.guided.resize(round_up(size, N));
    memory.scores.resize(round_up(size, N));
    memory.kept.resize(round_up(size, N));
    std::vector<int64_t> chosen(channels);
    std::vector<float> best(channels);
    for (int64_t b = 0; b < state->num_samples; b++) {
        bool ends = false;
        choose(*spec, *state, logits, b, chosen.data(), best.data(), &ends, memory);
        const int64_t now = state->num_new[b];
        if (state->end[b] == NEVER && (ends || now == state->last_begin_of_end[b])) state->end[b] = now;
        const int64_t since = now - state->end[b];
        const int64_t* forced = state->forced + (b * state->num_forced + std::min(now, state->num_forced - 1)) * channels;
        int64_t* frame = state->new_frames + (b * state->num_new_frames + std::min(now, state->num_new_frames - 1)) * channels;
        for (int64_t c = 0; c < channels; c++) {
            const int64_t delay = state->delays[c];
            const bool is_forced = forced[c] != spec->pad_token_id;
            int64_t token = since == delay ? spec->eos_token_id : chosen[c];
            if (is_forced) token = forced[c];
            if (since > delay) token = spec->pad_token_id;
            if (spec->do_sample && since < delay && !is_forced && !std::isfinite(best[c])) state->is_broken[b] = 1;
            state->tokens[b * channels + c] = frame[c] = token;
        }
        state->num_new[b]++;
        for (int64_t row = b; row < (spec->is_guided ? 2 : 1) * state->num_samples; row += state->num_samples)
            state->lengths[row] = std::min(state->lengths[row] + 1, state->num_slots - 1);
    }
}
}
