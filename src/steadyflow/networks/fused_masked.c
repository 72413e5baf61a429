/* A masked ReLU perceptron and its gradients: matrix products that leave out what is masked.
 *
 * Everything is row-major, a row an example. The one building block is a tile of ROWS rows and
 * BLOCK columns, c += a b over a range of the inner index. Columns come in blocks, and a block of
 * a masked weight knows the range in which it is not zero: for a network of sorted degrees about
 * half of the work is outside. The batch goes through all layers in chunks that stay in the cache.
 * GCC's and clang's vector extensions, no intrinsics; fused_masked.py has the why.
 */
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#define ROWS 12
#elif defined(__AVX__)
#define LANES 8
#define ROWS 6
#else
#define LANES 4
#define ROWS 6
#endif
#define VECTORS 2
#define BLOCK (VECTORS * LANES)
#define WIDEST 32 /* all rows are padded to multiples of this */
#define CHUNK 120
#define LAYERS 16 /* at most */
#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t mask __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

typedef struct {
    int64_t batch, features, context, layers, threads;
    float clip;              /* none if it is 0 */
    const int64_t *widths;   /* of the input (context, then x), the hidden layers, the output */
    const int64_t *ends;     /* for each 32 rows of each weight: where the last row ends */
    const int64_t *starts;   /* for each 32 columns of each weight: the first row that sees one */
    const float *const *weights, *const *biases, *const *masks; /* the input's column: context, x */
    const float *x, *given;  /* contiguous */
    float *const *hidden;    /* of each hidden layer, (batch, padded width) */
    float *scratch;
} Net;

INLINE vec load(const float *p) { return *(const vec *)p; }
INLINE void store(float *p, vec v) { *(vec *)p = v; }
INLINE vec all(float value) { return (vec){} + value; }
INLINE int64_t padded(int64_t n) { return (n + WIDEST - 1) / WIDEST * WIDEST; }

enum { PLAIN, RELU };

/* c[m][n] = finish(start + sum_{k0 <= k < k1} a[m * am + k * ak] b[k * bk + n]) for `rows` rows m and
 * BLOCK columns n; start is a row of biases, or c itself, or zero. */
INLINE void tile(const int rows, const int vectors, const float *a, int64_t am, int64_t ak,
                 const float *b, int64_t bk, int64_t k0, int64_t k1, const float *bias, int add,
                 float *c, int64_t cm, int finish) {
    vec total[ROWS][VECTORS];
    for (int m = 0; m < rows; m++)
        for (int v = 0; v < vectors; v++)
            total[m][v] = bias ? load(bias + v * LANES)
                               : (add ? load(c + m * cm + v * LANES) : all(0.f));
    for (int64_t k = k0; k < k1; k++) {
        vec right[VECTORS];
        for (int v = 0; v < vectors; v++) right[v] = load(b + k * bk + v * LANES);
        for (int m = 0; m < rows; m++) {
            const float left = a[m * am + k * ak];
            for (int v = 0; v < vectors; v++) total[m][v] += left * right[v];
        }
    }
    for (int m = 0; m < rows; m++)
        for (int v = 0; v < vectors; v++) {
            vec y = total[m][v];
            if (finish == RELU) y = (vec)(~(y < 0.f) & (mask)y); /* so that NaN passes */
            store(c + m * cm + v * LANES, y);
        }
}

INLINE void column(const int vectors, int64_t rows, const float *a, int64_t am, int64_t ak,
                   const float *b, int64_t bk, int64_t k0, int64_t k1, const float *bias, int add,
                   float *c, int64_t cm, int finish) {
    int64_t m = 0;
    for (; m + ROWS <= rows; m += ROWS)
        tile(ROWS, vectors, a + m * am, am, ak, b, bk, k0, k1, bias, add, c + m * cm, cm, finish);
    for (; m + 4 <= rows; m += 4)
        tile(4, vectors, a + m * am, am, ak, b, bk, k0, k1, bias, add, c + m * cm, cm, finish);
    for (; m < rows; m++)
        tile(1, vectors, a + m * am, am, ak, b, bk, k0, k1, bias, add, c + m * cm, cm, finish);
}

/* What one call needs besides its arguments, in the scratch. */
typedef struct {
    float *weight[LAYERS], *transposed[LAYERS], *bias[LAYERS]; /* masked and padded */
    const int64_t *ends[LAYERS], *starts[LAYERS];
    float *rest;
} Packed;

