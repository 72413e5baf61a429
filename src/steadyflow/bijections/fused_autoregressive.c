/* The inverse of an autoregressive layer: a ReLU MaskedMLP, variable after variable; and the affine
 * transform with its gradients, in one pass.
 *
 * The batch is cut into panels of P rows, stored as [feature][row]. For each variable in its order
 * the hidden units that have become known are computed (a few rows of each weight, times what is
 * known below), then its parameters, then the variable itself. Every hidden unit is computed once,
 * no masked weight is multiplied, and a panel stays in the cache from the first variable to the
 * last. GCC's and clang's vector extensions, no intrinsics; fused_autoregressive.py has the why.
 */
#include <stdint.h>
#include <string.h>

#define P 64
#if defined(__AVX512F__)
#define LANES 16
#define COLUMNS 4 /* vectors of a tile; with ROWS, what fits into the registers */
#elif defined(__AVX__)
#define LANES 8
#define COLUMNS 2
#else
#define LANES 4
#define COLUMNS 2
#endif
#define ROWS 6
#define INLINE static inline __attribute__((always_inline))

#include "../vectors.h"

enum { ADDITIVE, TANH, SOFTSIGN, OTHER };

/* One variable of `count` examples: z and raw (planes, count) to x and the log-slope at x. */
typedef void (*Column)(const void *settings, const float *z, const float *raw, int64_t count,
                       float *x, float *log_slope);

typedef struct {
    int64_t batch, features, planes, context, layers, residual, transform, threads;
    float clip, bound;          /* no clip if it is 0 */
    const int64_t *order;       /* order[r]: the variable of rank r */
    const int64_t *widths;      /* of the hidden layers */
    const int64_t *ends;        /* (layers, features): hidden units known at each rank */
    const float *const *weights; /* masked, rows above; columns of the first: context, then rank */
    const float *const *biases;
    const float *z, *given; /* (batch, features) and (batch, context), contiguous */
    Column column;
    const void *settings;
    float *scratch; /* of each thread in turn */
    int64_t scratch_size;
} Layer;

/* s = bound * tanh(r / bound), or r / (1 + |r| / bound). */
INLINE vec log_scale(vec r, int64_t transform, float bound) {
    vec u = absolute(r) / bound;
    if (transform == SOFTSIGN) return r / (1.f + u);
    u = where(u > 40.f, all(40.f), u);
    vec e = exponential(-2.f * u);
    vec s = bound * ((1.f - e) / (1.f + e));
    return (vec)((mask)s | ((mask)r & (int32_t)0x80000000));
}

/* out[i] = sum_k w[i * along + k] in[k] + bias[i * bias_along] for `rows` rows i of a panel. */
INLINE void tile(const int rows, const float *w, int64_t along, const float *bias,
                 int64_t bias_along, const float *in, int64_t n_in, float *out, int relu) {
    for (int c = 0; c < P; c += COLUMNS * LANES) {
        vec total[ROWS][COLUMNS];
        for (int i = 0; i < rows; i++)
            for (int v = 0; v < COLUMNS; v++) total[i][v] = all(bias[i * bias_along]);
        for (int64_t k = 0; k < n_in; k++) {
            vec h[COLUMNS];
            for (int v = 0; v < COLUMNS; v++) h[v] = load(in + k * P + c + v * LANES);
            for (int i = 0; i < rows; i++) {
                const float weight = w[i * along + k];
                for (int v = 0; v < COLUMNS; v++) total[i][v] += weight * h[v];
            }
        }
        for (int i = 0; i < rows; i++)
            for (int v = 0; v < COLUMNS; v++) {
                vec y = total[i][v];
                if (relu) y = (vec)(~(y < 0.f) & (mask)y); /* so that NaN passes, as in torch */
                store(out + i * P + c + v * LANES, y);
            }
    }
}

