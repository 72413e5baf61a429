/* Panels: P examples side by side, stored as [feature][example], through linear layers and back.
 *
 * Every instruction acts on examples side by side: all activations of a panel stay in the cache, no
 * weight has to be packed, and widths of any size, 1 or 1000, run at the same speed. GCC's and
 * clang's vector extensions, no intrinsics: the same source serves AVX-512, AVX2 and NEON.
 */
#include <stdint.h>
#include <string.h>

#define P 64 /* examples of a panel */
/* A tile of ROWS x COLUMNS vectors is summed in registers: 32 of them, or 16. */
#if defined(__AVX512F__)
#define LANES 16
#define ROWS 8
#elif defined(__AVX2__) && defined(__FMA__)
#define LANES 8
#define ROWS 6
#elif defined(__ARM_NEON)
#define LANES 4
#define ROWS 8
#else
#error "without wide vectors torch's own operations are faster"
#endif
#define COLUMNS 2
#define INLINE static inline __attribute__((always_inline))

#include "vectors.h"

typedef float quad __attribute__((vector_size(16), aligned(4), may_alias));
#if defined(__clang__) || __GNUC__ >= 12
#define PICK(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define PICK(a, b, ...) __builtin_shuffle(a, b, (int32_t __attribute__((vector_size(16)))){__VA_ARGS__})
#endif

enum { PLAIN, RELU, GATE };

INLINE float sum(vec v) {
    float lanes[LANES];
    store(lanes, v);
    quad q = *(quad *)lanes;
    for (int i = 4; i < LANES; i += 4) q += *(quad *)(lanes + i);
    return (q[0] + q[1]) + (q[2] + q[3]);
}

/* out[i] = sum_k w[i * along_out + k * along_in] * in[k] + bias[i] for `rows` rows i of a panel. */
INLINE void tile(const int rows, int64_t along_out, int64_t along_in, const float *w,
                 const float *bias, const float *in, int64_t n_in, float *out, const int finish,
                 const float *gate) {
    for (int c = 0; c < P; c += COLUMNS * LANES) {
        vec total[ROWS][COLUMNS];
        for (int i = 0; i < rows; i++)
            for (int v = 0; v < COLUMNS; v++) total[i][v] = all(bias ? bias[i] : 0.f);
        for (int64_t k = 0; k < n_in; k++) {
            vec h[COLUMNS];
            for (int v = 0; v < COLUMNS; v++) h[v] = load(in + k * P + c + v * LANES);
            for (int i = 0; i < rows; i++) {
                const float weight = w[i * along_out + k * along_in];
                for (int v = 0; v < COLUMNS; v++) total[i][v] += weight * h[v];
            }
        }
        for (int i = 0; i < rows; i++)
            for (int v = 0; v < COLUMNS; v++) {
                const int64_t at = i * P + c + v * LANES;
                vec y = total[i][v];
                /* written so that NaN passes, as in torch */
                if (finish == RELU) y = (vec)(~(y < 0.f) & (mask)y);
                if (finish == GATE) y = (vec)(~(load(gate + at) <= 0.f) & (mask)y);
                store(out + at, y);
            }
    }
}

/* out = finish(W in + bias): one panel through one linear layer; bias may be null. */
static void linear(const float *w, const float *bias, const float *in, int64_t n_in, float *out,
                   int64_t n_out, int relu) {
    int64_t j = 0;
#define APPLY(rows, finish) \
    tile(rows, n_in, 1, w + j * n_in, bias ? bias + j : 0, in, n_in, out + j * P, finish, 0)
    if (relu) {
        for (; j + ROWS <= n_out; j += ROWS) APPLY(ROWS, RELU);
        for (; j + 2 <= n_out; j += 2) APPLY(2, RELU);
        for (; j < n_out; j++) APPLY(1, RELU);
    } else {
        for (; j + ROWS <= n_out; j += ROWS) APPLY(ROWS, PLAIN);
        for (; j + 2 <= n_out; j += 2) APPLY(2, PLAIN);
        for (; j < n_out; j++) APPLY(1, PLAIN);
    }
#undef APPLY
}

/* in = W^T out, zero where gate <= 0: the gradient of one panel back through one layer. */
static void linear_back(const float *w, const float *out, int64_t n_out, float *in, int64_t n_in,
                        const float *gate) {
    int64_t k = 0;
#define APPLY(rows, finish) \
    tile(rows, 1, n_in, w + k, 0, out, n_out, in + k * P, finish, gate + k * P)
    if (gate) {
        for (; k + ROWS <= n_in; k += ROWS) APPLY(ROWS, GATE);
        for (; k + 2 <= n_in; k += 2) APPLY(2, GATE);
        for (; k < n_in; k++) APPLY(1, GATE);
    } else {
        gate = in; /* not read */
        for (; k + ROWS <= n_in; k += ROWS) APPLY(ROWS, PLAIN);
        for (; k + 2 <= n_in; k += 2) APPLY(2, PLAIN);
        for (; k < n_in; k++) APPLY(1, PLAIN);
    }
#undef APPLY
}

