// Time of all matrix products of one decoder step of Dia 1.6B in ggml, on a CPU.
//
//     step_products THREADS LAYERS TYPE...
//
// TYPE is q8_0, q4_0, bf16 or f16. Each type's weights are allocated twice where ggml has two layouts: as in a file
// ("plain"), and as ggml repacks them while a model is loaded ("repacked"). All matrices of all layers are distinct in
// memory. Afterwards, each line of the input, "TYPE LAYOUT ROWS STEPS", is answered by a line of milliseconds, one
// number a step, or by "none" where there are no such weights. The values are random: speed does not depend on
// them.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <map>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "ggml.h"

namespace {

struct Shape {
    int64_t inputs, outputs;
};

// Of one layer; fused as ours are, which favors ggml: fewer products, each with one conversion of its input.
const std::vector<Shape> kLayer = {
    {2048, 3072},   // queries, keys and values of self-attention
    {2048, 2048},   // its output
    {2048, 2048},   // queries of cross-attention
    {2048, 2048},   // its output
    {2048, 16384},  // gate and up
    {8192, 2048},   // down
};
const Shape kHead = {2048, 9252};

struct Weights {
    std::vector<ggml_tensor*> matrices;
    size_t num_bytes = 0;
};

std::vector<Shape> all_shapes(int num_layers) {
    std::vector<Shape> shapes;
    for (int layer = 0; layer < num_layers; layer++) shapes.insert(shapes.end(), kLayer.begin(), kLayer.end());
    shapes.push_back(kHead);
    return shapes;
}

// Random values, quantized; one block of rows that all matrices of this width repeat.
std::vector<uint8_t> random_rows(ggml_type type, int64_t width, int64_t rows) {
    std::mt19937 generator(1);
    std::uniform_real_distribution<float> uniform(-0.03f, 0.03f);
    std::vector<float> values(static_cast<size_t>(width * rows));
    for (float& value : values) value = uniform(generator);
    std::vector<uint8_t> bytes(ggml_row_size(type, width) * rows);
    ggml_quantize_chunk(type, values.data(), bytes.data(), 0, rows, width, nullptr);
    return bytes;
}

// A matrix in a buffer of a kind. Its memory is freed with the process.
ggml_tensor* allocate(ggml_type type, const Shape& shape, ggml_backend_buffer_type_t kind) {
    ggml_init_params params = {ggml_tensor_overhead() * 2, nullptr, true};
    ggml_context* context = ggml_init(params);
    ggml_tensor* matrix = ggml_new_tensor_2d(context, type, shape.inputs, shape.outputs);
    ggml_backend_buffer_t buffer = ggml_backend_alloc_ctx_tensors_from_buft(context, kind);
    if (buffer == nullptr) std::exit(2);
    ggml_backend_buffer_set_usage(buffer, GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    return matrix;
}

// The buffer type into which ggml repacks; null if there is none.
ggml_backend_buffer_type_t repacking_kind() {
    ggml_backend_dev_t device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    ggml_backend_reg_t registry = ggml_backend_dev_backend_reg(device);
    auto extra = reinterpret_cast<ggml_backend_dev_get_extra_bufts_t>(
        ggml_backend_reg_get_proc_address(registry, "ggml_backend_dev_get_extra_bufts"));
    if (extra == nullptr) return nullptr;
    ggml_backend_buffer_type_t* kinds = extra(device);
    return kinds == nullptr ? nullptr : kinds[0];
}

// Whether ggml multiplies by a matrix of this type and shape in such a buffer; llama.cpp asks the same of each.
bool supports(ggml_type type, const Shape& shape, ggml_backend_buffer_type_t kind) {
    ggml_init_params params = {ggml_tensor_overhead() * 8, nullptr, true};
    ggml_context* context = ggml_init(params);
    ggml_tensor* matrix = ggml_new_tensor_2d(context, type, shape.inputs, shape.outputs);
    ggml_tensor* states = ggml_new_tensor_2d(context, GGML_TYPE_F32, shape.inputs, 2);
    ggml_tensor* product = ggml_mul_mat(context, matrix, states);
    matrix->buffer = ggml_backend_buft_alloc_buffer(kind, 0);
    const bool is_supported =
        ggml_backend_dev_supports_op(ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU), product);
    ggml_backend_buffer_free(matrix->buffer);
    ggml_free(context);
    return is_supported;
}

// All matrices, repacked where `kind` supports it, otherwise plain; none at all if it supports none.
Weights allocate_all(ggml_type type, const std::vector<Shape>& shapes, ggml_backend_buffer_type_t kind) {
    Weights weights;
    if (kind == nullptr || !supports(type, shapes[0], kind)) return weights;
    const int64_t block = 64;
    std::map<int64_t, std::vector<uint8_t>> blocks;
    for (const Shape& shape : shapes) {
        const bool is_supported = supports(type, shape, kind);
        ggml_tensor* matrix = allocate(type, shape, is_supported ? kind : ggml_backend_cpu_buffer_type());
        auto [found, is_new] = blocks.try_emplace(shape.inputs);
        if (is_new) found->second = random_rows(type, shape.inputs, block);
        std::vector<uint8_t> bytes(ggml_nbytes(matrix));
        for (size_t start = 0; start < bytes.size(); start += found->second.size()) {
            const size_t size = std::min(found->second.size(), bytes.size() - start);
            std::copy_n(found->second.begin(), size, bytes.begin() + start);
        }
        ggml_backend_tensor_set(matrix, bytes.data(), 0, bytes.size());  // repacks, if the buffer does
        weights.matrices.push_back(matrix);
        weights.num_bytes += bytes.size();
    }
    return weights;
}

// A graph of all products for a number of rows, and its inputs and outputs.
struct Graph {
    ggml_context* context = nullptr;
    ggml_backend_buffer_t buffer = nullptr;
    ggml_cgraph* graph = nullptr;
};

Graph build(const Weights& weights, int64_t rows, ggml_backend_t backend) {
    Graph built;
    const size_t count = weights.matrices.size();
    ggml_init_params params = {
        ggml_tensor_overhead() * (count + 8) + ggml_graph_overhead_custom(count + 8, false), nullptr, true};
    built.context = ggml_init(params);
    std::map<int64_t, ggml_tensor*> states;
    built.graph = ggml_new_graph_custom(built.context, count + 8, false);
    for (ggml_tensor* matrix : weights.matrices) {
        ggml_tensor*& input = states[matrix->ne[0]];
        if (input == nullptr) input = ggml_new_tensor_2d(built.context, GGML_TYPE_F32, matrix->ne[0], rows);
        ggml_build_forward_expand(built.graph, ggml_mul_mat(built.context, matrix, input));
    }
    built.buffer = ggml_backend_alloc_ctx_tensors(built.context, backend);
    if (built.buffer == nullptr) std::exit(2);
    std::mt19937 generator(2);
    std::normal_distribution<float> normal;
    for (auto& [width, input] : states) {
        std::vector<float> values(static_cast<size_t>(width * rows));
        for (float& value : values) value = normal(generator);
        ggml_backend_tensor_set(input, values.data(), 0, values.size() * sizeof(float));
    }
    return built;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 4) {
        std::fprintf(stderr, "usage: %s THREADS LAYERS TYPE...\n", argv[0]);
        return 1;
    }
    const std::map<std::string, ggml_type> types = {
        {"q8_0", GGML_TYPE_Q8_0}, {"q4_0", GGML_TYPE_Q4_0}, {"bf16", GGML_TYPE_BF16}, {"f16", GGML_TYPE_F16}};
    ggml_log_set([](ggml_log_level, const char*, void*) {}, nullptr);  // a line for each repacked matrix
    ggml_backend_t backend = ggml_backend_cpu_init();
    ggml_backend_cpu_set_n_threads(backend, std::atoi(argv[1]));
    const std::vector<Shape> shapes = all_shapes(std::atoi(argv[2]));
    ggml_backend_buffer_type_t repacking = repacking_kind();

