/* A contraction of images, its transposed Jacobian, and both with their gradients.
 *
 *     a1 = W1 cols(x) + b1,  h1 = phi(a1)          cols: the 3x3 neighbourhoods
 *     a2 = W2 h1 + b2,       h2 = phi(a2)
 *     g  = the neighbourhoods' sums of W3 h2       phi(a) = a sigmoid(beta a) / 1.1
 *
 * Each panel (panel.h) has pixels of one image only, and each thread images of its own.
 * fused_contractive.py has the why.
 */
#include "../neighbourhoods.h"

#define STEEPEST 1.1f /* of a swish: what phi is divided by */

typedef struct {
    int64_t batch, channels;
    Size size;
    int64_t hidden, threads, given;
    float beta[2];
    const float *x, *tangent;                 /* (batch, channels, height, width); tangent or null */
    const float *first, *first_bias;          /* (hidden, 9 channels), (hidden) or, if given, (batch, hidden) */
    const float *second, *second_bias, *last; /* (hidden, hidden), (hidden), (9 channels, hidden) */
    float *scratch;                           /* of each thread in turn */
    float *kept;                              /* of each panel in turn; or null */
} Net;

typedef struct {
    const float *dy, *dt;               /* of g and of its tangent, or null */
    float *dx, *d_tangent;              /* zeros, or null */
    float *d_first, *d_first_bias;      /* of each thread (if given, of each image) in turn */
    float *d_second, *d_second_bias, *d_last;
    float *d_beta; /* zeros, of both activations, of each thread in turn */
} Gradients;

/* phi, phi', phi'', d phi / d beta and d phi' / d beta at a. */
typedef struct {
    vec value, slope, bend, value_beta, slope_beta;
} Swish;

INLINE Swish swish(vec a, float beta) {
    vec z = beta * a, distance = absolute(z);
    distance = where(distance > 80.f, all(80.f), distance);
    const vec e = exponential(-distance), upper = 1.f / (1.f + e);
    const vec gate = where(z < 0.f, e * upper, upper), steep = e * upper * upper;
    /* far out nothing but the straight lines is left: z there times an exponential is no number */
    z = where(absolute(z) > 80.f, where(z < 0.f, all(-80.f), all(80.f)), z);
    const vec turn = 2.f * steep + z * steep * (1.f - 2.f * gate);
    Swish s;
    s.value = a * gate / STEEPEST;
    s.slope = (gate + z * steep) / STEEPEST;
    s.bend = beta * turn / STEEPEST;
    s.value_beta = a * a * steep / STEEPEST;
    s.slope_beta = a * turn / STEEPEST;
    return s;
}

static int64_t panels_of_image(const Net *n) { return (pixels(&n->size) + P - 1) / P; }
static int64_t first_image(const Net *n, int64_t thread) { return n->batch * thread / n->threads; }

/* Floats of what one panel keeps: slopes for the transposed Jacobian, or features and tangents. */
static int64_t panel_size(const Net *n, int64_t tangents) { return (tangents ? 4 : 2) * n->hidden * P; }

int64_t steadyflow_contractive_kept(const Net *n, int64_t tangents) {
    return n->batch * panels_of_image(n) * panel_size(n, tangents);
}

/* Floats of scratch of a thread. */
int64_t steadyflow_contractive_scratch(const Net *n) {
    const int64_t in = 9 * n->channels, widest = n->hidden > in ? n->hidden : in;
    return P * (in + 6 * n->hidden + widest);
}

typedef struct {
    float *own, *kept; /* scratch of the thread; what the panel keeps, or null */
    int64_t thread, image, pixel, count;
    int fresh, begins; /* the first one of its thread, of its image */
} Panel;

typedef struct {
    const float *u;
    float *y, *yt;
    const Gradients *gradients;
} Images;

typedef void Work(const Net *n, const Panel *p, const Images *images);

/* Does the work for every panel, of which each keeps `kept` floats. */
static void each_panel(const Net *n, int64_t kept, Work *work, const Images *images) {
    const int64_t share = steadyflow_contractive_scratch(n), whole = pixels(&n->size);
    const int64_t panels = panels_of_image(n);
#pragma omp parallel for schedule(static) num_threads(n->threads) if (n->threads > 1)
    for (int64_t t = 0; t < n->threads; t++) {
        const int64_t first = first_image(n, t), end = first_image(n, t + 1);
        for (int64_t i = first * panels; i < end * panels; i++) {
            const int64_t part = i % panels, left = whole - part * P;
            Panel p = {n->scratch + t * share, n->kept ? n->kept + i * kept : 0, t, i / panels};
            p.pixel = p.image * whole + part * P;
            p.count = left < P ? left : P;
            p.fresh = i == first * panels;
            p.begins = part == 0;
            work(n, &p, images);
        }
    }
}

