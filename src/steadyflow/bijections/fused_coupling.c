/* One coupling layer with a ReLU perceptron as conditioner, in one pass over the batch.
 *
 *     z_a = x_a,   z_b = x_b * exp(s(x_a)) + t(x_a),   log_det = sum_b s         (or z_b = x_b + t)
 *
 * The batch is cut into panels of P rows (panel.h). fused_coupling.py has the why.
 */
#include "../panel.h"

enum { ADDITIVE, TANH, SOFTSIGN };

typedef struct {
    int64_t batch, features, kept, kept_start, moved, moved_start, step, context;
    int64_t layers, transform, inverse, threads;
    float bound, clip;
    const int64_t *widths; /* of the input, the hidden layers and the output */
    const float *const *weights, *const *biases;
    const float *x, *given; /* any strides */
    int64_t x_row, x_column, given_row, given_column;
    float *scratch; /* of each thread in turn */
    float *kept_activations; /* of each panel in turn, from forward to backward; or null */
} Layer;

typedef struct {
    const float *dz, *d_log_det; /* any strides */
    int64_t dz_row, dz_column, d_log_det_row;
    float *dx, *d_context;                     /* contiguous, or null */
    float *const *d_weights, *const *d_biases; /* contiguous, or null */
} Gradients;

/* s = bound * tanh(r / bound), or r / (1 + |r| / bound). */
INLINE vec log_scale(vec r, int64_t transform, float bound) {
    vec u = absolute(r) / bound;
    if (transform == SOFTSIGN) return r / (1.f + u);
    u = where(u > 40.f, all(40.f), u);
    vec e = exponential(-2.f * u);
    vec s = bound * ((1.f - e) / (1.f + e));
    return (vec)((mask)s | ((mask)r & (int32_t)0x80000000));
}

INLINE vec log_scale_slope(vec s, int64_t transform, float bound) {
    vec u = absolute(s) / bound;
    return transform == SOFTSIGN ? (1.f - u) * (1.f - u) : 1.f - u * u;
}

/* Columns of a matrix to the rows of a panel, and back; rows beyond the batch become zero. */
static void gather(const float *x, int64_t row, int64_t column, int64_t n, int64_t rows, float *to) {
    if (rows < P) memset(to, 0, n * P * sizeof(float));
    if (column == 1) return transpose(x, row, rows, n, to, P);
    for (int64_t j = 0; j < n; j++)
        for (int64_t i = 0; i < rows; i++) to[j * P + i] = x[i * row + j * column];
}

static void scatter(const float *from, float *x, int64_t row, int64_t column, int64_t n, int64_t rows) {
    if (column == 1) return transpose(from, P, n, rows, x, row);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < n; j++) x[i * row + j * column] = from[j * P + i];
}

/* The size in floats of a panel's activations: the conditioner's input and each layer's output. */
int64_t steadyflow_activations(const Layer *a) {
    int64_t total = 0;
    for (int64_t l = 0; l <= a->layers; l++) total += a->widths[l] * P;
    return total;
}

/* Scratch of a thread, in floats: x_b, the activations, and for backward also their gradients and
 * the activations transposed. */
int64_t steadyflow_scratch(const Layer *a, int64_t backward) {
    return a->moved * P + (backward ? 3 : 1) * steadyflow_activations(a);
}

static int64_t rows_of(const Layer *a, int64_t panel) {
    const int64_t left = a->batch - panel * P;
    return left < P ? left : P;
}

/* The conditioner: its input, which is the kept variables, clipped, and the context, then the
 * output of each layer, one after the other in h. Gives the last. */
static float *conditioner(const Layer *a, int64_t panel, float *h) {
    const int64_t rows = rows_of(a, panel), first = panel * P;
    gather(a->x + first * a->x_row + a->kept_start * a->x_column, a->x_row, a->step * a->x_column,
           a->kept, rows, h);
    if (a->clip > 0)
        for (int64_t i = 0; i < a->kept * P; i += LANES) {
            vec v = load(h + i);
            v = where(v < -a->clip, all(-a->clip), v);
            store(h + i, where(v > a->clip, all(a->clip), v));
        }
    if (a->context)
        gather(a->given + first * a->given_row, a->given_row, a->given_column, a->context, rows,
               h + a->kept * P);
    for (int64_t l = 0; l < a->layers; l++) {
        float *next = h + a->widths[l] * P;
        linear(a->weights[l], a->biases[l], h, a->widths[l], next, a->widths[l + 1], l < a->layers - 1);
        h = next;
    }
    return h;
}