static void pack(const Net *n, int back, Packed *p) {
    float *at = n->scratch;
    const int64_t *ends = n->ends, *starts = n->starts;
    for (int64_t l = 0; l < n->layers; l++) {
        const int64_t in = n->widths[l], out = n->widths[l + 1];
        const int64_t wide_in = padded(in), wide_out = padded(out);
        const float *w = n->weights[l], *keep = n->masks[l];
        p->ends[l] = ends, p->starts[l] = starts;
        ends += wide_out / WIDEST, starts += wide_in / WIDEST;
        if (back) {
            p->weight[l] = at, at += out * wide_in;
            for (int64_t j = 0; j < out; j++) {
                float *row = p->weight[l] + j * wide_in;
                const int64_t end = p->ends[l][j / WIDEST];
                for (int64_t k = 0; k < end; k++) row[k] = w[j * in + k] * keep[j * in + k];
                for (int64_t k = end; k < wide_in; k++) row[k] = 0.f;
            }
            continue;
        }
        p->transposed[l] = at, at += in * wide_out;
        for (int64_t j0 = 0; j0 < wide_out; j0 += 16)
            for (int64_t k = 0; k < p->ends[l][j0 / WIDEST]; k++)
                for (int64_t j = j0; j < j0 + 16; j++)
                    p->transposed[l][k * wide_out + j] =
                        j < out ? w[j * in + k] * keep[j * in + k] : 0.f;
        p->bias[l] = at, at += wide_out;
        for (int64_t j = 0; j < wide_out; j++) p->bias[l][j] = j < out ? n->biases[l][j] : 0.f;
    }
    p->rest = at;
}

/* The input of rows first .. first + rows: context, then x within the clip. */
static void enter(const Net *n, int64_t first, int64_t rows, float *in) {
    const int64_t wide = padded(n->widths[0]);
    for (int64_t i = 0; i < rows; i++) {
        float *to = in + i * wide;
        const float *x = n->x + (first + i) * n->features;
        if (n->context) memcpy(to, n->given + (first + i) * n->context, n->context * sizeof *to);
        to += n->context;
        for (int64_t k = 0; k < n->features; k++) {
            float v = x[k];
            if (n->clip > 0) v = v > n->clip ? n->clip : v < -n->clip ? -n->clip : v;
            to[k] = v;
        }
        for (int64_t k = n->features; k < wide - n->context; k++) to[k] = 0.f;
    }
}

static void ahead(const Net *n, const Packed *p, int64_t first, int64_t rows, float *in,
                  float *result) {
    enter(n, first, rows, in);
    const float *below = in;
    int64_t along = padded(n->widths[0]);
    for (int64_t l = 0; l < n->layers; l++) {
        const int64_t out = n->widths[l + 1], wide = padded(out), last = l == n->layers - 1;
        float *own = last ? result + first * out : n->hidden[l] + first * wide;
        const int64_t step = last ? out : wide;
        for (int64_t j = 0; j < (last ? out : wide); j += BLOCK) {
            const float *b = p->transposed[l] + j, *bias = p->bias[l] + j;
            const int64_t end = p->ends[l][j / WIDEST];
            if (last && out - j == LANES) {
                column(1, rows, below, along, 1, b, wide, 0, end, bias, 0, own + j, step, PLAIN);
            } else if (last && j + BLOCK > out) { /* the rows of the result are not padded */
                float aside[CHUNK * BLOCK];
                column(VECTORS, rows, below, along, 1, b, wide, 0, end, bias, 0, aside, BLOCK,
                       PLAIN);
                for (int64_t i = 0; i < rows; i++)
                    memcpy(own + i * step + j, aside + i * BLOCK, (out - j) * sizeof *own);
            } else if (last) {
                column(VECTORS, rows, below, along, 1, b, wide, 0, end, bias, 0, own + j, step,
                       PLAIN);
            } else {
                column(VECTORS, rows, below, along, 1, b, wide, 0, end, bias, 0, own + j, step,
                       RELU);
            }
        }
        below = own, along = step;
    }
}

void steadyflow_masked_forward(const Net *n, float *result) {
    Packed p;
    pack(n, 0, &p);
    const int64_t room = CHUNK * padded(n->widths[0]), chunks = (n->batch + CHUNK - 1) / CHUNK;
#pragma omp parallel for num_threads(n->threads) if (n->threads > 1)
    for (int64_t t = 0; t < n->threads; t++)
        for (int64_t c = t; c < chunks; c += n->threads) {
            const int64_t first = c * CHUNK;
            const int64_t rows = n->batch - first < CHUNK ? n->batch - first : CHUNK;
            ahead(n, &p, first, rows, p.rest + t * room, result);
        }
}

typedef struct {
    const float *d_result;                     /* (batch, outputs), contiguous */
    float *dx, *d_context;                     /* contiguous */
    float *const *d_weights, *const *d_biases; /* of the layers */
} Gradients;

static int64_t widest(const Net *n) {
    int64_t most = 0;
    for (int64_t l = 0; l < n->layers; l++)
        if (padded(n->widths[l]) > most) most = padded(n->widths[l]);
    return most;
}