static void gather(const Net *n, const Panel *p, const float *image, int64_t side, float *cols) {
    gather_taps(&n->size, image, n->channels, side, p->pixel, p->count, cols);
}

static void scatter(const Net *n, const Panel *p, const float *cols, int64_t side, float *image) {
    scatter_taps(&n->size, cols, n->channels, side, p->pixel, p->count, image);
}

static const float *bias_of(const Net *n, int64_t image) {
    return n->first_bias + (n->given ? image * n->hidden : 0);
}

static void forward_panel(const Net *n, const Panel *p, const Images *images) {
    const int64_t in = 9 * n->channels, hidden = n->hidden, size = hidden * P;
    float *cols = p->own, *h1 = cols + in * P, *h2 = h1 + size;
    gather(n, p, n->x, 1, cols);
    linear(n->first, bias_of(n, p->image), cols, in, h1, hidden, 0);
    for (int layer = 0; layer < 2; layer++) {
        float *h = layer ? h2 : h1;
        for (int64_t i = 0; i < size; i += LANES) {
            const Swish s = swish(load(h + i), n->beta[layer]);
            store(h + i, s.value);
            if (p->kept) store(p->kept + layer * size + i, s.slope);
        }
        if (!layer) linear(n->second, n->second_bias, h1, hidden, h2, hidden, 0);
    }
    linear(n->last, 0, h2, hidden, cols, in, 0);
    scatter(n, p, cols, -1, images->y);
}

/* g: added to zeros (batch, channels, height, width). Keeps phi' of both layers. */
void steadyflow_contractive_forward(const Net *n, float *y) {
    const Images images = {.y = y};
    each_panel(n, panel_size(n, 0), forward_panel, &images);
}

static void multiply(float *h, const float *by, int64_t size) {
    for (int64_t i = 0; i < size; i += LANES) store(h + i, load(h + i) * load(by + i));
}

static void pull_panel(const Net *n, const Panel *p, const Images *images) {
    const int64_t in = 9 * n->channels, hidden = n->hidden, size = hidden * P;
    float *cols = p->own, *h2 = cols + in * P, *h1 = h2 + size;
    gather(n, p, images->u, -1, cols);
    linear_back(n->last, cols, in, h2, hidden, 0);
    multiply(h2, p->kept + size, size);
    linear_back(n->second, h2, hidden, h1, hidden, 0);
    multiply(h1, p->kept, size);
    linear_back(n->first, h1, hidden, cols, in, 0);
    scatter(n, p, cols, 1, images->y);
}

/* J' u at the x of the slopes that were kept, added to zeros. */
void steadyflow_contractive_pull(const Net *n, const float *u, float *result) {
    const Images images = {.u = u, .y = result};
    each_panel(n, panel_size(n, 0), pull_panel, &images);
}

/* Features a and, if there are, their tangents t, to phi(a) and phi'(a) t. */
static void activate(const float *a, const float *t, float beta, int64_t size, float *h, float *pushed) {
    for (int64_t i = 0; i < size; i += LANES) {
        const Swish s = swish(load(a + i), beta);
        store(h + i, s.value);
        if (t) store(pushed + i, s.slope * load(t + i));
    }
}

static void jvp_panel(const Net *n, const Panel *p, const Images *images) {
    const int64_t in = 9 * n->channels, hidden = n->hidden, size = hidden * P;
    float *cols = p->own, *h = cols + in * P, *pushed = h + size;
    float *a1 = p->kept ? p->kept : pushed + size, *a2 = a1 + size;
    float *t1 = n->tangent ? a2 + size : 0, *t2 = n->tangent ? t1 + size : 0;
    gather(n, p, n->x, 1, cols);
    linear(n->first, bias_of(n, p->image), cols, in, a1, hidden, 0);
    if (n->tangent) {
        gather(n, p, n->tangent, 1, cols);
        linear(n->first, 0, cols, in, t1, hidden, 0);
    }
    activate(a1, t1, n->beta[0], size, h, pushed);
    linear(n->second, n->second_bias, h, hidden, a2, hidden, 0);
    if (n->tangent) linear(n->second, 0, pushed, hidden, t2, hidden, 0);
    activate(a2, t2, n->beta[1], size, h, pushed);
    linear(n->last, 0, h, hidden, cols, in, 0);
    scatter(n, p, cols, -1, images->y);
    if (!n->tangent) return;
    linear(n->last, 0, pushed, hidden, cols, in, 0);
    scatter(n, p, cols, -1, images->yt);
}