static void gather_moved(const Layer *a, int64_t panel, float *to) {
    gather(a->x + panel * P * a->x_row + a->moved_start * a->x_column, a->x_row,
           a->step * a->x_column, a->moved, rows_of(a, panel), to);
}

/* Where a panel's activations are: kept, or to be computed in scratch. */
static float *activations(const Layer *a, int64_t panel, float *scratch) {
    if (a->kept_activations) return a->kept_activations + panel * steadyflow_activations(a);
    return scratch + a->moved * P;
}

static void forward_panel(const Layer *a, int64_t panel, float *scratch, float *z, float *log_det) {
    const int64_t rows = rows_of(a, panel), first = panel * P, n = a->moved * P;
    const float *out = conditioner(a, panel, activations(a, panel, scratch)), *shift = out + n;
    float *moved = scratch;
    gather_moved(a, panel, moved);
    if (a->transform == ADDITIVE) {
        for (int64_t i = 0; i < n; i += LANES) {
            const vec x = load(moved + i), t = load(out + i);
            store(moved + i, a->inverse ? x - t : x + t);
        }
    } else {
        vec total[P / LANES];
        for (int c = 0; c < P / LANES; c++) total[c] = all(0.f);
        for (int64_t i = 0; i < n; i += LANES) {
            vec s = log_scale(load(out + i), a->transform, a->bound);
            const vec x = load(moved + i), t = load(shift + i);
            if (a->inverse) s = -s;
            const vec e = exponential(s);
            store(moved + i, a->inverse ? (x - t) * e : x * e + t);
            total[i % P / LANES] += s;
        }
        for (int64_t i = 0; i < rows; i++) log_det[first + i] = total[i / LANES][i % LANES];
    }
    z += first * a->features;
    scatter(moved, z + a->moved_start, a->features, a->step, a->moved, rows);
    const float *x = a->x + first * a->x_row + a->kept_start * a->x_column;
    z += a->kept_start;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < a->kept; j++)
            z[i * a->features + j * a->step] = x[i * a->x_row + j * a->step * a->x_column];
}

/* z: (batch, features) and log_det: (batch,), which an additive coupling leaves alone. */
void steadyflow_forward(const Layer *a, float *z, float *log_det) {
    const int64_t panels = (a->batch + P - 1) / P, threads = a->threads;
    const int64_t share = steadyflow_scratch(a, 0);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t t = 0; t < threads; t++)
        for (int64_t p = panels * t / threads; p < panels * (t + 1) / threads; p++)
            forward_panel(a, p, a->scratch + t * share, z, log_det);
}

/* The gradients of one panel, from the conditioner's output back to x and the context. Leaves in
 * scratch the gradients of the activations, and the activations transposed. */
