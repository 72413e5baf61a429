/* Vectors of LANES floats, which the file that includes this defines, and INLINE with it. */
#include <stdint.h>

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t mask __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

INLINE vec load(const float *p) { return *(const vec *)p; }
INLINE void store(float *p, vec v) { *(vec *)p = v; }
INLINE vec all(float value) { return (vec){} + value; }
INLINE vec where(mask m, vec a, vec b) { return (vec)((m & (mask)a) | (~m & (mask)b)); }
INLINE vec absolute(vec v) { return (vec)((mask)v & 0x7fffffff); }

/* exp for |x| < 87, to 1 ulp: Cephes' expf on all lanes. */
INLINE vec exponential(vec x) {
    const float magic = 12582912.f; /* 1.5 * 2^23: adding it rounds to an integer */
    vec n = x * 1.44269504088896341f + magic;
    mask power = (mask)n << 23;
    n -= magic;
    vec r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    vec y = all(1.9875691500e-4f);
    y = y * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.f;
    return y * (vec)(power + 0x3f800000);
}
