/* Monotone rational-quadratic splines with tails of slope 1: forward, inverse and gradients.
 *
 * One pass over the parameters: what torch does in forty passes through memory happens here in
 * registers, LANES variables side by side. GCC's and clang's vector extensions, no intrinsics.
 * The formulas are those of splines.py; fused_splines.py has the why.
 */
#include <stdint.h>

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
#define BINS 64 /* at most */
#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t mask __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

typedef struct {
    int64_t bins;
    float bound, min_width, min_secant, low, high, offset;
} Spline;

typedef struct {
    int64_t batch, channels; /* of x: (batch, channels), contiguous */
    int64_t row, plane;      /* strides of the parameters */
    int64_t inverse, threads;
    const float *x, *raw;
} Call;

/* The bin of each lane. `index` counts bins; before and after are its neighbours. */
typedef struct {
    mask index;
    vec left, width, bottom, height;
    vec width_before, height_before, width_after, height_after;
    vec share[2][BINS]; /* softmax of widths and of heights */
    vec sigma[2];       /* sigmoid of the raw slopes at both knots */
    vec slope[2], mean[2];
} Bin;

INLINE vec load(const float *p) { return *(const vec *)p; }
INLINE void store(float *p, vec v) { *(vec *)p = v; }
INLINE vec all(float value) { return (vec){} + value; }
INLINE vec where(mask m, vec a, vec b) { return (vec)((m & (mask)a) | (~m & (mask)b)); }
INLINE vec smaller(vec a, vec b) { return where(a < b, a, b); }
INLINE vec larger(vec a, vec b) { return where(a > b, a, b); }
INLINE vec absolute(vec v) { return (vec)((mask)v & 0x7fffffff); }
INLINE float sum(vec v) {
    float total = 0;
    for (int i = 0; i < LANES; i++) total += v[i];
    return total;
}
INLINE vec root(vec v) {
    vec r;
    for (int i = 0; i < LANES; i++) r[i] = __builtin_sqrtf(v[i]);
    return r;
}

