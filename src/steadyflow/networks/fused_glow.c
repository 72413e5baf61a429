/* Glow's conditioner, conv3x3(relu(conv1x1(relu(conv3x3(x))))), in one pass over the pixels.
 *
 *     cols = the 3x3 neighbourhoods of x          (9 C numbers at every pixel)
 *     h    = relu(W2 relu(W1 cols + b1) + b2)     a perceptron at every pixel
 *     y    = what W3 h (9 O numbers at every pixel) adds to the 3x3 neighbourhoods of y
 *
 * Pixels are cut into panels of P (panel.h). Each thread has images of its own, so that
 * neighbourhoods never meet another thread's. Where b1 is another one for each image, no panel has
 * pixels of two. fused_glow.py has the why.
 */
#include "../neighbourhoods.h"

typedef struct {
    int64_t batch, channels;
    Size size;
    int64_t hidden, out, threads, given;
    const float *x;                           /* (batch, channels, height, width) */
    const float *first, *first_bias;          /* (hidden, 9 channels), (hidden) or, if given, (batch, hidden) */
    const float *second, *second_bias, *last; /* (hidden, hidden), (hidden), (9 out, hidden) */
    float *scratch;                           /* of each thread in turn */
    float *kept; /* both hidden layers of each panel in turn, from forward to backward; or null */
} Net;

typedef struct {
    const float *dy;                    /* (batch, out, height, width) */
    float *dx;                          /* zeros (batch, channels, height, width), or null */
    float *d_first, *d_first_bias;      /* of each thread (if given, of each image) in turn, */
    float *d_second, *d_second_bias, *d_last; /* or all null */
} Gradients;

static int64_t pixels_of(const Net *n) { return pixels(&n->size); }
static int64_t first_image(const Net *n, int64_t thread) { return n->batch * thread / n->threads; }
static int64_t panels_of(const Net *n, int64_t images) {
    return n->given ? images * ((pixels_of(n) + P - 1) / P) : (images * pixels_of(n) + P - 1) / P;
}

/* How many pixels the panel has that begins at `pixel`, before `end`. */
static int64_t count_of(const Net *n, int64_t pixel, int64_t end) {
    const int64_t left = n->given ? pixels_of(n) - pixel % pixels_of(n) : end - pixel;
    return left < P ? left : P;
}

/* Floats of the hidden layers that are kept. */
int64_t steadyflow_glow_kept(const Net *n) {
    int64_t panels = 0;
    for (int64_t t = 0; t < n->threads; t++) panels += panels_of(n, first_image(n, t + 1) - first_image(n, t));
    return panels * 2 * n->hidden * P;
}

/* Floats of scratch of a thread. */
int64_t steadyflow_glow_scratch(const Net *n, int64_t backward) {
    const int64_t ends = 9 * (n->channels + n->out), widest = n->hidden > 9 * n->channels ? n->hidden : 9 * n->channels;
    return P * (ends + 2 * n->hidden + (backward ? 9 * n->channels + 2 * n->hidden + widest : 0));
}

static void hidden_layers(const Net *n, int64_t pixel, const float *cols, float *h) {
    const int64_t size = n->hidden * P, image = n->given ? pixel / pixels_of(n) : 0;
    linear(n->first, n->first_bias + image * n->hidden, cols, 9 * n->channels, h, n->hidden, 1);
    linear(n->second, n->second_bias, h, n->hidden, h + size, n->hidden, 1);
}

/* y: zeros (batch, out, height, width), to which everything is added. */
void steadyflow_glow_forward(const Net *n, float *y) {
    const int64_t share = steadyflow_glow_scratch(n, 0), size = n->hidden * P;
#pragma omp parallel for schedule(static) num_threads(n->threads) if (n->threads > 1)
    for (int64_t t = 0; t < n->threads; t++) {
        float *cols = n->scratch + t * share, *taps = cols + 9 * n->channels * P, *own = taps + 9 * n->out * P;
        float *kept = n->kept;
        for (int64_t s = 0; kept && s < t; s++) kept += 2 * size * panels_of(n, first_image(n, s + 1) - first_image(n, s));
        const int64_t end = first_image(n, t + 1) * pixels_of(n);
        for (int64_t pixel = first_image(n, t) * pixels_of(n), count; pixel < end; pixel += count) {
            float *h = kept ? kept : own;
            count = count_of(n, pixel, end);
            gather_taps(&n->size, n->x, n->channels, 1, pixel, count, cols);
            hidden_layers(n, pixel, cols, h);
            linear(n->last, 0, h + size, n->hidden, taps, 9 * n->out, 0);
            scatter_taps(&n->size, taps, n->out, -1, pixel, count, y);
            if (kept) kept += 2 * size;
        }
    }
}

static const float *turned(const float *h, int64_t n, float *to) {
    transpose(h, P, n / LANES * LANES, P, to, n);
    return to;
}

void steadyflow_glow_backward(const Net *n, const Gradients *b) {
    const int64_t share = steadyflow_glow_scratch(n, 1), size = n->hidden * P;
    const int64_t in = 9 * n->channels, out = 9 * n->out, hidden = n->hidden;
#pragma omp parallel for schedule(static) num_threads(n->threads) if (n->threads > 1)
    for (int64_t t = 0; t < n->threads; t++) {
        float *cols = n->scratch + t * share, *taps = cols + in * P, *own = taps + out * P;
        float *g = own + 2 * size, *d_cols = g + 2 * size, *turn = d_cols + in * P;
        const float *kept = n->kept;
        for (int64_t s = 0; kept && s < t; s++) kept += 2 * size * panels_of(n, first_image(n, s + 1) - first_image(n, s));
        const int64_t start = first_image(n, t) * pixels_of(n), end = first_image(n, t + 1) * pixels_of(n);
        for (int64_t pixel = start, count; pixel < end; pixel += count) {
            const int fresh = pixel == start;
            const float *h = kept ? kept : own;
            count = count_of(n, pixel, end);
            if (!kept || b->d_first) gather_taps(&n->size, n->x, n->channels, 1, pixel, count, cols);
            if (!kept) hidden_layers(n, pixel, cols, own);
            gather_taps(&n->size, b->dy, n->out, -1, pixel, count, taps);
            linear_back(n->last, taps, out, g + size, hidden, h + size);
            linear_back(n->second, g + size, hidden, g, hidden, h);
            if (b->d_first) {
                weight_layer(taps, out, h + size, turned(h + size, hidden, turn), hidden,
                             b->d_last + t * out * hidden, fresh);
                weight_layer(g + size, hidden, h, turned(h, hidden, turn), hidden,
                             b->d_second + t * hidden * hidden, fresh);
                bias_rows(hidden, g + size, b->d_second_bias + t * hidden, fresh);
                const int64_t at = n->given ? pixel / pixels_of(n) : t;
                const int begins = n->given ? pixel % pixels_of(n) == 0 : fresh;
                weight_layer(g, hidden, cols, turned(cols, in, turn), in,
                             b->d_first + t * hidden * in, fresh);
                bias_rows(hidden, g, b->d_first_bias + at * hidden, begins);
            }
            if (b->dx) {
                linear_back(n->first, g, hidden, d_cols, in, 0);
                scatter_taps(&n->size, d_cols, n->channels, 1, pixel, count, b->dx);
            }
            if (kept) kept += 2 * size;
        }
    }
}