/* g and J tangent, added to zeros. Keeps a1, a2 and their tangents. */
void steadyflow_contractive_jvp(const Net *n, float *y, float *yt) {
    const Images images = {.y = y, .yt = yt};
    each_panel(n, panel_size(n, n->tangent != 0), jvp_panel, &images);
}

/* The gradients (dh, d_pushed) of phi(a) and phi'(a) t become those of a and t; gives that of beta. */
static float deactivate(const float *a, const float *t, float beta, int64_t size, float *dh, float *d_pushed) {
    vec total = all(0.f);
    for (int64_t i = 0; i < size; i += LANES) {
        const Swish s = swish(load(a + i), beta);
        const vec d = load(dh + i);
        vec da = s.slope * d;
        total += s.value_beta * d;
        if (t) {
            const vec dp = load(d_pushed + i), tangent = load(t + i);
            da += s.bend * tangent * dp;
            total += s.slope_beta * tangent * dp;
            store(d_pushed + i, s.slope * dp);
        }
        store(dh + i, da);
    }
    return sum(total);
}

/* Adds d h' of a panel to the gradient of a layer. */
static void learn(const float *d, int64_t n_out, const float *h, int64_t n_in, float *turn,
                  float *gradient, int fresh) {
    transpose(h, P, n_in / LANES * LANES, P, turn, n_in);
    weight_layer(d, n_out, h, turn, n_in, gradient, fresh);
}

static void back_panel(const Net *n, const Panel *p, const Images *images) {
    const Gradients *b = images->gradients;
    const int64_t in = 9 * n->channels, hidden = n->hidden, size = hidden * P, thread = p->thread;
    float *cols = p->own, *h = cols + in * P, *pushed = h + size, *d2 = pushed + size, *e2 = d2 + size;
    float *d1 = e2 + size, *e1 = d1 + size, *turn = e1 + size;
    const float *a1 = p->kept, *a2 = a1 + size;
    const float *t1 = n->tangent ? a2 + size : 0, *t2 = n->tangent ? t1 + size : 0;
    float *d_last = b->d_last + thread * in * hidden, *d_first = b->d_first + thread * in * hidden;
    float *d_second = b->d_second + thread * hidden * hidden, *d_beta = b->d_beta + 2 * thread;
    /* the last layer; d is of features, e of tangents */
    activate(a2, t2, n->beta[1], size, h, pushed);
    gather(n, p, b->dy, -1, cols);
    learn(cols, in, h, hidden, turn, d_last, p->fresh);
    linear_back(n->last, cols, in, d2, hidden, 0);
    if (n->tangent) {
        gather(n, p, b->dt, -1, cols);
        learn(cols, in, pushed, hidden, turn, d_last, 0);
        linear_back(n->last, cols, in, e2, hidden, 0);
    }
    d_beta[1] += deactivate(a2, t2, n->beta[1], size, d2, e2);
    /* the second */
    activate(a1, t1, n->beta[0], size, h, pushed);
    learn(d2, hidden, h, hidden, turn, d_second, p->fresh);
    bias_rows(hidden, d2, b->d_second_bias + thread * hidden, p->fresh);
    linear_back(n->second, d2, hidden, d1, hidden, 0);
    if (n->tangent) {
        learn(e2, hidden, pushed, hidden, turn, d_second, 0);
        linear_back(n->second, e2, hidden, e1, hidden, 0);
    }
    d_beta[0] += deactivate(a1, t1, n->beta[0], size, d1, e1);
    /* the first */
    gather(n, p, n->x, 1, cols);
    learn(d1, hidden, cols, in, turn, d_first, p->fresh);
    bias_rows(hidden, d1, b->d_first_bias + (n->given ? p->image : thread) * hidden,
              n->given ? p->begins : p->fresh);
    if (b->dx) {
        linear_back(n->first, d1, hidden, cols, in, 0);
        scatter(n, p, cols, 1, b->dx);
    }
    if (!n->tangent) return;
    gather(n, p, n->tangent, 1, cols);
    learn(e1, hidden, cols, in, turn, d_first, 0);
    if (b->d_tangent) {
        linear_back(n->first, e1, hidden, cols, in, 0);
        scatter(n, p, cols, 1, b->d_tangent);
    }
}

/* All gradients of what steadyflow_contractive_jvp gave. */
void steadyflow_contractive_back(const Net *n, const Gradients *gradients) {
    const Images images = {.gradients = gradients};
    each_panel(n, panel_size(n, n->tangent != 0), back_panel, &images);
}