static void linear(const float *w, int64_t along, const float *bias, int64_t bias_along,
                   const float *in, int64_t n_in, float *out, int64_t n_out, int relu) {
    int64_t j = 0;
#define APPLY(rows)                                                                      \
    tile(rows, w + j * along, along, bias + j * bias_along, bias_along, in, n_in, out + j * P, relu)
    for (; j + ROWS <= n_out; j += ROWS) APPLY(ROWS);
    for (; j + 3 <= n_out; j += 3) APPLY(3);
    for (; j + 2 <= n_out; j += 2) APPLY(2);
    for (; j < n_out; j++) APPLY(1);
#undef APPLY
}

/* The variable of one rank in a panel: x from z and its parameters. */
static void move(const Layer *l, const float *z, const float *raw, float *x, float *log_slope) {
    if (l->transform == OTHER) {
        l->column(l->settings, z, raw, P, x, log_slope);
        return;
    }
    for (int c = 0; c < P; c += LANES) {
        vec y = load(z + c), first = load(raw + c);
        if (l->transform == ADDITIVE) {
            store(x + c, y - first);
            store(log_slope + c, all(0.f));
            continue;
        }
        vec s = log_scale(first, l->transform, l->bound);
        store(x + c, (y - load(raw + P + c)) * exponential(-s));
        store(log_slope + c, s);
    }
}

static void panel(const Layer *l, int64_t first, float *x_out, float *log_det, float *at) {
    const int64_t n = l->features, d = l->context;
    const int64_t rows = l->batch - first < P ? l->batch - first : P;
    float *in = at, *z = in + (d + n) * P, *raw = z + P, *slope = raw + l->planes * P;
    float *total = slope + P, *x = total + P, *hidden = x + P;
    for (int64_t k = 0; k < d; k++)
        for (int64_t i = 0; i < P; i++)
            in[k * P + i] = l->given[(first + (i < rows ? i : rows - 1)) * d + k];
    for (int64_t i = 0; i < P; i++) total[i] = 0.f;
    for (int64_t r = 0; r < n; r++) {
        const float *below = in;
        int64_t known = d + r, width = d + n;
        float *own = hidden;
        for (int64_t k = 0; k < l->layers; k++) {
            const int64_t end = l->ends[k * n + r], start = r ? l->ends[k * n + r - 1] : 0;
            linear(l->weights[k] + start * width, width, l->biases[k] + start, 1, below, known,
                   own + start * P, end - start, 1);
            if (l->residual && k)
                for (int64_t i = start * P; i < end * P; i++) own[i] += below[i];
            below = own, known = end, width = l->widths[k];
            own += width * P;
        }
        const int64_t variable = l->order[r];
        linear(l->weights[l->layers] + variable * width, n * width,
               l->biases[l->layers] + variable, n, below, known, raw, l->planes, 0);
        for (int64_t i = 0; i < P; i++)
            z[i] = l->z[(first + (i < rows ? i : rows - 1)) * n + variable];
        move(l, z, raw, x, slope);
        for (int64_t i = 0; i < rows; i++) x_out[(first + i) * n + variable] = x[i];
        for (int c = 0; c < P; c += LANES) {
            vec value = load(x + c);
            if (l->clip > 0) {
                value = where(value > l->clip, all(l->clip), value);
                value = where(value < -l->clip, all(-l->clip), value);
            }
            store(in + (d + r) * P + c, value);
            store(total + c, load(total + c) - load(slope + c));
        }
    }
    for (int64_t i = 0; i < rows; i++) log_det[first + i] = total[i];
}

void steadyflow_autoregressive_inverse(const Layer *l, float *x, float *log_det) {
    const int64_t panels = (l->batch + P - 1) / P;
#pragma omp parallel for num_threads(l->threads) if (l->threads > 1)
    for (int64_t t = 0; t < l->threads; t++)
        for (int64_t i = t; i < panels; i += l->threads)
            panel(l, i * P, x, log_det, l->scratch + t * l->scratch_size);
}

