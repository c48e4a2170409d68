// One linear layer by ggml (the kernels of llama.cpp), as one line of JSON: ggml_matmul TYPE NxK M[,M...] THREADS REPEATS
// TYPE is tq2_0, tq1_0 (ternary), q8_0 or q4_0. Random weights; activations are f32 and rounded by ggml at each call.
// peer.py starts it where GGML_MATMUL names it; benches/peers/README.md tells how to build it.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "ggml-cpu.h"
#include "ggml.h"

static double now(int threads) {
    if (threads == 1) {
        timespec time{};
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
        return time.tv_sec + 1e-9 * time.tv_nsec;
    }
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

static ggml_type type_of(const std::string & name) {
    for (int type = 0; type < GGML_TYPE_COUNT; type++) {
        const char * known = ggml_type_name((ggml_type) type);
        if (known && name == known) return (ggml_type) type;
    }
    fprintf(stderr, "no type %s\n", name.c_str());
    exit(1);
}

struct Times {
    double best, median;
};

// Milliseconds of one call, as peer.py counts them: a sample lasts at least 2 ms.
static Times measure(ggml_cgraph * graph, ggml_cplan & plan, int threads, int repeats) {
    auto sample = [&](int calls) {
        double start = now(threads);
        for (int call = 0; call < calls; call++) ggml_graph_compute(graph, &plan);
        return (now(threads) - start) / calls;
    };
    sample(1);
    int calls = (int) (2e-3 / std::max(sample(1), 1e-7)) + 1;
    std::vector<double> times;
    for (int repeat = 0; repeat < repeats; repeat++) times.push_back(1e3 * sample(calls));
    std::sort(times.begin(), times.end());
    return {times.front(), times[times.size() / 2]};
}

int main(int count, char ** words) {
    if (count != 6) {
        fprintf(stderr, "usage: ggml_matmul TYPE NxK M[,M...] THREADS REPEATS\n");
        return 2;
    }
    ggml_type type = type_of(words[1]);
    long outputs = 0, inputs = 0;
    if (sscanf(words[2], "%ldx%ld", &outputs, &inputs) != 2) return 2;
    int threads = atoi(words[4]), repeats = atoi(words[5]);
    std::mt19937 random(0);
    std::uniform_int_distribution<int> sign(-1, 1);
    std::normal_distribution<float> normal;
    std::vector<float> weights((size_t) outputs * inputs);
    for (float & weight : weights) weight = 0.02f * sign(random);
    std::string rows;
    std::stringstream list(words[3]);
    for (std::string word; std::getline(list, word, ',');) {
        long height = atol(word.c_str());
        size_t bytes = ggml_row_size(type, inputs) * outputs + sizeof(float) * height * (3 * inputs + 2 * outputs);
        ggml_context * context = ggml_init({bytes + (64u << 20), nullptr, false});
        ggml_tensor * w = ggml_new_tensor_2d(context, type, inputs, outputs);
        ggml_tensor * x = ggml_new_tensor_2d(context, GGML_TYPE_F32, inputs, height);
        ggml_quantize_chunk(type, weights.data(), w->data, 0, outputs, inputs, nullptr);
        for (long at = 0; at < inputs * height; at++) ((float *) x->data)[at] = normal(random);
        ggml_cgraph * graph = ggml_new_graph(context);
        ggml_build_forward_expand(graph, ggml_mul_mat(context, w, x));
        // A plan keeps its work buffer from call to call.
        ggml_cplan plan = ggml_graph_plan(graph, threads, nullptr);
        std::vector<uint8_t> work(plan.work_size);
        plan.work_data = work.data();
        Times times = measure(graph, plan, threads, repeats);
        char line[256];
        snprintf(line, sizeof line, "%s{\"rows\": %ld, \"gops\": %.3f, \"best_ms\": %.6f, \"median_ms\": %.6f}",
                 rows.empty() ? "" : ", ", height, 2e-6 * height * outputs * inputs / times.best, times.best, times.median);
        rows += line;
        ggml_free(context);
    }
    printf("{\"kind\": \"ggml-%s\", \"target\": \"%s\", \"threads\": %d, \"version\": \"ggml %s\", \"rows\": [%s]}\n",
           words[1], words[2], threads, ggml_version(), rows.c_str());
}