    std::map<std::string, Weights> weights;
    for (int index = 3; index < argc; index++) {
        const std::string name = argv[index];
        if (types.count(name) == 0) {
            std::fprintf(stderr, "%s is no type\n", name.c_str());
            return 1;
        }
        const ggml_type type = types.at(name);
        weights[name + " plain"] = allocate_all(type, shapes, ggml_backend_cpu_buffer_type());
        weights[name + " repacked"] = allocate_all(type, shapes, repacking);
    }
    std::printf("ready");
    for (const auto& [name, each] : weights) {
        if (!each.matrices.empty()) std::printf(", %s %zu", name.c_str(), each.num_bytes);
    }
    std::printf("\n");
    std::fflush(stdout);

    std::map<std::string, Graph> graphs;
    std::string line;
    while (std::getline(std::cin, line)) {
        std::istringstream words(line);
        std::string type, layout;
        int64_t rows = 0;
        int steps = 0;
        words >> type >> layout >> rows >> steps;
        const std::string name = type + " " + layout;
        if (weights[name].matrices.empty() || rows < 1) {
            std::printf("none\n");
            std::fflush(stdout);
            continue;
        }
        const std::string key = name + " " + std::to_string(rows);
        if (graphs.count(key) == 0) graphs[key] = build(weights[name], rows, backend);
        ggml_backend_graph_compute(backend, graphs[key].graph);  // warm-up
        for (int step = 0; step < steps; step++) {
            const auto start = std::chrono::steady_clock::now();
            ggml_backend_graph_compute(backend, graphs[key].graph);
            const std::chrono::duration<double, std::milli> passed = std::chrono::steady_clock::now() - start;
            std::printf("%.4f ", passed.count());
        }
        std::printf("\n");
        std::fflush(stdout);
    }
    return 0;
}