static void backward_panel(const Layer *a, const Gradients *b, int64_t panel, float *scratch) {
    const int64_t rows = rows_of(a, panel), first = panel * P, size = steadyflow_activations(a);
    const int64_t n = a->moved * P, last = a->layers, *widths = a->widths;
    float *input = activations(a, panel, scratch), *moved = scratch, *d_input = scratch + n + size;
    const float *h = a->kept_activations ? input + size - widths[last] * P : conditioner(a, panel, input);
    float *g = d_input + (h - input);
    const float *dz = b->dz + first * b->dz_row;
    /* g becomes the gradient of the conditioner's output h, moved that of x_b */
    float *d_shift = g + (a->transform == ADDITIVE ? 0 : n);
    gather(dz + a->moved_start * b->dz_column, b->dz_row, a->step * b->dz_column, a->moved, rows, d_shift);
    if (a->transform == ADDITIVE) {
        for (int64_t i = 0; i < n; i += LANES) {
            const vec dy = load(g + i);
            store(moved + i, dy);
            store(g + i, a->inverse ? -dy : dy);
        }
    } else {
        float slope[P] = {0};
        for (int64_t i = 0; i < rows; i++) slope[i] = b->d_log_det[(first + i) * b->d_log_det_row];
        gather_moved(a, panel, moved);
        for (int64_t i = 0; i < n; i += LANES) {
            const vec s = log_scale(load(h + i), a->transform, a->bound);
            const vec dx = load(d_shift + i) * exponential(a->inverse ? -s : s);
            const vec x = load(moved + i), l = load(slope + i % P);
            const vec ds = a->inverse ? -(dx * (x - load(h + n + i)) + l) : dx * x + l;
            if (a->inverse) store(d_shift + i, -dx);
            store(g + i, ds * log_scale_slope(s, a->transform, a->bound));
            store(moved + i, dx);
        }
    }
    for (int64_t l = last - 1; l > 0; l--) {
        const float *out = g;
        h -= widths[l] * P;
        g -= widths[l] * P;
        linear_back(a->weights[l], out, widths[l + 1], g, widths[l], h);
    }
    if (b->d_weights) {
        float *turned = d_input + size;
        for (int64_t l = 0, at = 0; l < last; at += widths[l++] * P)
            transpose(input + at, P, widths[l] / LANES * LANES, P, turned + at, widths[l]);
    }
    if (b->dx)
        scatter(moved, b->dx + first * a->features + a->moved_start, a->features, a->step, a->moved, rows);
    if (!b->dx && !b->d_context) return;
    linear_back(a->weights[0], g, widths[1], d_input, widths[0], 0);
    if (b->d_context)
        scatter(d_input + a->kept * P, b->d_context + first * a->context, a->context, 1, a->context, rows);
    if (!b->dx) return;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < a->kept; j++) {
            const int64_t column = a->kept_start + j * a->step;
            const float v = input[j * P + i];
            const int clipped = a->clip > 0 && (v <= -a->clip || v >= a->clip);
            b->dx[(first + i) * a->features + column] =
                dz[i * b->dz_row + column * b->dz_column] + (clipped ? 0.f : d_input[j * P + i]);
        }
}

/* Each thread takes a panel, then each takes its rows of the weights' gradients. */
void steadyflow_backward(const Layer *a, const Gradients *b) {
    const int64_t panels = (a->batch + P - 1) / P, threads = a->threads;
    const int64_t share = steadyflow_scratch(a, 1), size = steadyflow_activations(a);
    for (int64_t start = 0; start < panels; start += threads) {
        const int64_t count = panels - start < threads ? panels - start : threads;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
        for (int64_t p = 0; p < count; p++) backward_panel(a, b, start + p, a->scratch + p * share);
        if (!b->d_weights) continue;
        for (int64_t l = 0, at = 0; l < a->layers; at += a->widths[l++] * P) {
            const int64_t n_in = a->widths[l], n_out = a->widths[l + 1];
            float *d = b->d_weights[l], *d_bias = b->d_biases[l];
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
            for (int64_t j = 0; j < n_out; j += ROWS)
                for (int64_t p = 0; p < count; p++) {
                    float *scratch = a->scratch + p * share;
                    const float *h = activations(a, start + p, scratch) + at;
                    const float *g = scratch + a->moved * P + size + at + n_in * P;
                    const float *turned = scratch + a->moved * P + 2 * size + at;
                    const int fresh = start + p == 0;
                    const int64_t rows = j + ROWS <= n_out ? ROWS : n_out - j;
                    bias_rows(rows, g + j * P, d_bias + j, fresh);
                    if (rows == ROWS)
                        weight_rows(ROWS, g + j * P, h, turned, n_in, d + j * n_in, fresh);
                    else
                        for (int64_t i = j; i < n_out; i++)
                            weight_rows(1, g + i * P, h, turned, n_in, d + i * n_in, fresh);
                }
        }
    }
}
