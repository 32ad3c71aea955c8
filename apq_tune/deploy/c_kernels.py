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

static void apq_mean(const uint8_t *x, int is_signed, int channels, int pixels, float multiplier, uint8_t *y, int low,
                     int high)
{
    for (int c = 0; c < channels; c++) {
        int32_t sum = 0;
        for (int i = 0; i < pixels; i++)
            sum += apq_at(x, is_signed, c * pixels + i);
        y[c] = apq_clamp((float)sum * multiplier, low, high);
    }
}

static int32_t apq_sums[APQ_WIDTH]; /* accumulators of one row of outputs */

/* Convolution; a linear layer is one of 1 x 1 pixels. Without y the output is floats. */
static void apq_conv(const uint8_t *x, int is_signed, int in_channels, int in_size, const uint8_t *w, int bits,
                     const int32_t *bias, const float *multipliers, int out_channels, int out_size, int kernel,
                     int stride, int padding, int groups, uint8_t *y, int low, int high, float *floats)
{
    int in_group = in_channels / groups, out_group = out_channels / groups;
    for (int o = 0; o < out_channels; o++)
        for (int r = 0; r < out_size; r++) {
            for (int c = 0; c < out_size; c++)
                apq_sums[c] = bias[o];
            for (int i = 0; i < in_group; i++)
                for (int u = 0; u < kernel; u++) {
                    int row = r * stride - padding + u, at = o / out_group * in_group + i;
                    if (row < 0 || row >= in_size)
                        continue;
                    for (int v = 0; v < kernel; v++) {
                        int weight = apq_weight(w, bits, (size_t)(((o * in_group + i) * kernel + u) * kernel + v));
                        int shift = v - padding, from = (at * in_size + row) * in_size + shift;
                        int first = shift < 0 ? (stride - 1 - shift) / stride : 0;
                        int end = in_size > shift ? (in_size - 1 - shift) / stride + 1 : 0;
                        for (int c = first; c < end && c < out_size; c++)
                            apq_sums[c] += weight * apq_at(x, is_signed, from + c * stride);
                    }
                }
            for (int c = 0; c < out_size; c++) {
                float real = (float)apq_sums[c] * multipliers[o];
                if (floats)
                    floats[o] = real;
                else
                    y[(o * out_size + r) * out_size + c] = apq_clamp(real, low, high);
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
