// The products of a linear layer, forward and backward, as one function over strides.

#include "../cpu_product.h"

extern "C" void multiply(int64_t m, int64_t n, int64_t k, const float* a, int64_t a_row, int64_t a_column,
                         const float* b, int64_t b_row, int64_t b_column, float* c, int64_t c_row, int add) {
  cpu::product(m, n, k, {a, a_row, a_column}, {b, b_column, b_row}, c, c_row, add != 0);
}
