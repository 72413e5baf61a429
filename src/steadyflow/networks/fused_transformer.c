/* One place of a causal transformer for a whole batch, in one call: see fused_transformer.py.

   Examples are the lanes of vectors: a panel holds LANES of them, and one vector is one number
   (a channel, a logit) of each. So normalisation and attention, which reduce over channels and
   places, need no sums across lanes, and in a product every weight is read once for a panel.

   The body below is compiled once for each number of lanes, by including this file in itself.  */

#ifndef LANES

#include <math.h>
#include <stdint.h>
#include <string.h>

typedef struct {
    int64_t panels, places, features, outputs, width, heads, layers, threads;
    const float *place;             /* (places, width) */
    const float *given;             /* (panels, width, lanes): what the context adds */
    const float *sharpness;         /* (panels, lanes): attention's logits times 1 / sqrt(d) */
    const float *const *weights;    /* 12 of each layer, then 6: see WEIGHTS of the Python file */
    float *cache;                   /* (layers, panels, 2, places, width, lanes) */
    float *state;                   /* (panels, width, lanes) */
    float *scratch;                 /* (threads, 9 width + places + features + outputs, lanes) */
} Net;

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

#define LANES 4
#include __FILE__
#undef LANES
#define LANES 8
#include __FILE__
#undef LANES
#define LANES 16
#include __FILE__
#undef LANES

#else

#define V JOIN(vector, LANES)
#define I JOIN(integer, LANES)
#define NAME(f) JOIN(f, LANES)

typedef float V __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t I __attribute__((vector_size(4 * LANES), aligned(4)));

static inline V NAME(all)(float value) { return value - (V){0}; }

static inline V NAME(choose)(I mask, V yes, V no) {
    return (V)(((I)yes & mask) | ((I)no & ~mask));
}

static inline V NAME(exponential)(V x) {
    const float magic = 12582912.0f;  /* adding it rounds to an integer */
    x = NAME(choose)(x < -87.0f, NAME(all)(-87.0f), x);
    x = NAME(choose)(x > 88.0f, NAME(all)(88.0f), x);
    V n = (x * 1.44269504f + magic) - magic;
    V r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    V p = NAME(all)(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return p * (V)((__builtin_convertvector(n, I) + 127) << 23);
}

/* x times the normal distribution function; erf by Abramowitz & Stegun 7.1.26, to 1.5e-7 */
static inline V NAME(gelu)(V x) {
    V u = x * 0.707106781f;
    V a = NAME(choose)(u < 0.0f, -u, u);
    V t = 1.0f / (1.0f + 0.3275911f * a);
    V p = ((((1.061405429f * t - 1.453152027f) * t + 1.421413741f) * t - 0.284496736f) * t
           + 0.254829592f) * t;
    V erf = 1.0f - p * NAME(exponential)(-a * a);
    return 0.5f * x * (1.0f + NAME(choose)(u < 0.0f, -erf, erf));
}

static void NAME(norm)(const V *x, const float *weight, const float *bias, V *y, int64_t n) {
    V sum = {0}, squares = {0};
    for (int64_t i = 0; i < n; i++) sum += x[i];
    V mean = sum / (float)n;
    for (int64_t i = 0; i < n; i++) squares += (x[i] - mean) * (x[i] - mean);
    V scale = squares / (float)n + 1e-5f;
    for (int l = 0; l < LANES; l++) scale[l] = 1.0f / sqrtf(scale[l]);
    for (int64_t i = 0; i < n; i++) y[i] = (x[i] - mean) * scale * weight[i] + bias[i];
}

/* y = W a + bias, or y += that; W is (n, k) */
static void NAME(linear)(
    const float *weight, const float *bias, const V *a, V *y, int64_t n, int64_t k, int add
) {
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const float *w0 = weight + i * k, *w1 = w0 + k, *w2 = w1 + k, *w3 = w2 + k;
        const float *w4 = w3 + k, *w5 = w4 + k, *w6 = w5 + k, *w7 = w6 + k;
        V s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0}, s4 = {0}, s5 = {0}, s6 = {0}, s7 = {0};
        for (int64_t j = 0; j < k; j++) {
            V v = a[j];
            s0 += v * w0[j]; s1 += v * w1[j]; s2 += v * w2[j]; s3 += v * w3[j];
            s4 += v * w4[j]; s5 += v * w5[j]; s6 += v * w6[j]; s7 += v * w7[j];
        }
        V s[8] = {s0, s1, s2, s3, s4, s5, s6, s7};
        for (int m = 0; m < 8; m++) y[i + m] = (add ? y[i + m] : (V){0}) + s[m] + bias[i + m];
    }
    for (; i < n; i++) {
        V s = {0};
        for (int64_t j = 0; j < k; j++) s += a[j] * weight[i * k + j];
        y[i] = (add ? y[i] : (V){0}) + s + bias[i];
    }
}

