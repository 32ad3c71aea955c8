"""Kernels of the C format, in plain C99."""

from __future__ import annotations

KERNELS = r"""
/* Tensors are bytes in the order channel, row, column; signed ones are read as int8_t. */
static int apq_at(const uint8_t *x, int is_signed, int i)
{
    return is_signed ? (int8_t)x[i] : x[i];
}

/* Weight i of a stream of integers of that many bits, lowest bit first. */
static int apq_weight(const uint8_t *w, int bits, size_t i)
{
    size_t at = i * (size_t)bits, byte = at >> 3, shift = at & 7;
    unsigned value = (unsigned)w[byte] >> shift;
    if (shift + (size_t)bits > 8)
        value |= (unsigned)w[byte + 1] << (8 - shift);
    value &= (1u << bits) - 1u;
    return (int)value - (int)((value >> (bits - 1)) << bits);
}

/* Nearest integer, halves to even, between low and high; rintf needs the default rounding mode. */
static uint8_t apq_clamp(float x, int low, int high)
{
    x = rintf(x);
    return (uint8_t)(x < (float)low ? low : x > (float)high ? high : (int)x);
}

static void apq_quantize(const float *x, int n, float scale, uint8_t *y, int low, int high)
{
    for (int i = 0; i < n; i++)
        y[i] = apq_clamp(x[i] / scale, low, high);
}

static inline void apq_requantize(const uint8_t *x, int is_signed, int n, float from, float to, uint8_t *y, int low,
                                  int high)
{
    for (int i = 0; i < n; i++)
        y[i] = apq_clamp((float)apq_at(x, is_signed, i) * from / to, low, high);
}

/* Two multiply-adds, each rounded once to float: products of a byte and a float are exact in double. */
static inline void apq_add(const uint8_t *a, int a_signed, float a_ratio, const uint8_t *b, int b_signed,
                           float b_ratio, float offset, int n, int zero, uint8_t *y, int low, int high)
{
    for (int i = 0; i < n; i++) {
        int one = apq_at(a, a_signed, i) + (a_signed ? 128 : 0), two = apq_at(b, b_signed, i) + (b_signed ? 128 : 0);
        float inner = (float)((double)two * (double)b_ratio + (double)offset);
        float sum = (float)((double)one * (double)a_ratio + (double)inner);
        y[i] = apq_clamp(rintf(sum) - (float)zero, low, high);
    }
}

static inline void apq_mean(const uint8_t *x, int is_signed, int channels, int pixels, float multiplier, uint8_t *y,
                            int low, int high)
{
    for (int c = 0; c < channels; c++) {
        int32_t sum = 0;
        for (int i = 0; i < pixels; i++)
            sum += apq_at(x, is_signed, c * pixels + i);
        y[c] = apq_clamp((float)sum * multiplier, low, high);
    }
}

/* Products; b has one value for each run of values of a. */
static inline void apq_multiply(const uint8_t *a, int a_signed, const uint8_t *b, int b_signed, float ratio, int run,
                                int n, int zero, uint8_t *y, int low, int high)
{
    for (int i = 0; i < n; i++) {
        float product = (float)(apq_at(a, a_signed, i) * apq_at(b, b_signed, i / run));
        y[i] = apq_clamp(rintf(product * ratio + (float)zero) - (float)zero, low, high);
    }
}

/* Images that are read in windows, and images that are made of them. */
typedef struct {
    int channels, height, width, out_channels, out_height, out_width;
    int kernel_height, kernel_width, stride_y, stride_x, top, left, dilation_y, dilation_x, groups;
} apq_shape;

static inline void apq_max_pool(const uint8_t *x, int is_signed, const apq_shape *s, uint8_t *y)
{
    for (int c = 0; c < s->channels; c++)
        for (int r = 0; r < s->out_height; r++)
            for (int q = 0; q < s->out_width; q++) {
                int most = -128;
                for (int u = 0; u < s->kernel_height; u++)
                    for (int v = 0; v < s->kernel_width; v++) {
                        int row = r * s->stride_y - s->top + u * s->dilation_y;
                        int column = q * s->stride_x - s->left + v * s->dilation_x;
                        if (row < 0 || row >= s->height || column < 0 || column >= s->width)
                            continue;
                        int value = apq_at(x, is_signed, (c * s->height + row) * s->width + column);
                        most = value > most ? value : most;
                    }
                y[(c * s->out_height + r) * s->out_width + q] = (uint8_t)most;
            }
}

static inline void apq_average_pool(const uint8_t *x, int is_signed, const apq_shape *s, int count_padding, float from,
                                    float to, int zero, uint8_t *y, int low, int high)
{
    for (int c = 0; c < s->channels; c++)
        for (int r = 0; r < s->out_height; r++)
            for (int q = 0; q < s->out_width; q++) {
                float sum = 0.0f;
                int count = 0;
                for (int u = 0; u < s->kernel_height; u++)
                    for (int v = 0; v < s->kernel_width; v++) {
                        int row = r * s->stride_y - s->top + u, column = q * s->stride_x - s->left + v;
                        int inside = row >= 0 && row < s->height && column >= 0 && column < s->width;
                        if (inside)
                            sum += (float)apq_at(x, is_signed, (c * s->height + row) * s->width + column) * from;
                        count += inside || count_padding;
                    }
                float level = sum / (float)count / to + (float)zero;
                y[(c * s->out_height + r) * s->out_width + q] = apq_clamp(rintf(level) - (float)zero, low, high);
            }
}

/* Images with zeros around them, and channels of zeros before and after. */
static inline void apq_pad(const uint8_t *x, const apq_shape *s, int before, uint8_t *y)
{
    memset(y, 0, (size_t)(s->out_channels * s->out_height * s->out_width));
    for (int c = 0; c < s->channels; c++)
        for (int r = 0; r < s->height; r++)
            memcpy(y + ((c + before) * s->out_height + r + s->top) * s->out_width + s->left,
                   x + (c * s->height + r) * s->width, (size_t)s->width);
}

/* Each pixel as a square of several. */
static inline void apq_enlarge(const uint8_t *x, const apq_shape *s, int factor, uint8_t *y)
{
    for (int c = 0; c < s->channels; c++)
        for (int r = 0; r < s->out_height; r++)
            for (int q = 0; q < s->out_width; q++)
                y[(c * s->out_height + r) * s->out_width + q] =
                    x[(c * s->height + r / factor) * s->width + q / factor];
}

static inline void apq_select(const uint8_t *x, const uint16_t *indices, int n, int pixels, uint8_t *y)
{
    for (int i = 0; i < n; i++)
        memcpy(y + i * pixels, x + indices[i] * pixels, (size_t)pixels);
}

static int32_t apq_sums[APQ_WIDTH]; /* accumulators of one row of outputs */

/* Convolution; a linear layer is one of 1 x 1 pixels. Without y the output is floats. */
static void apq_conv(const uint8_t *x, int is_signed, const apq_shape *s, const uint8_t *w, int bits,
                     const int32_t *bias, const float *multipliers, uint8_t *y, int low, int high, float *floats)
{
    int in_group = s->channels / s->groups, out_group = s->out_channels / s->groups;
    for (int o = 0; o < s->out_channels; o++)
        for (int r = 0; r < s->out_height; r++) {
            for (int c = 0; c < s->out_width; c++)
                apq_sums[c] = bias[o];
            for (int i = 0; i < in_group; i++)
                for (int u = 0; u < s->kernel_height; u++) {
                    int row = r * s->stride_y - s->top + u * s->dilation_y, at = o / out_group * in_group + i;
                    if (row < 0 || row >= s->height)
                        continue;
                    for (int v = 0; v < s->kernel_width; v++) {
                        size_t tap = (size_t)(((o * in_group + i) * s->kernel_height + u) * s->kernel_width + v);
                        int weight = apq_weight(w, bits, tap), stride = s->stride_x;
                        int shift = v * s->dilation_x - s->left, from = (at * s->height + row) * s->width + shift;
                        int first = shift < 0 ? (stride - 1 - shift) / stride : 0;
                        int end = s->width > shift ? (s->width - 1 - shift) / stride + 1 : 0;
                        for (int c = first; c < end && c < s->out_width; c++)
                            apq_sums[c] += weight * apq_at(x, is_signed, from + c * stride);
                    }
                }
            for (int c = 0; c < s->out_width; c++) {
                float real = (float)apq_sums[c] * multipliers[o];
                int to = (o * s->out_height + r) * s->out_width + c;
                if (floats)
                    floats[to] = real;
                else
                    y[to] = apq_clamp(real, low, high);
            }
        }
}
"""

MAIN = r"""
#ifdef APQ_MAIN
#include <stdio.h>

/* Images as float32 from stdin, their logits as float32 to stdout. */
int main(void)
{
    static float image[APQ_INPUTS], logits[APQ_CLASSES];
    while (fread(image, sizeof(float), APQ_INPUTS, stdin) == APQ_INPUTS) {
        apq_run(image, logits);
        fwrite(logits, sizeof(float), APQ_CLASSES, stdout);
    }
    return 0;
}
#endif
"""
