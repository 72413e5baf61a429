/* The orthogonal matrix of reflections, Q = H_1 .. H_n S, and its gradient.
 *
 * v_i is 0 before its i-th entry, 1 there and vectors[j][i] after it; H_i = I - t v v', t = 2/|v|^2.
 * Backward needs no product to be kept: H_i is its own inverse, and takes Q back one reflection.
 */
#include <stdint.h>

#define MOST 64 /* variables */

static float reflection(int64_t size, int64_t n, int64_t i, const float *vectors, float *v)
{
    float square = 1;
    v[i] = 1;
    for (int64_t j = i + 1; j < size; j++) {
        v[j] = vectors[j * n + i];
        square += v[j] * v[j];
    }
    return 2 / square;
}

/* w = a' v over the rows from i on */
static void project(int64_t size, int64_t i, const float *a, const float *v, float *w)
{
    for (int64_t c = 0; c < size; c++)
        w[c] = 0;
    for (int64_t j = i; j < size; j++)
        for (int64_t c = 0; c < size; c++)
            w[c] += v[j] * a[j * size + c];
}

/* a -= t v w' */
static void reflect(int64_t size, int64_t i, float *a, float t, const float *v, const float *w)
{
    for (int64_t j = i; j < size; j++)
        for (int64_t c = 0; c < size; c++)
            a[j * size + c] -= t * v[j] * w[c];
}

static void sign(int64_t size, int64_t n, float *a)
{
    for (int64_t j = 0; j < size; j++)
        for (int64_t c = 0; c < n; c++)
            a[j * size + c] = -a[j * size + c];
}

void steadyflow_householder(int64_t size, int64_t n, const float *vectors, float *q)
{
    float v[MOST], w[MOST];
    for (int64_t j = 0; j < size * size; j++)
        q[j] = j % (size + 1) == 0;
    for (int64_t i = n - 1; i >= 0; i--) {
        float t = reflection(size, n, i, vectors, v);
        project(size, i, q, v, w);
        reflect(size, i, q, t, v, w);
    }
    sign(size, n, q);
}

/* q and g = dL/dQ are used up; d_vectors comes as zeros. */
void steadyflow_householder_backward(
    int64_t size, int64_t n, const float *vectors, float *q, float *g, float *d_vectors)
{
    float v[MOST], w[MOST], u[MOST];
    sign(size, n, q);
    sign(size, n, g);
    for (int64_t i = 0; i < n; i++) {
        float t = reflection(size, n, i, vectors, v);
        project(size, i, q, v, w);
        reflect(size, i, q, t, v, w); /* now the product of the reflections after i */
        for (int64_t c = 0; c < size; c++)
            w[c] = -w[c]; /* H_i v = -v, so this is the projection of that product */
        project(size, i, g, v, u);
        float both = 0;
        for (int64_t c = 0; c < size; c++)
            both += u[c] * w[c];
        for (int64_t j = i + 1; j < size; j++) {
            float sum = 0;
            for (int64_t c = 0; c < size; c++)
                sum += g[j * size + c] * w[c] + q[j * size + c] * u[c];
            d_vectors[j * n + i] = t * (t * v[j] * both - sum);
        }
        reflect(size, i, g, t, v, u);
    }
}
