// The fused mixer on CPUs: what stands between its two projections, chunk by chunk in cache. The matrix products are
// those of cpu_product.h, on the thread that has the chunk.
//
// Forward:  enter_chunks (convolution, scores, each chunk's own state) - pass_states - finish (outputs, gated norm).
// Backward: finish_backward (norm, pairs inside the chunks, what the incoming states receive) - pass_gradients -
//           leave_backward (what the outgoing states hand back) - convolve_backward.

#include <vector>

#include "cpu_product.h"
#include "cpu_common.h"
#include "cpu_convolution.h"

namespace mixer {

using cpu::HEIGHT;
using cpu::Operand;
using cpu::Room;
using cpu::WIDTH;
using cpu::multiply;
using cpu::pack;
using cpu::round_up;

// Where one group of one chunk stands in the buffers.
struct Place {
  int64_t chunk, group, k, kp, ldx;
  int64_t heads, x, B, C;  // offsets: of (c, q, h) by its first token; of (c, q, conv) by its first token
  int64_t square, wide, state;  // of (g, c, q, q), (g, c, q, kp), (g, c, n, kp)
  Place(const Shape& s, int64_t chunk, int64_t group) : chunk(chunk), group(group) {
    k = s.h / s.g, kp = k * s.p, ldx = s.conv();
    heads = chunk * s.q * s.h + group * k;
    x = chunk * s.q * ldx + group * kp;
    B = chunk * s.q * ldx + s.inner() + group * s.n;
    C = B + s.g * s.n;
    int64_t at = group * s.c + chunk;
    square = at * s.q * s.q, wide = at * s.q * kp, state = at * s.n * kp;
  }
};

// decays (q, q) = exp(s_i - s_j) for j <= i, zero to the end of i's block of rows: what lies above is never read.
inline void fill_decays(const Shape& s, const float* sums, float* decays) {
  float line[256];
  for (int64_t i = 0; i < s.q; ++i) line[i] = sums[i * s.h];
  for (int64_t i = 0; i < s.q; ++i) {
    float own = line[i], *row = decays + i * s.q;
    for (int64_t j = 0; j <= i; ++j) row[j] = decay_(own - line[j]);
    for (int64_t j = i + 1; j < std::min(s.q, i + HEIGHT); ++j) row[j] = 0.0f;
  }
}

// y (q, p; rows ldy apart) of one head before its skip: y_i = sum_(j <= i) weights_ij x_j; x in panels.
inline void sum_pairs(const Shape& s, const float* weights, const float* x, float* y, int64_t ldy) {
  for (int64_t i = 0; i < s.q; i += HEIGHT)
    multiply<false>(std::min(HEIGHT, s.q - i), s.p, std::min(s.q, i + HEIGHT), {weights + i * s.q, s.q, 1}, x,
                    WIDTH * s.q, y + i * ldy, ldy, false);
}

// out_j = sum_(i >= j) weights_ij dy_i; dy in panels.
inline void sum_pairs_turned(const Shape& s, const float* weights, const float* dy, float* out) {
  for (int64_t j = 0; j < s.q; j += HEIGHT)
    multiply<false>(std::min(HEIGHT, s.q - j), s.p, s.q - j, {weights + j * s.q + j, 1, s.q}, dy + j * WIDTH,
                    WIDTH * s.q, out + j * s.p, s.p, false);
}

// out (q, q)_ij = a_i . b_j for j <= i (and to the end of i's block); b's q rows in panels.
inline void pair_products(const Shape& s, int64_t depth, const Operand& a, const float* b, float* out) {
  for (int64_t i = 0; i < s.q; i += HEIGHT)
    multiply<false>(std::min(HEIGHT, s.q - i), std::min(s.q, i + HEIGHT), depth,
                    {a.at + i * a.across, a.across, a.along}, b, WIDTH * depth, out + i * s.q, s.q, false);
}

// Rows (q, kp) of one group times a factor for each token and head, rows `ld` apart -> out (q, kp).
inline void scale_heads(const Shape& s, const Place& at, const float* factor, const float* rows, int64_t ld,
                        float* out) {
  for (int64_t i = 0; i < s.q; ++i) {
    for (int64_t head = 0; head < at.k; ++head) {
      float scale = factor[i * s.h + head];
      const float* from = rows + i * ld + head * s.p;
      float* to = out + i * at.kp + head * s.p;
      for (int64_t v = 0; v < s.p; ++v) to[v] = scale * from[v];
    }
  }
}

// Convolution; the scores C_i . B_j of each group; what each chunk's tokens leave of themselves at its end.
template <typename T>
void enter_chunks(const Shape& s, const T* zxbcdt, const float* taps, const float* bias, const float* keep, float* xbc,
                  float* scores, float* states) {
#pragma omp parallel
  {
    static thread_local Room rooms[3];
    int64_t kp = s.h / s.g * s.p;
    float* kept = rooms[0].take(s.q * kp);
    float* right = rooms[1].take(s.q * round_up(std::max(kp, s.q), WIDTH) + s.n * round_up(s.q, WIDTH));
    float* left = rooms[2].take(s.q * round_up(s.n, HEIGHT));
#pragma omp for schedule(dynamic)
    for (int64_t chunk = 0; chunk < s.c; ++chunk) {
      convolve(s, chunk, zxbcdt, taps, bias, xbc + chunk * s.q * s.conv());
      for (int64_t group = 0; group < s.g; ++group) {
        Place at(s, chunk, group);
        pack<WIDTH>({xbc + at.B, at.ldx, 1}, s.q, s.n, right);
        pair_products(s, s.n, {xbc + at.C, at.ldx, 1}, right, scores + at.square);
        scale_heads(s, at, keep + at.heads, xbc + at.x, at.ldx, kept);
        pack<WIDTH>({kept, 1, kp}, kp, s.q, right);
        pack<HEIGHT>({xbc + at.B, 1, at.ldx}, s.n, s.q, left);
        multiply<true>(s.n, kp, s.q, {left, 1, HEIGHT}, right, WIDTH * s.q, states + at.state, kp, false);
      }
    }
  }
}

// From no state at all through chunks `from` up to `to` (before it, downwards where step is -1): total (g, n, kp), of
// each chunk's own contribution and what decays of the others across it.
void fold(const Shape& s, int64_t from, int64_t to, int64_t step, const float* sums, const float* own, float* total) {
  int64_t k = s.h / s.g, kp = k * s.p;
#pragma omp parallel for collapse(2) schedule(static)
  for (int64_t group = 0; group < s.g; ++group) {
    for (int64_t state = 0; state < s.n; ++state) {
      float* sum = total + (group * s.n + state) * kp;
      std::fill(sum, sum + kp, 0.0f);
      for (int64_t chunk = from; chunk != to; chunk += step) {
        const float* row = own + ((group * s.c + chunk) * s.n + state) * kp;
        for (int64_t head = 0; head < k; ++head) {
          float decay = decay_(sums[(chunk * s.q + s.q - 1) * s.h + group * k + head]);
          for (int64_t v = head * s.p; v < (head + 1) * s.p; ++v) sum[v] = row[v] + decay * sum[v];
        }
      }
    }
  }
}

// Each chunk's own contribution -> the state entering it, in place, in the order of the chunks. The first document
// begins from `initial`, the others from nothing; `final` is what the last one leaves, both (g, n, kp) or null.
void pass_states(const Shape& s, const float* sums, const float* initial, float* states, float* final) {
  int64_t k = s.h / s.g, kp = k * s.p;
#pragma omp parallel for collapse(2) schedule(static)
  for (int64_t group = 0; group < s.g; ++group) {
    for (int64_t state = 0; state < s.n; ++state) {
      int64_t line = (group * s.n + state) * kp;
      std::vector<float> running(kp);
      for (int64_t chunk = 0; chunk < s.c; ++chunk) {
        if (s.position[chunk] == 0) std::fill(running.begin(), running.end(), 0.0f);
        if (chunk == 0 && initial) std::copy_n(initial + line, kp, running.begin());
        float* row = states + ((group * s.c + chunk) * s.n + state) * kp;
        for (int64_t head = 0; head < k; ++head) {
          float decay = decay_(sums[(chunk * s.q + s.q - 1) * s.h + group * k + head]);
          float* carried = running.data() + head * s.p;
          float* own = row + head * s.p;
          for (int64_t v = 0; v < s.p; ++v) {
            float before = carried[v];
            carried[v] = own[v] + decay * before;
            own[v] = before;
          }
        }
      }
      if (final) std::copy(running.begin(), running.end(), final + line);
    }
  }
}

// The same backwards: what reads a chunk's incoming state -> the gradient of the state leaving it, from that of the
// last document's final state to that of the first one's initial state. What the decay across each chunk receives,
// states . gradient, is summed on the way: crossing (g, n, c, k).
void pass_gradients(const Shape& s, const float* sums, const float* states, const float* dfinal, float* dstates,
                    float* crossing, float* dinitial) {
  int64_t k = s.h / s.g, kp = k * s.p;
#pragma omp parallel for collapse(2) schedule(static)
  for (int64_t group = 0; group < s.g; ++group) {
    for (int64_t state = 0; state < s.n; ++state) {
      int64_t line = (group * s.n + state) * kp;
      std::vector<float> running(kp);
      if (dfinal) std::copy_n(dfinal + line, kp, running.begin());
      for (int64_t chunk = s.c - 1; chunk >= 0; --chunk) {
        if (chunk + 1 < s.c && s.position[chunk + 1] == 0) std::fill(running.begin(), running.end(), 0.0f);
        int64_t at = ((group * s.c + chunk) * s.n + state) * kp;
        for (int64_t head = 0; head < k; ++head) {
          float decay = decay_(sums[(chunk * s.q + s.q - 1) * s.h + group * k + head]), felt = 0.0f;
          float* carried = running.data() + head * s.p;
          float* own = dstates + at + head * s.p;
          const float* entered = states + at + head * s.p;
#pragma omp simd reduction(+ : felt)
          for (int64_t v = 0; v < s.p; ++v) {
            float before = carried[v];
            felt += before * entered[v];
            carried[v] = own[v] + decay * before;
            own[v] = before;
          }
          crossing[((group * s.n + state) * s.c + chunk) * k + head] = decay * felt;
        }
      }
      if (dinitial) std::copy(running.begin(), running.end(), dinitial + line);
    }
  }
}

// The SSD's outputs y and the gated norm. `read` is what the incoming state shows each token, before its decay.
template <typename T>
void finish(const Shape& s, const T* zxbcdt, const float* sums, const float* dt, const float* scores, const float* xbc,
            const float* states, const float* D, const float* norm_weight, float* read, float* y, T* out, float eps) {
  int64_t kp = s.h / s.g * s.p;
#pragma omp parallel
  {
    static thread_local Room rooms[3];
    float* right = rooms[0].take(std::max(s.n, s.q) * round_up(kp, WIDTH));
    float* weights = rooms[1].take(s.q * s.q);
    float* u = rooms[2].take(kp);
#pragma omp for collapse(2) schedule(dynamic)
    for (int64_t chunk = 0; chunk < s.c; ++chunk) {
      for (int64_t group = 0; group < s.g; ++group) {
        Place at(s, chunk, group);
        const float *score = scores + at.square, *x = xbc + at.x;
        float *seen = read + at.wide, *own = y + at.wide;
        pack<WIDTH>({states + at.state, 1, kp}, kp, s.n, right);
        multiply<false>(s.q, kp, s.n, {xbc + at.C, at.ldx, 1}, right, WIDTH * s.n, seen, kp, false);
        for (int64_t head = 0; head < at.k; ++head) {
          float steps[256];
          for (int64_t j = 0; j < s.q; ++j) steps[j] = dt[at.heads + j * s.h + head];
          fill_decays(s, sums + at.heads + head, weights);
          for (int64_t i = 0; i < s.q; ++i)
            for (int64_t j = 0; j <= i; ++j) weights[i * s.q + j] *= score[i * s.q + j] * steps[j];
          pack<WIDTH>({x + head * s.p, 1, at.ldx}, s.p, s.q, right);
          sum_pairs(s, weights, right, own + head * s.p, kp);
        }
        for (int64_t i = 0; i < s.length[chunk]; ++i) {
          int64_t t = s.start[chunk] + i;
          const T* z = zxbcdt + t * s.row + group * kp;
          for (int64_t head = 0; head < at.k; ++head) {
            float enter = decay_(sums[at.heads + i * s.h + head]), skip = D[group * at.k + head];
            const float *state = seen + i * kp + head * s.p, *through = x + i * at.ldx + head * s.p;
            float* row = own + i * kp + head * s.p;
            for (int64_t v = 0; v < s.p; ++v) row[v] += enter * state[v] + skip * through[v];
          }
          const float* row = own + i * kp;
          float squares = 0.0f;
#pragma omp simd reduction(+ : squares)
          for (int64_t v = 0; v < kp; ++v) {
            float gate = load(z[v]);
            u[v] = row[v] * gate * sigmoid(gate);
            squares += u[v] * u[v];
          }
          float scale = 1.0f / std::sqrt(squares / kp + eps);
          T* normed = out + t * s.inner() + group * kp;
          const float* weight = norm_weight + group * kp;
          for (int64_t v = 0; v < kp; ++v) store(normed + v, u[v] * scale * weight[v]);
        }
      }
    }
  }
}

// Gradients of one row of a gated norm: dz, dy, and what the norm's weight receives.
template <typename T>
inline void norm_backward(int64_t width, const T* z, const T* dout, const float* y, const float* weight, float eps,
                          float* u, float* gates, T* dz, float* dy, float* dweight) {
  float squares = 0.0f;
#pragma omp simd reduction(+ : squares)
  for (int64_t v = 0; v < width; ++v) {
    float gate = load(z[v]);
    gates[v] = sigmoid(gate);
    u[v] = y[v] * gate * gates[v];
    squares += u[v] * u[v];
  }
  float scale = 1.0f / std::sqrt(squares / width + eps), dot = 0.0f;
#pragma omp simd reduction(+ : dot)
  for (int64_t v = 0; v < width; ++v) dot += load(dout[v]) * weight[v] * u[v];
  dot *= scale * scale / width;  // mean of dnormed * normed, times scale
  for (int64_t v = 0; v < width; ++v) {
    float gate = load(z[v]), open = gates[v], incoming = load(dout[v]);
    dweight[v] += incoming * u[v] * scale;
    float du = scale * (incoming * weight[v] - u[v] * dot);
    dy[v] = du * gate * open;
    store(dz + v, du * y[v] * open * (1.0f + gate * (1.0f - open)));
  }
}

// Pairs inside one chunk and head: dscore gains their part; ddt and d_pairs (of dt * A, from pairs j < t <= i, summed
// directly) are written; `weights` becomes scores * decays * dt. Entry (i, j) of dweights is dy_i . x_j.
inline void pairs_backward(const Shape& s, const float* sums, const float* dt, const float* score,
                           const float* dweights, float* weights, float* dscore, float* ddt, float* d_pairs) {
  float steps[256], suffix[256] = {};
  for (int64_t j = 0; j < s.q; ++j) steps[j] = dt[j * s.h];
  fill_decays(s, sums, weights);
  for (int64_t i = s.q - 1; i >= 0; --i) {
    float* own = weights + i * s.q;
    const float *dw = dweights + i * s.q, *product = score + i * s.q;
    float* gained = dscore + i * s.q;
    float later = 0.0f;
    auto pair = [&](int64_t j) {
      float reach = own[j] * product[j];
      gained[j] += dw[j] * own[j] * steps[j];
      suffix[j] += dw[j] * reach;
      own[j] = reach * steps[j];
    };
#pragma omp simd reduction(+ : later)
    for (int64_t j = 0; j < i; ++j) {
      pair(j);
      later += steps[j] * suffix[j];
    }
    pair(i);
    d_pairs[i * s.h] = later;
  }
  for (int64_t j = 0; j < s.q; ++j) ddt[j * s.h] = suffix[j];
}

// From the gradient of the mixer's output: dz; all of dx, dB and dC that does not come through the outgoing states;
// what the incoming states receive (dstates); ddt, d_pairs, and d_in, the gradient of each token's incoming decay.
template <typename T>
void finish_backward(const Shape& s, const T* zxbcdt, const T* dout, const float* sums, const float* dt,
                     const float* scores, const float* xbc, const float* states, const float* read, const float* y,
                     const float* D, const float* norm_weight, T* dzxbcdt, float* dxbc, float* dstates, float* ddt,
                     float* d_pairs, float* d_in, float* dD, float* dnorm, float eps) {
  int64_t kp = s.h / s.g * s.p, q = s.q, n = s.n;
#pragma omp parallel
  {
    static thread_local Room rooms[8];
    float* dy = rooms[0].take(q * kp);
    float* entering = rooms[1].take(q * kp);
    float* right = rooms[2].take(std::max({q * round_up(std::max(kp, n), WIDTH), kp * round_up(n, WIDTH),
                                           s.p * round_up(q, WIDTH)}));
    float* left = rooms[3].take(q * round_up(std::max(n, q), HEIGHT));
    float* weights = rooms[4].take(q * q);
    float* dweights = rooms[5].take(q * q);
    float* dscore = rooms[6].take(q * q);
    float* line = rooms[7].take(2 * kp + q * s.p);
    float* dx = line + 2 * kp;
#pragma omp for collapse(2) schedule(dynamic)
    for (int64_t chunk = 0; chunk < s.c; ++chunk) {
      for (int64_t group = 0; group < s.g; ++group) {
        Place at(s, chunk, group);
        const float *x = xbc + at.x, *seen = read + at.wide;
        float* dnorms = dnorm + chunk * s.inner() + group * kp;
        std::fill(dnorms, dnorms + kp, 0.0f);
        for (int64_t i = 0; i < s.length[chunk]; ++i) {
          int64_t t = s.start[chunk] + i;
          norm_backward(kp, zxbcdt + t * s.row + group * kp, dout + t * s.inner() + group * kp, y + at.wide + i * kp,
                        norm_weight + group * kp, eps, line, line + kp, dzxbcdt + t * s.row + group * kp, dy + i * kp,
                        dnorms);
        }
        std::fill(dy + s.length[chunk] * kp, dy + q * kp, 0.0f);
        std::fill(dscore, dscore + q * q, 0.0f);
        for (int64_t head = 0; head < at.k; ++head) {
          int64_t here = at.heads + head, first = head * s.p;
          pack<WIDTH>({x + first, at.ldx, 1}, q, s.p, right);
          pair_products(s, s.p, {dy + first, kp, 1}, right, dweights);
          pairs_backward(s, sums + here, dt + here, scores + at.square, dweights, weights, dscore, ddt + here,
                         d_pairs + here);
          pack<WIDTH>({dy + first, 1, kp}, s.p, q, right);
          sum_pairs_turned(s, weights, right, dx);
          float skip = D[group * at.k + head], skipped = 0.0f;
          for (int64_t i = 0; i < q; ++i) {
            const float *row = dy + i * kp + first, *state = seen + i * kp + first, *own = x + i * at.ldx + first;
            float *to = entering + i * kp + first, *out = dxbc + at.x + i * at.ldx + first;
            float enter = decay_(sums[here + i * s.h]), felt = 0.0f, direct = 0.0f;
#pragma omp simd reduction(+ : felt, direct)
            for (int64_t v = 0; v < s.p; ++v) {
              to[v] = enter * row[v];
              felt += row[v] * state[v];
              direct += row[v] * own[v];
              out[v] = dx[i * s.p + v] + skip * row[v];
            }
            d_in[here + i * s.h] = enter * felt;
            skipped += direct;
          }
          dD[chunk * s.h + group * at.k + head] = skipped;
        }
        for (int64_t i = 0; i < q; ++i) std::fill(dscore + i * q + i + 1, dscore + (i + 1) * q, 0.0f);
        pack<WIDTH>({xbc + at.B, 1, at.ldx}, n, q, right);  // dC = dscores B + entering states^T
        multiply<false>(q, n, q, {dscore, q, 1}, right, WIDTH * q, dxbc + at.C, at.ldx, false);
        pack<WIDTH>({states + at.state, kp, 1}, n, kp, right);
        multiply<false>(q, n, kp, {entering, kp, 1}, right, WIDTH * kp, dxbc + at.C, at.ldx, true);
        pack<WIDTH>({xbc + at.C, 1, at.ldx}, n, q, right);  // dB = dscores^T C + (in leave_backward) the rest
        multiply<false>(q, n, q, {dscore, 1, q}, right, WIDTH * q, dxbc + at.B, at.ldx, false);
        pack<WIDTH>({entering, 1, kp}, kp, q, right);  // dstates = C^T entering
        pack<HEIGHT>({xbc + at.C, 1, at.ldx}, n, q, left);
        multiply<true>(n, kp, q, {left, 1, HEIGHT}, right, WIDTH * q, dstates + at.state, kp, false);
      }
    }
  }
}

// What the gradients of the outgoing states hand back to x, B and dt; d_out is that of each token's outgoing decay.
void leave_backward(const Shape& s, const float* sums, const float* dt, const float* keep, const float* xbc,
                    const float* dstates, float* dxbc, float* ddt, float* d_out) {
  int64_t kp = s.h / s.g * s.p, q = s.q, n = s.n;
#pragma omp parallel
  {
    static thread_local Room rooms[2];
    float* right = rooms[0].take(std::max(n * round_up(kp, WIDTH), kp * round_up(n, WIDTH)));
    float* rows = rooms[1].take(q * kp);
#pragma omp for collapse(2) schedule(dynamic)
    for (int64_t chunk = 0; chunk < s.c; ++chunk) {
      for (int64_t group = 0; group < s.g; ++group) {
        Place at(s, chunk, group);
        const float* x = xbc + at.x;
        pack<WIDTH>({dstates + at.state, 1, kp}, kp, n, right);
        multiply<false>(q, kp, n, {xbc + at.B, at.ldx, 1}, right, WIDTH * n, rows, kp, false);
        for (int64_t head = 0; head < at.k; ++head) {
          int64_t here = at.heads + head;
          float end = sums[here + (q - 1) * s.h];
          for (int64_t j = 0; j < q; ++j) {
            float reach = decay_(end - sums[here + j * s.h]), felt = 0.0f, factor = reach * dt[here + j * s.h];
            const float *left = rows + j * kp + head * s.p, *own = x + j * at.ldx + head * s.p;
            float* out = dxbc + at.x + j * at.ldx + head * s.p;
#pragma omp simd reduction(+ : felt)
            for (int64_t v = 0; v < s.p; ++v) {
              felt += own[v] * left[v];
              out[v] += factor * left[v];
            }
            ddt[here + j * s.h] += reach * felt;
            d_out[here + j * s.h] = factor * felt;
          }
        }
        scale_heads(s, at, keep + at.heads, x, at.ldx, rows);
        pack<WIDTH>({dstates + at.state, kp, 1}, n, kp, right);
        multiply<false>(q, n, kp, {rows, kp, 1}, right, WIDTH * kp, dxbc + at.B, at.ldx, true);
      }
    }
  }
}

}  // namespace mixer