INLINE vec log_scale_slope(vec s, int64_t transform, float bound) {
    vec u = absolute(s) / bound;
    return transform == SOFTSIGN ? (1.f - u) * (1.f - u) : 1.f - u * u;
}

/* The affine transform works on pieces of a few rows, or of a part of one: TILE numbers in all. */
#define TILE 512

typedef struct {
    float r[TILE + LANES], t[TILE + LANES], s[TILE + LANES];
} Piece;

/* Brings the raw scales and shifts of `rows` rows together; gives how many numbers they are. */
INLINE int64_t collect(int64_t rows, int64_t n, int64_t part, const float *raw, Piece *p) {
    for (int64_t i = 0; i < rows; i++) {
        memcpy(p->r + i * part, raw + 2 * n * i, part * sizeof *raw);
        memcpy(p->t + i * part, raw + 2 * n * i + n, part * sizeof *raw);
    }
    return rows * part;
}

INLINE vec some(const float *from, int64_t count) {
    if (count >= LANES) return load(from);
    vec v = all(0.f);
    for (int64_t i = 0; i < count; i++) v[i] = from[i];
    return v;
}

INLINE void put(float *to, int64_t count, vec v) {
    if (count >= LANES) store(to, v);
    else
        for (int64_t i = 0; i < count; i++) to[i] = v[i];
}

/* z = x exp(s) + t for (batch, n), with (r, t) side by side in raw: (batch, 2 n). */
void steadyflow_affine(int64_t batch, int64_t n, int64_t transform, float bound, const float *x,
                       const float *raw, float *z, float *log_det) {
    const int64_t many = n < TILE ? TILE / n : 1;
    Piece p;
    for (int64_t b = 0; b < batch; b += many) {
        const int64_t rows = batch - b < many ? batch - b : many;
        for (int64_t i = 0; i < rows; i++) log_det[b + i] = 0.f;
        for (int64_t c = 0; c < n; c += TILE) {
            const int64_t part = n - c < TILE ? n - c : TILE, from = b * n + c;
            const int64_t count = collect(rows, n, part, raw + 2 * b * n + c, &p);
            for (int64_t i = 0; i < count; i += LANES) {
                vec s = log_scale(load(p.r + i), transform, bound), e = exponential(s);
                store(p.s + i, s);
                put(z + from + i, count - i, some(x + from + i, count - i) * e + load(p.t + i));
            }
            for (int64_t i = 0; i < rows; i++)
                for (int64_t k = 0; k < part; k++) log_det[b + i] += p.s[i * part + k];
        }
    }
}

void steadyflow_affine_backward(int64_t batch, int64_t n, int64_t transform, float bound,
                                const float *x, const float *raw, const float *dz,
                                const float *d_log_det, float *dx, float *d_raw) {
    const int64_t many = n < TILE ? TILE / n : 1;
    Piece p;
    for (int64_t b = 0; b < batch; b += many) {
        const int64_t rows = batch - b < many ? batch - b : many;
        for (int64_t c = 0; c < n; c += TILE) {
            const int64_t part = n - c < TILE ? n - c : TILE, from = b * n + c;
            const int64_t count = collect(rows, n, part, raw + 2 * b * n + c, &p);
            for (int64_t i = 0; i < rows; i++)
                for (int64_t k = 0; k < part; k++) p.t[i * part + k] = d_log_det[b + i];
            for (int64_t i = 0; i < count; i += LANES) {
                vec s = log_scale(load(p.r + i), transform, bound);
                vec moved = some(dz + from + i, count - i) * exponential(s);
                vec ds = moved * some(x + from + i, count - i) + load(p.t + i);
                put(dx + from + i, count - i, moved);
                store(p.s + i, ds * log_scale_slope(s, transform, bound));
            }
            for (int64_t i = 0; i < rows; i++) {
                float *to = d_raw + 2 * (b + i) * n + c;
                memcpy(to, p.s + i * part, part * sizeof *to);
                memcpy(to + n, dz + from + i * n, part * sizeof *to);
            }
        }
    }
}