/* exp for x < 87, to 1 ulp, and not below exp(-87): Cephes' expf on all lanes. */
INLINE vec exponential(vec x) {
    const float magic = 12582912.f; /* 1.5 * 2^23: adding it rounds to an integer */
    x = where(x < -87.f, all(-87.f), x);
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

/* log of positive normal numbers: Cephes' logf. */
INLINE vec logarithm(vec x) {
    mask bits = (mask)x;
    vec e = __builtin_convertvector((bits >> 23) - 126, vec);
    vec m = (vec)((bits & 0x007fffff) | 0x3f000000);
    mask low = m < 0.707106781186547524f;
    e = e - where(low, all(1.f), all(0.f));
    m = where(low, m + m, m) - 1.f;
    vec y = all(7.0376836292e-2f), square = m * m;
    y = y * m - 1.1514610310e-1f;
    y = y * m + 1.1676998740e-1f;
    y = y * m - 1.2420140846e-1f;
    y = y * m + 1.4249322787e-1f;
    y = y * m - 1.6668057665e-1f;
    y = y * m + 2.0000714765e-1f;
    y = y * m - 2.4999993993e-1f;
    y = y * m + 3.3333331174e-1f;
    y = y * m * square - 2.12194440e-4f * e - 0.5f * square;
    return m + y + 0.693359375f * e;
}

INLINE vec sigmoid(vec r) {
    vec e = exponential(-absolute(r));
    return where(r < 0.f, e, all(1.f)) / (1.f + e);
}

INLINE void softmax(const vec *raw, int64_t n, vec *share) {
    vec top = raw[0], total = all(0.f);
    for (int64_t k = 1; k < n; k++) top = larger(raw[k], top);
    for (int64_t k = 0; k < n; k++) total += share[k] = exponential(raw[k] - top);
    total = 1.f / total;
    for (int64_t k = 0; k < n; k++) share[k] *= total;
}

/* Slope and mean secant at a knot between two bins. */
INLINE void knot(const Spline *s, Bin *b, int side, vec w0, vec h0, vec w1, vec h1, vec raw,
                 mask inner) {
    vec sigma = sigmoid(raw + s->offset), first = h0 / w0, second = h1 / w1;
    vec mean = 2.f * first * second / (first + second);
    b->sigma[side] = sigma;
    b->mean[side] = where(inner, mean, all(0.f));
    b->slope[side] = where(inner, mean * (s->low + (s->high - s->low) * sigma), all(1.f));
}

/* Finds the bin of value among the left edges, or with `inverse` among the bottoms. */
INLINE void find(const Spline *s, const vec *raw, vec value, int inverse, Bin *b) {
    const int64_t n = s->bins;
    const float box = 2.f * s->bound, wide = box * (1.f - n * s->min_width);
    softmax(raw, n, b->share[0]);
    softmax(raw + n, n, b->share[1]);
    vec left = all(-s->bound), bottom = left, before_w = all(1.f), before_h = before_w;
    vec raw_left = all(0.f), raw_right = raw_left;
    b->index = (mask){} - 1;
    b->width_after = b->height_after = before_w;
    for (int64_t k = 0; k < n; k++) {
        vec width = s->min_width * box + wide * b->share[0][k];
        vec height = s->min_secant * width + box * (1.f - s->min_secant) * b->share[1][k];
        vec knot_before = k ? raw[2 * n + k - 1] : all(0.f);
        mask here = (inverse ? bottom : left) <= value, after;
        if (!k) here = (mask){} - 1;
        after = ~here & (b->index == (int32_t)(k - 1));
        if (!k) after = (mask){};
        b->width_after = where(after, width, b->width_after);
        b->height_after = where(after, height, b->height_after);
        raw_right = where(after, knot_before, raw_right);
        b->index = (here & (int32_t)k) | (~here & b->index);
        b->left = where(here, left, b->left);
        b->bottom = where(here, bottom, b->bottom);
        b->width = where(here, width, b->width);
        b->height = where(here, height, b->height);
        b->width_before = where(here, before_w, b->width_before);
        b->height_before = where(here, before_h, b->height_before);
        raw_left = where(here, knot_before, raw_left);
        left += width, bottom += height;
        before_w = width, before_h = height;
    }
    knot(s, b, 0, b->width_before, b->height_before, b->width, b->height, raw_left, b->index > 0);
    knot(s, b, 1, b->width, b->height, b->width_after, b->height_after, raw_right,
         b->index < (int32_t)(n - 1));
}

INLINE vec unit(vec v) { return smaller(larger(v, all(0.f)), all(1.f)); }

/* xi of the bin, and from it z and the slope. */
INLINE vec inside(const Bin *b, vec value, int inverse, vec *slope) {
    vec s = b->height / b->width, d0 = b->slope[0], d1 = b->slope[1], xi;
    if (inverse) {
        vec eta = unit((value - b->bottom) / b->height), a = d0 / s;
        vec beta = a - eta * (a + d1 / s - 2.f), gap = beta - 2.f * eta;
        vec r = root(gap * gap + 4.f * eta * (1.f - eta));
        mask positive = beta > 0.f;
        xi = unit(where(positive, 2.f * eta, r - beta) /
                  where(positive, beta + r, 2.f * (1.f - beta)));
    } else {
        xi = unit((value - b->left) / b->width);
    }
    vec q = 1.f - xi, p = xi * q, d = s + (d0 + d1 - 2.f * s) * p, ratio = s / d;
    *slope = (d1 * xi * xi + 2.f * s * p + d0 * q * q) * ratio * ratio;
    if (inverse) return b->left + b->width * xi;
    return b->bottom + b->height * (s * xi * xi + d0 * p) / d;
}

/* Where lane i of the group that starts at element e of the rows is. */
typedef struct {
    int64_t row[LANES], channel[LANES];
    int64_t count;
    int together; /* all lanes are used and belong to one row */
} Place;

INLINE void place(const Call *c, int64_t e, int64_t end, Place *at) {
    int64_t row = e / c->channels, channel = e % c->channels;
    at->count = end - e < LANES ? end - e : LANES;
    at->together = at->count == LANES && channel + LANES <= c->channels;
    for (int i = 0; i < LANES; i++) { /* unused lanes repeat the last one */
        at->row[i] = row, at->channel[i] = channel;
        if (i + 1 < at->count && ++channel == c->channels) channel = 0, row++;
    }
}

INLINE void gather(const Call *c, const Place *at, int64_t planes, vec *raw) {
    if (at->together) {
        const float *from = c->raw + at->row[0] * c->row + at->channel[0];
        for (int64_t p = 0; p < planes; p++) raw[p] = load(from + p * c->plane);
        return;
    }
    const float *from[LANES];
    for (int i = 0; i < LANES; i++) from[i] = c->raw + at->row[i] * c->row + at->channel[i];
    for (int64_t p = 0; p < planes; p++)
        for (int i = 0; i < LANES; i++) raw[p][i] = from[i][p * c->plane];
}

INLINE vec values(const Place *at, const float *from, int64_t e) {
    if (at->count == LANES) return load(from + e);
    vec v;
    for (int i = 0; i < LANES; i++) v[i] = from[e + (i < at->count ? i : at->count - 1)];
    return v;
}

INLINE void put(const Place *at, float *to, int64_t e, vec v) {
    if (at->count == LANES) store(to + e, v);
    else
        for (int64_t i = 0; i < at->count; i++) to[e + i] = v[i];
}

static void rows(const Spline *s, const Call *c, int64_t first, int64_t last, float *z,
                 float *log_det) {
    const int64_t planes = 3 * s->bins - 1, end = last * c->channels;
    vec raw[3 * BINS];
    Place at;
    Bin b;
    for (int64_t r = first; r < last; r++) log_det[r] = 0;
    for (int64_t e = first * c->channels; e < end; e += LANES) {
        place(c, e, end, &at);
        gather(c, &at, planes, raw);
        vec x = values(&at, c->x, e), slope;
        find(s, raw, x, c->inverse, &b);
        vec y = inside(&b, x, c->inverse, &slope);
        mask in = absolute(x) < s->bound;
        put(&at, z, e, where(in, y, x));
        vec l = where(in, logarithm(slope), all(0.f));
        if (c->inverse) l = -l;
        if (at.together) log_det[at.row[0]] += sum(l);
        else
            for (int64_t i = 0; i < at.count; i++) log_det[at.row[i]] += l[i];
    }
}

void steadyflow_spline(const Spline *s, const Call *c, float *z, float *log_det) {
#pragma omp parallel for num_threads(c->threads) if (c->threads > 1)
    for (int64_t t = 0; t < c->threads; t++)
        rows(s, c, c->batch * t / c->threads, c->batch * (t + 1) / c->threads, z, log_det);
}

/* The inverse for one variable of `count` examples (a multiple of LANES), with parameters
 * (planes, count), and the log-slope at x: for fused_autoregressive.c. */
void steadyflow_spline_column(const void *settings, const float *z, const float *raw, int64_t count,
                              float *x, float *log_slope) {
    const Spline *s = settings;
    const int64_t planes = 3 * s->bins - 1;
    vec own[3 * BINS], slope;
    Bin b;
    for (int64_t e = 0; e < count; e += LANES) {
        for (int64_t p = 0; p < planes; p++) own[p] = load(raw + p * count + e);
        vec value = load(z + e);
        find(s, own, value, 1, &b);
        vec back = inside(&b, value, 1, &slope);
        mask in = absolute(value) < s->bound;
        store(x + e, where(in, back, value));
        store(log_slope + e, where(in, logarithm(slope), all(0.f)));
    }
}

typedef struct {
    const float *dz, *d_log_det; /* (batch, channels), contiguous; (batch), contiguous */
    float *dx, *d_raw;           /* like x, and (batch, planes, channels), contiguous */
} Gradients;

/* Gradients of one group: those of raw go into d_raw, that of x is the result. */
INLINE vec pull(const Spline *s, const Bin *b, vec x, vec dz, vec dl, vec *d_raw) {
    const int64_t n = s->bins;
    const float box = 2.f * s->bound;
    vec w = b->width, h = b->height, d0 = b->slope[0], d1 = b->slope[1], slope = h / w;
    vec xi = unit((x - b->left) / w), q = 1.f - xi, p = xi * q, turn = 1.f - 2.f * xi;
    vec over = slope * xi * xi + d0 * p, under = slope + (d0 + d1 - 2.f * slope) * p;
    vec n2 = d1 * xi * xi + 2.f * slope * p + d0 * q * q, ratio = over / under;
    vec d_over = dz * h / under, d_under = -(d_over * ratio + 2.f * dl / under), d_n2 = dl / n2;
    vec d_slope = d_over * xi * xi + d_under * (1.f - 2.f * p) + 2.f * d_n2 * p + 2.f * dl / slope;
    vec d_d0 = d_over * p + d_under * p + d_n2 * q * q, d_d1 = d_under * p + d_n2 * xi * xi;
    vec d_xi = d_over * (2.f * slope * xi + d0 * turn) + d_under * (d0 + d1 - 2.f * slope) * turn +
               d_n2 * 2.f * (d1 * xi + slope * turn - d0 * q);
    vec dx = d_xi / w, d_left = -dx, d_bottom = dz, range = all(s->high - s->low);

    /* the knots: d = mean * phi(raw), mean = 2 s0 s1 / (s0 + s1), d mean / d s0 = (mean / s0)^2 / 2 */
    vec before = b->height_before / b->width_before, after = b->height_after / b->width_after;
    vec phi0 = s->low + range * b->sigma[0], phi1 = s->low + range * b->sigma[1];
    vec mean0 = b->mean[0], mean1 = b->mean[1];
    vec raw0 = d_d0 * mean0 * range * b->sigma[0] * (1.f - b->sigma[0]);
    vec raw1 = d_d1 * mean1 * range * b->sigma[1] * (1.f - b->sigma[1]);
    vec half0 = 0.5f * d_d0 * phi0 * mean0 * mean0, half1 = 0.5f * d_d1 * phi1 * mean1 * mean1;
    d_slope += (half0 + half1) / (slope * slope);
    vec d_before = half0 / (before * before), d_after = half1 / (after * after);

    vec h_here = dz * ratio + d_slope / w, w_here = -(dx * xi + d_slope * slope / w);
    vec h_before = d_before / b->width_before, w_before = -h_before * before;
    vec h_after = d_after / b->width_after, w_after = -h_after * after;
    vec dot[2] = {all(0.f), all(0.f)}, zero = all(0.f);
    for (int64_t k = 0; k < n; k++) {
        mask here = b->index == (int32_t)k, past = b->index > (int32_t)k;
        mask is_before = b->index == (int32_t)(k + 1), is_after = b->index == (int32_t)(k - 1);
        vec dh = where(past, d_bottom, zero), dw = where(past, d_left, zero);
        dh += where(here, h_here, where(is_before, h_before, where(is_after, h_after, zero)));
        dw += where(here, w_here, where(is_before, w_before, where(is_after, w_after, zero)));
        dw += s->min_secant * dh;
        dw *= box * (1.f - n * s->min_width) * b->share[0][k];
        dh *= box * (1.f - s->min_secant) * b->share[1][k];
        dot[0] += dw, dot[1] += dh;
        d_raw[k] = dw, d_raw[n + k] = dh;
        if (k + 1 < n) d_raw[2 * n + k] = where(is_before, raw0, where(here, raw1, zero));
    }
    for (int64_t k = 0; k < n; k++) {
        d_raw[k] -= b->share[0][k] * dot[0];
        d_raw[n + k] -= b->share[1][k] * dot[1];
    }
    return dx;
}

static void rows_back(const Spline *s, const Call *c, int64_t first, int64_t last,
                      const Gradients *g) {
    const int64_t planes = 3 * s->bins - 1, end = last * c->channels;
    vec raw[3 * BINS], d_raw[3 * BINS];
    Place at;
    Bin b;
    for (int64_t e = first * c->channels; e < end; e += LANES) {
        place(c, e, end, &at);
        gather(c, &at, planes, raw);
        vec x = values(&at, c->x, e), dz = values(&at, g->dz, e), dl;
        for (int i = 0; i < LANES; i++) dl[i] = g->d_log_det[at.row[i]];
        find(s, raw, x, 0, &b);
        mask in = absolute(x) < s->bound;
        vec dx = pull(s, &b, x, dz, dl, d_raw);
        put(&at, g->dx, e, where(in, dx, dz));
        for (int64_t p = 0; p < planes; p++) {
            vec d = where(in, d_raw[p], all(0.f));
            float *to = g->d_raw + p * c->channels;
            if (at.together) store(to + at.row[0] * planes * c->channels + at.channel[0], d);
            else
                for (int64_t i = 0; i < at.count; i++)
                    to[at.row[i] * planes * c->channels + at.channel[i]] = d[i];
        }
    }
}

void steadyflow_spline_backward(const Spline *s, const Call *c, const Gradients *g) {
#pragma omp parallel for num_threads(c->threads) if (c->threads > 1)
    for (int64_t t = 0; t < c->threads; t++)
        rows_back(s, c, c->batch * t / c->threads, c->batch * (t + 1) / c->threads, g);
}