/* What one query sees in the places 0 .. last, head by head: all of them in two passes */
static void NAME(look)(
    const Net *net, const V *query, const V *keys, const V *values, V sharpness,
    int64_t last, V *logits, V *seen
) {
    int64_t width = net->width, d = width / net->heads;
    for (int64_t h = 0; h < net->heads; h++) {
        const V *q = query + h * d;
        V top = NAME(all)(-INFINITY), total = {0};
        for (int64_t t = 0; t <= last; t++) {
            const V *key = keys + t * width + h * d;
            V s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0};
            int64_t j = 0;
            for (; j + 4 <= d; j += 4) {
                s0 += q[j] * key[j]; s1 += q[j + 1] * key[j + 1];
                s2 += q[j + 2] * key[j + 2]; s3 += q[j + 3] * key[j + 3];
            }
            for (; j < d; j++) s0 += q[j] * key[j];
            logits[t] = ((s0 + s1) + (s2 + s3)) * sharpness;
            top = NAME(choose)(logits[t] > top, logits[t], top);
        }
        for (int64_t t = 0; t <= last; t++) {
            logits[t] = NAME(exponential)(logits[t] - top);
            total += logits[t];
        }
        V scale = 1.0f / total;
        int64_t j = 0;
        for (; j + 8 <= d; j += 8) {
            V s[8] = {{0}};
            for (int64_t t = 0; t <= last; t++) {
                const V *value = values + t * width + h * d + j;
                for (int m = 0; m < 8; m++) s[m] += logits[t] * value[m];
            }
            for (int m = 0; m < 8; m++) seen[h * d + j + m] = s[m] * scale;
        }
        for (; j < d; j++) {
            V s = {0};
            for (int64_t t = 0; t <= last; t++) s += logits[t] * values[t * width + h * d + j];
            seen[h * d + j] = s * scale;
        }
    }
}

static void NAME(begin)(const Net *net, int64_t panel, int64_t at, const float *previous, V *token) {
    int64_t width = net->width;
    const float *const *w = net->weights + 12 * net->layers;
    const V *given = (const V *)net->given + panel * width;
    V *h = (V *)net->state + panel * width;
    for (int64_t i = 0; i < width; i++) h[i] = given[i] + net->place[at * width + i];
    if (!previous) return;
    const float *rows = previous + panel * LANES * net->features;
    for (int64_t i = 0; i < net->features; i++)
        for (int l = 0; l < LANES; l++) token[i][l] = rows[l * net->features + i];
    NAME(linear)(w[0], w[1], token, h, width, net->features, 1);
}

static void NAME(layer)(const Net *net, int64_t layer, int64_t panel, int64_t at, V *scratch) {
    int64_t width = net->width, size = net->places * width;
    const float *const *w = net->weights + 12 * layer;
    V *h = (V *)net->state + panel * width;
    V *normal = scratch, *inner = normal + width, *seen = inner + 4 * width;
    V *together = seen + width, *logits = together + 3 * width;
    V *keys = (V *)net->cache + 2 * size * (layer * net->panels + panel);
    V *values = keys + size;
    NAME(norm)(h, w[0], w[1], normal, width);
    NAME(linear)(w[2], w[3], normal, together, 3 * width, width, 0);
    memcpy(keys + at * width, together + width, width * sizeof(V));
    memcpy(values + at * width, together + 2 * width, width * sizeof(V));
    V sharpness = ((const V *)net->sharpness)[panel];
    NAME(look)(net, together, keys, values, sharpness, at, logits, seen);
    NAME(linear)(w[4], w[5], seen, h, width, width, 1);
    NAME(norm)(h, w[6], w[7], normal, width);
    NAME(linear)(w[8], w[9], normal, inner, 4 * width, width, 0);
    for (int64_t i = 0; i < 4 * width; i++) inner[i] = NAME(gelu)(inner[i]);
    NAME(linear)(w[10], w[11], inner, h, width, 4 * width, 1);
}

static void NAME(end)(const Net *net, int64_t panel, float *out, V *normal, V *result) {
    const float *const *w = net->weights + 12 * net->layers;
    NAME(norm)((V *)net->state + panel * net->width, w[2], w[3], normal, net->width);
    NAME(linear)(w[4], w[5], normal, result, net->outputs, net->width, 0);
    float *rows = out + panel * LANES * net->outputs;
    for (int64_t i = 0; i < net->outputs; i++)
        for (int l = 0; l < LANES; l++) rows[l * net->outputs + i] = result[i][l];
}

/* The outputs at place `at`, (panels * lanes, outputs), from the vectors before it, or NULL. A
   thread takes all its panels through a layer while the weights are in the cache. */
void NAME(step)(const Net *net, int64_t at, const float *previous, float *out) {
    int64_t each = 9 * net->width + net->places + net->features + net->outputs;
#pragma omp parallel for num_threads(net->threads) if (net->threads > 1) schedule(static, 1)
    for (int64_t thread = 0; thread < net->threads; thread++) {
        V *scratch = (V *)net->scratch + thread * each;
        V *token = scratch + 9 * net->width + net->places, *result = token + net->features;
        int64_t first = net->panels * thread / net->threads;
        int64_t last = net->panels * (thread + 1) / net->threads;
        for (int64_t p = first; p < last; p++) NAME(begin)(net, p, at, previous, token);
        for (int64_t layer = 0; layer < net->layers; layer++)
            for (int64_t p = first; p < last; p++) NAME(layer)(net, layer, p, at, scratch);
        for (int64_t p = first; p < last; p++) NAME(end)(net, p, out, scratch, result);
    }
}

#undef V
#undef I
#undef NAME

#endif