/* Gradients of one chunk; those of weights and biases are added to `sums`. */
static void behind(const Net *n, const Packed *p, const Gradients *g, int64_t first, int64_t rows,
                   float *at, float *sums) {
    const int64_t wide0 = padded(n->widths[0]), most = widest(n);
    float *in = at, *spare[2] = {at + CHUNK * wide0, at + CHUNK * (wide0 + most)};
    const float *d = g->d_result + first * n->widths[n->layers];
    int64_t along = n->widths[n->layers];
    enter(n, first, rows, in);
    for (int64_t l = 0; l < n->layers; l++) sums += (padded(n->widths[l]) + 1) * n->widths[l + 1];
    for (int64_t l = n->layers - 1; l >= 0; l--) {
        const int64_t out = n->widths[l + 1], wide = padded(n->widths[l]);
        const float *below = l ? n->hidden[l - 1] + first * wide : in;
        float *into = spare[l % 2], *d_weight = sums - out * wide, *d_bias = d_weight - out;
        sums = d_bias;
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < out; j++) d_bias[j] += d[i * along + j];
        for (int64_t j = 0; j < out; j += WIDEST) {
            const int64_t many = out - j < WIDEST ? out - j : WIDEST;
            for (int64_t k = 0; k < p->ends[l][j / WIDEST]; k += BLOCK)
                column(VECTORS, many, d + j, 1, along, below + k, wide, 0, rows, 0, 1,
                       d_weight + j * wide + k, wide, PLAIN);
        }
        for (int64_t k = 0; k < wide; k += BLOCK)
            column(VECTORS, rows, d, along, 1, p->weight[l] + k, wide, p->starts[l][k / WIDEST], out, 0, 0,
                   into + k, wide, PLAIN);
        for (int64_t i = 0; l && i < rows * wide; i += LANES)
            store(into + i, (vec)(~(load(below + i) <= 0.f) & (mask)load(into + i)));
        d = into, along = wide;
    }
    for (int64_t i = 0; i < rows; i++) {
        const float *from = d + i * along + n->context, *x = n->x + (first + i) * n->features;
        float *dx = g->dx + (first + i) * n->features;
        for (int64_t k = 0; k < n->features; k++)
            dx[k] = n->clip > 0 && (x[k] >= n->clip || x[k] <= -n->clip) ? 0.f : from[k];
        if (n->context)
            memcpy(g->d_context + (first + i) * n->context, d + i * along,
                   n->context * sizeof *dx);
    }
}

void steadyflow_masked_backward(const Net *n, const Gradients *g) {
    Packed p;
    pack(n, 1, &p);
    const int64_t chunks = (n->batch + CHUNK - 1) / CHUNK;
    const int64_t room = CHUNK * (padded(n->widths[0]) + 2 * widest(n));
    int64_t size = 0;
    for (int64_t l = 0; l < n->layers; l++) size += (padded(n->widths[l]) + 1) * n->widths[l + 1];
    float *sums = p.rest + n->threads * room;
#pragma omp parallel for num_threads(n->threads) if (n->threads > 1)
    for (int64_t t = 0; t < n->threads; t++) {
        memset(sums + t * size, 0, size * sizeof *sums);
        for (int64_t c = t; c < chunks; c += n->threads) {
            const int64_t first = c * CHUNK;
            const int64_t rows = n->batch - first < CHUNK ? n->batch - first : CHUNK;
            behind(n, &p, g, first, rows, p.rest + t * room, sums + t * size);
        }
    }
    for (int64_t t = 1; t < n->threads; t++)
        for (int64_t i = 0; i < size; i++) sums[i] += sums[t * size + i];
    for (int64_t l = 0; l < n->layers; l++) {
        const int64_t in = n->widths[l], wide = padded(in), out = n->widths[l + 1];
        memcpy(g->d_biases[l], sums, out * sizeof *sums);
        sums += out;
        for (int64_t j = 0; j < out; j++, sums += wide)
            for (int64_t k = 0; k < in; k++)
                g->d_weights[l][j * in + k] = sums[k] * n->masks[l][j * in + k];
    }
}

/* Floats of scratch for a call. */
int64_t steadyflow_masked_scratch(const Net *n, int back) {
    int64_t packed = 0, sums = 0;
    for (int64_t l = 0; l < n->layers; l++) {
        const int64_t in = n->widths[l], out = n->widths[l + 1];
        packed += back ? out * padded(in) : (in + 1) * padded(out);
        sums += (padded(in) + 1) * out;
    }
    const int64_t room = CHUNK * padded(n->widths[0]);
    if (!back) return packed + n->threads * room;
    return packed + n->threads * (room + 2 * CHUNK * widest(n) + sums);
}
