/* The 3x3 neighbourhoods of pixels as columns of panels, and back: what makes matrices of thin
 * convolutions. Images have zeros around them.
 */
#include "panel.h"

typedef struct {
    int64_t height, width;
} Size;

/* A run of pixels of one panel in one row of one image. */
typedef struct {
    int64_t image, row, column, length, at;
} Run;

static int64_t pixels(const Size *n) { return n->height * n->width; }

static Run run_at(const Size *n, int64_t pixel, int64_t end, int64_t at) {
    const int64_t within = pixel % pixels(n), column = within % n->width, left = n->width - column;
    Run r = {pixel / pixels(n), within / n->width, column, end - pixel < left ? end - pixel : left, at};
    return r;
}

/* Where tap (i, j) of a neighbourhood meets an image: the pixels [*from, *to) of the run whose
 * neighbour, `side` times (i - 1, j - 1) away, is in it, and the offset of the first of these. */
INLINE int64_t meet(const Size *n, const Run *r, int64_t side, int64_t i, int64_t j, int64_t *from, int64_t *to) {
    const int64_t row = r->row + side * (i - 1), column = r->column + side * (j - 1);
    *from = column < 0 ? -column : 0;
    *to = column + r->length > n->width ? n->width - column : r->length;
    if (row < 0 || row >= n->height || *from > *to) *from = *to = 0;
    return row * n->width + column + *from;
}

/* cols[c, i, j] = the neighbours of the pixels from `pixel` on, zero outside of the image. */
static void gather_taps(const Size *n, const float *image, int64_t channels, int64_t side,
                        int64_t pixel, int64_t count, float *cols) {
    if (count < P) memset(cols, 0, 9 * channels * P * sizeof(float));
    for (int64_t at = 0; at < count;) {
        const Run r = run_at(n, pixel + at, pixel + count, at);
        for (int64_t tap = 0; tap < 9; tap++) {
            int64_t from, to, offset = meet(n, &r, side, tap / 3, tap % 3, &from, &to);
            const float *x = image + r.image * channels * pixels(n) + offset;
            float *col = cols + tap * P + at;
            for (int64_t c = 0; c < channels; c++, x += pixels(n), col += 9 * P) {
                for (int64_t k = 0; k < from; k++) col[k] = 0.f;
                for (int64_t k = from; k < to; k++) col[k] = x[k - from];
                for (int64_t k = to; k < r.length; k++) col[k] = 0.f;
            }
        }
        at += r.length;
    }
}

/* The transpose: adds cols to the neighbours of the pixels. */
static void scatter_taps(const Size *n, const float *cols, int64_t channels, int64_t side,
                         int64_t pixel, int64_t count, float *image) {
    for (int64_t at = 0; at < count;) {
        const Run r = run_at(n, pixel + at, pixel + count, at);
        for (int64_t tap = 0; tap < 9; tap++) {
            int64_t from, to, offset = meet(n, &r, side, tap / 3, tap % 3, &from, &to);
            float *x = image + r.image * channels * pixels(n) + offset;
            const float *col = cols + tap * P + at;
            for (int64_t c = 0; c < channels; c++, x += pixels(n), col += 9 * P)
                for (int64_t k = from; k < to; k++) x[k - from] += col[k];
        }
        at += r.length;
    }
}