using mixer::Shape;

#define FOR_EACH_TYPE(define) define(float, float) define(bf16, mixer::bf16)

#define DEFINE(name, T)                                                                                              \
  extern "C" void enter_chunks_##name(const Shape* s, const T* zxbcdt, const float* taps, const float* bias,        \
                                      const float* keep, float* xbc, float* scores, float* states) {                \
    mixer::enter_chunks(*s, zxbcdt, taps, bias, keep, xbc, scores, states);                                         \
  }                                                                                                                  \
  extern "C" void convolve_backward_##name(const Shape* s, const T* zxbcdt, const float* taps, const float* bias,   \
                                           const float* dxbc, T* dzxbcdt, float* dtaps, float* dbias,               \
                                           float* dhalo) {                                                          \
    mixer::convolve_backward(*s, zxbcdt, taps, bias, dxbc, dzxbcdt, dtaps, dbias, dhalo);                           \
  }                                                                                                                  \
  extern "C" void finish_##name(const Shape* s, const T* zxbcdt, const float* sums, const float* dt,                \
                                const float* scores, const float* xbc, const float* states, const float* D,         \
                                const float* norm_weight, float* read, float* y, T* out, float eps) {               \
    mixer::finish(*s, zxbcdt, sums, dt, scores, xbc, states, D, norm_weight, read, y, out, eps);                    \
  }                                                                                                                  \
  extern "C" void finish_backward_##name(                                                                            \
      const Shape* s, const T* zxbcdt, const T* dout, const float* sums, const float* dt, const float* scores,      \
      const float* xbc, const float* states, const float* read, const float* y, const float* D,                     \
      const float* norm_weight, T* dzxbcdt, float* dxbc, float* dstates, float* ddt, float* d_pairs, float* d_in,   \
      float* dD, float* dnorm, float eps) {                                                                          \
    mixer::finish_backward(*s, zxbcdt, dout, sums, dt, scores, xbc, states, read, y, D, norm_weight, dzxbcdt, dxbc, \
                           dstates, ddt, d_pairs, d_in, dD, dnorm, eps);                                             \
  }

FOR_EACH_TYPE(DEFINE)

extern "C" void fold_forward(const Shape* s, int64_t first, const float* sums, const float* states, float* total) {
  mixer::fold(*s, first, s->c, 1, sums, states, total);
}
extern "C" void fold_backward(const Shape* s, int64_t first, const float* sums, const float* dstates, float* total) {
  mixer::fold(*s, first, -1, -1, sums, dstates, total);
}
extern "C" void pass_states_forward(const Shape* s, const float* sums, const float* initial, float* states,
                                    float* final) {
  mixer::pass_states(*s, sums, initial, states, final);
}
extern "C" void pass_states_backward(const Shape* s, const float* sums, const float* states, const float* dfinal,
                                     float* dstates, float* crossing, float* dinitial) {
  mixer::pass_gradients(*s, sums, states, dfinal, dstates, crossing, dinitial);
}
extern "C" void leave_chunks_backward(const Shape* s, const float* sums, const float* dt, const float* keep,
                                      const float* xbc, const float* dstates, float* dxbc, float* ddt, float* d_out) {
  mixer::leave_backward(*s, sums, dt, keep, xbc, dstates, dxbc, ddt, d_out);
}