/* d[j][k] += sum over the panel of g[j] * h[k], for `rows` rows j and one number k: where the
 * columns do not fill a vector. */
INLINE void weight_column(const int rows, const float *g, const float *h, float *d, int64_t d_row) {
    vec total[ROWS];
    for (int j = 0; j < rows; j++) total[j] = all(0.f);
    for (int c = 0; c < P; c += LANES)
        for (int j = 0; j < rows; j++) total[j] += load(g + j * P + c) * load(h + c);
    for (int j = 0; j < rows; j++) d[j * d_row] += sum(total[j]);
}

/* The same for `columns` vectors of numbers k, with h transposed: turned[row][k]. */
INLINE void weight_tile(const int rows, const int columns, const float *g, const float *turned,
                        int64_t n_in, float *d) {
    vec total[ROWS][COLUMNS];
    for (int j = 0; j < rows; j++)
        for (int v = 0; v < columns; v++) total[j][v] = load(d + j * n_in + v * LANES);
    for (int64_t i = 0; i < P; i++) {
        vec h[COLUMNS];
        for (int v = 0; v < columns; v++) h[v] = load(turned + i * n_in + v * LANES);
        for (int j = 0; j < rows; j++)
            for (int v = 0; v < columns; v++) total[j][v] += g[j * P + i] * h[v];
    }
    for (int j = 0; j < rows; j++)
        for (int v = 0; v < columns; v++) store(d + j * n_in + v * LANES, total[j][v]);
}

/* The gradient of `rows` rows of a layer's weights (rows, n_in) from one panel, added to d. */
INLINE void weight_rows(const int rows, const float *g, const float *h, const float *turned,
                        int64_t n_in, float *d, int fresh) {
    if (fresh) memset(d, 0, rows * n_in * sizeof(float));
    int64_t k = 0;
    for (; k + COLUMNS * LANES <= n_in; k += COLUMNS * LANES)
        weight_tile(rows, COLUMNS, g, turned + k, n_in, d + k);
    for (; k + LANES <= n_in; k += LANES) weight_tile(rows, 1, g, turned + k, n_in, d + k);
    for (; k < n_in; k++) weight_column(rows, g, h + k * P, d + k, n_in);
}

/* That of its biases. */
INLINE void bias_rows(int64_t rows, const float *g, float *d, int fresh) {
    for (int64_t j = 0; j < rows; j++) {
        vec total = all(0.f);
        for (int c = 0; c < P; c += LANES) total += load(g + j * P + c);
        d[j] = (fresh ? 0.f : d[j]) + sum(total);
    }
}

/* The gradient of all weights of a layer, (n_out, n_in). */
INLINE void weight_layer(const float *g, int64_t n_out, const float *h, const float *turned,
                         int64_t n_in, float *d, int fresh) {
    int64_t j = 0;
    for (; j + ROWS <= n_out; j += ROWS)
        weight_rows(ROWS, g + j * P, h, turned, n_in, d + j * n_in, fresh);
    for (; j < n_out; j++) weight_rows(1, g + j * P, h, turned, n_in, d + j * n_in, fresh);
}

INLINE void turn4(const float *from, int64_t from_row, float *to, int64_t to_row) {
    const quad a = *(const quad *)from, b = *(const quad *)(from + from_row);
    const quad c = *(const quad *)(from + 2 * from_row), d = *(const quad *)(from + 3 * from_row);
    const quad low_ab = PICK(a, b, 0, 4, 1, 5), high_ab = PICK(a, b, 2, 6, 3, 7);
    const quad low_cd = PICK(c, d, 0, 4, 1, 5), high_cd = PICK(c, d, 2, 6, 3, 7);
    *(quad *)to = PICK(low_ab, low_cd, 0, 1, 4, 5);
    *(quad *)(to + to_row) = PICK(low_ab, low_cd, 2, 3, 6, 7);
    *(quad *)(to + 2 * to_row) = PICK(high_ab, high_cd, 0, 1, 4, 5);
    *(quad *)(to + 3 * to_row) = PICK(high_ab, high_cd, 2, 3, 6, 7);
}

/* to[j][i] = from[i][j] for a matrix of `rows` rows and n columns. */
static void transpose(const float *from, int64_t from_row, int64_t rows, int64_t n, float *to, int64_t to_row) {
    int64_t i = 0;
    for (; i + 4 <= rows; i += 4) {
        int64_t j = 0;
        for (; j + 4 <= n; j += 4) turn4(from + i * from_row + j, from_row, to + j * to_row + i, to_row);
        for (; j < n; j++)
            for (int r = 0; r < 4; r++) to[j * to_row + i + r] = from[(i + r) * from_row + j];
    }
    for (; i < rows; i++)
        for (int64_t j = 0; j < n; j++) to[j * to_row + i] = from[i * from_row + j];
}
