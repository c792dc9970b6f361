// The fused mixer's passes over memory, for CPUs: everything between the large matrix products, which stay torch's.
//
// Letters as in ssd/chunk_math.py: c chunks of q tokens, h heads of p channels, g groups of k = h / g heads, n states.
// Rows of tokens are the caller's float or bfloat16; everything inside is float. A chunk lies within one document, so
// that a tap of the convolution stops at the document's start and nothing crosses. Padding rows are zero.
// No result depends on the number of threads: each task writes its own part, sums are finished by the caller.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

struct Shape {
  int64_t c, q, h, p, g, n, w;  // w: width of the convolution
  int64_t row;                  // elements of one row of zxbcdt
  const int64_t* start;         // (c) first token of each chunk
  const int64_t* length;        // (c) tokens in it
  const int64_t* position;      // (c) tokens of its document before it
  int64_t inner() const { return h * p; }
  int64_t conv() const { return h * p + 2 * g * n; }
};

struct bf16 {
  uint16_t bits;
};

inline float load(float value) { return value; }
inline float load(bf16 value) {
  uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}
inline void store(float* place, float value) { *place = value; }
inline void store(bf16* place, float value) {  // to nearest, ties to even; a NaN stays one
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  place->bits = static_cast<uint16_t>(value != value ? 0x7fc0u : rounded);
}

// exp to about one unit in the last place, written so that the compiler can vectorise the loops it stands in:
// x = m ln 2 + r, a degree-6 polynomial for e^r, and m added to the exponent's bits.
inline float exp_(float x) {
  x = std::min(std::max(x, -87.0f), 88.0f);
  float m = std::rint(x * 1.44269504f);
  float r = x - m * 0.693359375f;
  r = r + m * 2.12194440e-4f;
  float s = 1.98756915e-4f;
  s = s * r + 1.39819995e-3f;
  s = s * r + 8.33345205e-3f;
  s = s * r + 4.16657962e-2f;
  s = s * r + 1.66666655e-1f;
  s = s * r + 5.00000012e-1f;
  s = s * r * r + r + 1.0f;
  int32_t bits = (static_cast<int32_t>(m) + 127) << 23;
  float scale;
  std::memcpy(&scale, &bits, 4);
  return s * scale;
}
inline float decay_(float x) { return x < -87.0f ? 0.0f : exp_(x); }
inline float sigmoid(float x) { return 1.0f / (1.0f + exp_(-x)); }

#if defined(__AVX512F__)
constexpr int64_t LANES = 16;
#else
constexpr int64_t LANES = 8;
#endif
typedef float vec __attribute__((vector_size(LANES * 4), aligned(4)));
constexpr int64_t ROWS = 4, COLUMNS = 2 * LANES;  // of the block of `out` held in registers

inline vec load_vec(const float* place) { return *reinterpret_cast<const vec*>(place); }

// out[r][v] = sum over k in [from, to) of a[r][k] * b[k][v], for ROWS rows and `columns` columns.
inline void block_product(float* out, int64_t ldo, const float* a, int64_t lda, const float* b, int64_t ldb,
                          int64_t from, int64_t to, int64_t columns) {
  int64_t v = 0;
  for (; v + COLUMNS <= columns; v += COLUMNS) {
    vec acc[ROWS][2] = {};
    for (int64_t k = from; k < to; ++k) {
      vec b0 = load_vec(b + k * ldb + v), b1 = load_vec(b + k * ldb + v + LANES);
      for (int64_t r = 0; r < ROWS; ++r) {
        float scale = a[r * lda + k];
        acc[r][0] += scale * b0;
        acc[r][1] += scale * b1;
      }
    }
    for (int64_t r = 0; r < ROWS; ++r) {
      *reinterpret_cast<vec*>(out + r * ldo + v) = acc[r][0];
      *reinterpret_cast<vec*>(out + r * ldo + v + LANES) = acc[r][1];
    }
  }
  for (int64_t r = 0; r < ROWS && v < columns; ++r) {
    for (int64_t u = v; u < columns; ++u) out[r * ldo + u] = 0.0f;
    for (int64_t k = from; k < to; ++k)
      for (int64_t u = v; u < columns; ++u) out[r * ldo + u] += a[r * lda + k] * b[k * ldb + u];
  }
}

// decays[i][j] = exp(s_i - s_j) for j <= i and 0 above; sums has stride h.
inline void fill_decays(const Shape& s, const float* sums, float* decays) {
  float line[256];
  for (int64_t i = 0; i < s.q; ++i) line[i] = sums[i * s.h];
  for (int64_t i = 0; i < s.q; ++i) {
    float own = line[i];
    for (int64_t j = 0; j <= i; ++j) decays[i * s.q + j] = decay_(own - line[j]);
    for (int64_t j = i + 1; j < s.q; ++j) decays[i * s.q + j] = 0.0f;
  }
}

// y of one head in one chunk before D: inside[i][:] = sum_(j <= i) scores_ij decays_ij dt_j x_j
inline void within_chunk(const Shape& s, const float* sums, const float* dt, const float* scores, const float* x,
                         int64_t ldx, float* decays, float* out, int64_t ldo) {
  fill_decays(s, sums, decays);
  float steps[256];
  for (int64_t j = 0; j < s.q; ++j) steps[j] = dt[j * s.h];
  for (int64_t i = 0; i < s.q; ++i)
    for (int64_t j = 0; j <= i; ++j) decays[i * s.q + j] *= scores[i * s.q + j] * steps[j];
  for (int64_t i = 0; i < s.q; i += ROWS)
    block_product(out + i * ldo, ldo, decays + i * s.q, s.q, x, ldx, 0, i + ROWS, s.p);
}

// y (q, k*p) of one group in one chunk: within the chunk, from the incoming state, and the skip.
inline void group_output(const Shape& s, int64_t chunk, int64_t group, const float* sums, const float* dt,
                         const float* scores, const float* xbc, const float* read, const float* D, float* decays,
                         float* y) {
  int64_t k = s.h / s.g, kp = k * s.p;
  const float* x = xbc + chunk * s.q * s.conv() + group * kp;
  const float* from_state = read + (group * s.c + chunk) * s.q * kp;
  for (int64_t head = 0; head < k; ++head) {
    int64_t at = chunk * s.q * s.h + group * k + head;
    within_chunk(s, sums + at, dt + at, scores + (group * s.c + chunk) * s.q * s.q, x + head * s.p, s.conv(), decays,
                 y + head * s.p, kp);
    float skip = D[group * k + head];
    for (int64_t i = 0; i < s.q; ++i) {
      float enter = decay_(sums[at + i * s.h]);
      float* row = y + i * kp + head * s.p;
      const float* state = from_state + i * kp + head * s.p;
      const float* own = x + i * s.conv() + head * s.p;
      for (int64_t v = 0; v < s.p; ++v) row[v] += enter * state[v] + skip * own[v];
    }
  }
}

constexpr int64_t BLOCK = 128;  // channels walked together by the convolution: a few rows of them stay in cache

// The convolution before its activation, at one token and `wide` channels from `first`; `in` points at those.
template <typename T>
inline void filter(const Shape& s, const T* in, const float* taps, const float* bias, int64_t first, int64_t wide,
                   int64_t reach, float* out) {
  for (int64_t v = 0; v < wide; ++v) out[v] = bias[first + v];
  for (int64_t back = 0; back <= reach; ++back) {
    const float* tap = taps + (s.w - 1 - back) * s.conv() + first;
    const T* seen = in - back * s.row;
    for (int64_t v = 0; v < wide; ++v) out[v] += tap[v] * load(seen[v]);
  }
}

// Convolution and silu into chunks; `kept` is x scaled by what reaches the chunk's end.
template <typename T>
void convolve(const Shape& s, const T* zxbcdt, const float* taps, const float* bias, const float* keep, float* xbc,
              float* kept) {
  int64_t conv = s.conv(), inner = s.inner();
#pragma omp parallel for schedule(static)
  for (int64_t chunk = 0; chunk < s.c; ++chunk) {
    float pre[BLOCK];
    for (int64_t i = 0; i < s.q; ++i) {
      float* out = xbc + (chunk * s.q + i) * conv;
      float* scaled = kept + (chunk * s.q + i) * inner;
      if (i >= s.length[chunk]) {
        std::fill(out, out + conv, 0.0f);
        std::fill(scaled, scaled + inner, 0.0f);
        continue;
      }
      const T* in = zxbcdt + (s.start[chunk] + i) * s.row + inner;
      int64_t reach = std::min(s.w - 1, s.position[chunk] + i);
      for (int64_t first = 0; first < conv; first += BLOCK) {
        int64_t wide = std::min(BLOCK, conv - first);
        filter(s, in + first, taps, bias, first, wide, reach, pre);
        for (int64_t v = 0; v < wide; ++v) out[first + v] = pre[v] * sigmoid(pre[v]);
      }
      const float* factor = keep + (chunk * s.q + i) * s.h;
      for (int64_t head = 0; head < s.h; ++head)
        for (int64_t v = 0; v < s.p; ++v) scaled[head * s.p + v] = factor[head] * out[head * s.p + v];
    }
  }
}

// Gradients of a chunk's tokens, to which the next w-1 tokens of its document contribute too: their gradients before
// the activation are made again here rather than shared. dtaps (c, w, conv) and dbias (c, conv) are sums over a chunk.
template <typename T>
void convolve_backward(const Shape& s, const T* zxbcdt, const float* taps, const float* bias, const float* dxbc,
                       T* dzxbcdt, float* dtaps, float* dbias) {
  int64_t conv = s.conv(), inner = s.inner();
#pragma omp parallel
  {
    std::vector<float> recent(s.w * BLOCK), sums((s.w + 1) * BLOCK);
    float pre[BLOCK], dpre[BLOCK];
#pragma omp for schedule(static)
    for (int64_t chunk = 0; chunk < s.c; ++chunk) {
      int64_t after = 0;  // tokens of the document's next chunks within reach
      for (int64_t next = chunk + 1; next < s.c && s.position[next] && after < s.w - 1; ++next)
        after += s.length[next];
      int64_t length = s.length[chunk], seen_until = length + std::min(after, s.w - 1);
      for (int64_t first = 0; first < conv; first += BLOCK) {
        int64_t wide = std::min(BLOCK, conv - first);
        std::fill(sums.begin(), sums.end(), 0.0f);
        for (int64_t i = 0; i < seen_until; ++i) {
          const T* in = zxbcdt + (s.start[chunk] + i) * s.row + inner + first;
          const float* dy = dxbc + (chunk * s.q + i) * conv + first;
          int64_t reach = std::min(s.w - 1, s.position[chunk] + i);
          filter(s, in, taps, bias, first, wide, reach, pre);
          for (int64_t v = 0; v < wide; ++v) {
            float gate = sigmoid(pre[v]);
            dpre[v] = dy[v] * gate * (1.0f + pre[v] * (1.0f - gate));
          }
          if (i < length) {
            for (int64_t v = 0; v < wide; ++v) sums[s.w * BLOCK + v] += dpre[v];
            for (int64_t back = 0; back <= reach; ++back) {
              float* dtap = sums.data() + (s.w - 1 - back) * BLOCK;
              const T* seen = in - back * s.row;
              for (int64_t v = 0; v < wide; ++v) dtap[v] += dpre[v] * load(seen[v]);
            }
            float* fresh = recent.data() + i % s.w * BLOCK;
            std::fill(fresh, fresh + BLOCK, 0.0f);
          }
          for (int64_t back = std::max<int64_t>(0, i - length + 1); back <= std::min(reach, i); ++back) {
            const float* tap = taps + (s.w - 1 - back) * conv + first;
            float* place = recent.data() + (i - back) % s.w * BLOCK;
            for (int64_t v = 0; v < wide; ++v) place[v] += tap[v] * dpre[v];
          }
          // a token is finished once the token w-1 after it, or the last one in reach, has been seen
          bool ends = i + 1 == seen_until;
          for (int64_t done = std::max<int64_t>(0, i - s.w + 1); done <= (ends ? i : i - s.w + 1); ++done) {
            if (done >= length) break;
            const float* place = recent.data() + done % s.w * BLOCK;
            T* out = dzxbcdt + (s.start[chunk] + done) * s.row + inner + first;
            for (int64_t v = 0; v < wide; ++v) store(out + v, place[v]);
          }
        }
        for (int64_t tap = 0; tap < s.w; ++tap)
          std::copy_n(sums.data() + tap * BLOCK, wide, dtaps + (chunk * s.w + tap) * conv + first);
        std::copy_n(sums.data() + s.w * BLOCK, wide, dbias + chunk * conv + first);
      }
    }
  }
}

// Each chunk's own contribution -> the state entering it, in place, in the order of the chunks.
void pass_states(const Shape& s, const float* sums, float* states) {
  int64_t k = s.h / s.g, kp = k * s.p;
#pragma omp parallel for collapse(2) schedule(static)
  for (int64_t group = 0; group < s.g; ++group) {
    for (int64_t state = 0; state < s.n; ++state) {
      std::vector<float> running(kp);
      for (int64_t chunk = 0; chunk < s.c; ++chunk) {
        if (s.position[chunk] == 0) std::fill(running.begin(), running.end(), 0.0f);
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
    }
  }
}

// The same backwards: what reads a chunk's incoming state -> the gradient of the state leaving it. What the decay
// across each chunk receives, states . gradient, is summed on the way: crossing (g, n, c, k).
void pass_gradients(const Shape& s, const float* sums, const float* states, float* dstates, float* crossing) {
  int64_t k = s.h / s.g, kp = k * s.p;
#pragma omp parallel for collapse(2) schedule(static)
  for (int64_t group = 0; group < s.g; ++group) {
    for (int64_t state = 0; state < s.n; ++state) {
      std::vector<float> running(kp);
      for (int64_t chunk = s.c - 1; chunk >= 0; --chunk) {
        if (chunk + 1 == s.c || s.position[chunk + 1] == 0) std::fill(running.begin(), running.end(), 0.0f);
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
    }
  }
}

// SSD's outputs and the gated norm, one group of one chunk at a time.
template <typename T>
void finish(const Shape& s, const T* zxbcdt, const float* sums, const float* dt, const float* scores, const float* xbc,
            const float* read, const float* D, const float* norm_weight, float eps, T* out) {
  int64_t kp = s.h / s.g * s.p;
#pragma omp parallel
  {
    std::vector<float> y(s.q * kp), decays(s.q * s.q);
#pragma omp for collapse(2) schedule(static)
    for (int64_t chunk = 0; chunk < s.c; ++chunk) {
      for (int64_t group = 0; group < s.g; ++group) {
        group_output(s, chunk, group, sums, dt, scores, xbc, read, D, decays.data(), y.data());
        for (int64_t i = 0; i < s.length[chunk]; ++i) {
          int64_t t = s.start[chunk] + i;
          const T* z = zxbcdt + t * s.row + group * kp;
          float* u = y.data() + i * kp;
          float squares = 0.0f;
#pragma omp simd reduction(+ : squares)
          for (int64_t v = 0; v < kp; ++v) {
            float gate = load(z[v]);
            u[v] *= gate * sigmoid(gate);
            squares += u[v] * u[v];
          }
          float scale = 1.0f / std::sqrt(squares / kp + eps);
          T* row = out + t * s.inner() + group * kp;
          const float* weight = norm_weight + group * kp;
          for (int64_t v = 0; v < kp; ++v) store(row + v, u[v] * scale * weight[v]);
        }
      }
    }
  }
}

// The norm's and gate's gradients: dz into its columns, dy and dy scaled by decay_in into chunks, and the sums over a
// chunk of what D, the norm's weight and the decay of the incoming state receive.
template <typename T>
void finish_backward(const Shape& s, const T* zxbcdt, const T* dout, const float* sums, const float* dt,
                     const float* scores, const float* xbc, const float* read, const float* D,
                     const float* norm_weight, float eps, T* dzxbcdt, float* dy, float* entering, float* d_in,
                     float* dD, float* dweight) {
  int64_t k = s.h / s.g, kp = k * s.p, inner = s.inner();
#pragma omp parallel
  {
    std::vector<float> y(s.q * kp), decays(s.q * s.q), u(kp), gates(kp);
#pragma omp for collapse(2) schedule(static)
    for (int64_t chunk = 0; chunk < s.c; ++chunk) {
      for (int64_t group = 0; group < s.g; ++group) {
        group_output(s, chunk, group, sums, dt, scores, xbc, read, D, decays.data(), y.data());
        float* dweights = dweight + chunk * inner + group * kp;
        std::fill(dweights, dweights + kp, 0.0f);
        for (int64_t i = 0; i < s.q; ++i) {
          float* dyrow = dy + (chunk * s.q + i) * inner + group * kp;
          if (i >= s.length[chunk]) {
            std::fill(dyrow, dyrow + kp, 0.0f);
            continue;
          }
          int64_t t = s.start[chunk] + i;
          const T* z = zxbcdt + t * s.row + group * kp;
          const T* got = dout + t * inner + group * kp;
          T* dz = dzxbcdt + t * s.row + group * kp;
          const float* weight = norm_weight + group * kp;
          const float* own = y.data() + i * kp;
          float squares = 0.0f;
#pragma omp simd reduction(+ : squares)
          for (int64_t v = 0; v < kp; ++v) {
            float gate = load(z[v]);
            gates[v] = sigmoid(gate);
            u[v] = own[v] * gate * gates[v];
            squares += u[v] * u[v];
          }
          float scale = 1.0f / std::sqrt(squares / kp + eps), dot = 0.0f;
#pragma omp simd reduction(+ : dot)
          for (int64_t v = 0; v < kp; ++v) dot += load(got[v]) * weight[v] * u[v];
          dot *= scale * scale / kp;  // mean of dnormed * normed, times scale
          for (int64_t v = 0; v < kp; ++v) {
            float gate = load(z[v]), open = gates[v], incoming = load(got[v]);
            dweights[v] += incoming * u[v] * scale;
            float du = scale * (incoming * weight[v] - u[v] * dot);
            dyrow[v] = du * gate * open;
            store(dz + v, du * own[v] * open * (1.0f + gate * (1.0f - open)));
          }
        }
        const float* x = xbc + chunk * s.q * s.conv() + group * kp;
        for (int64_t head = 0; head < k; ++head) {
          float skipped = 0.0f;
          for (int64_t i = 0; i < s.q; ++i) {
            int64_t at = (chunk * s.q + i) * s.h + group * k + head;
            int64_t place = (chunk * s.q + i) * inner + group * kp + head * s.p;
            const float* row = dy + place;
            const float* own = x + i * s.conv() + head * s.p;
            const float* state = read + ((group * s.c + chunk) * s.q + i) * kp + head * s.p;
            float enter = decay_(sums[at]), felt = 0.0f, direct = 0.0f;
#pragma omp simd reduction(+ : felt, direct)
            for (int64_t v = 0; v < s.p; ++v) {
              entering[place + v] = enter * row[v];
              felt += row[v] * state[v];
              direct += row[v] * own[v];
            }
            d_in[at] = enter * felt;
            skipped += direct;
          }
          dD[chunk * s.h + group * k + head] = skipped;
        }
      }
    }
  }
}

// Gradients inside the chunks and of x: dx into the first columns of dxbc, scores' and dt's, and da of dt * A from
// pairs j < t <= i, summed directly. `left` is B_j times the gradient of the chunk's outgoing state.
void within_backward(const Shape& s, const float* sums, const float* dt, const float* scores, const float* xbc,
                     const float* dy, const float* left, const float* D, float* dxbc, float* dscores, float* ddt,
                     float* d_pairs, float* d_out) {
  int64_t k = s.h / s.g, kp = k * s.p, inner = s.inner(), conv = s.conv(), q = s.q;
#pragma omp parallel
  {
    std::vector<float> decays(q * q), weights(q * q), dweights(q * q), turned(s.p * q), dx(q * s.p), suffix(q);
#pragma omp for collapse(2) schedule(static)
    for (int64_t chunk = 0; chunk < s.c; ++chunk) {
      for (int64_t group = 0; group < s.g; ++group) {
        const float* score = scores + (group * s.c + chunk) * q * q;
        float* dscore = dscores + (group * s.c + chunk) * q * q;
        std::fill(dscore, dscore + q * q, 0.0f);
        for (int64_t head = 0; head < k; ++head) {
          int64_t at = chunk * q * s.h + group * k + head, channel = group * kp + head * s.p;
          const float* x = xbc + chunk * q * conv + channel;
          const float* dyh = dy + chunk * q * inner + channel;
          float steps[256];
          for (int64_t j = 0; j < q; ++j) steps[j] = dt[at + j * s.h];
          fill_decays(s, sums + at, decays.data());
          for (int64_t j = 0; j < q; ++j)
            for (int64_t v = 0; v < s.p; ++v) turned[v * q + j] = x[j * conv + v];
          for (int64_t i = 0; i < q; i += ROWS)  // the gradient of each weight: dy_i . x_j
            block_product(dweights.data() + i * q, q, dyh + i * inner, inner, turned.data(), q, 0, s.p,
                          std::min(q, (i + ROWS + COLUMNS - 1) / COLUMNS * COLUMNS));
          std::fill(suffix.begin(), suffix.end(), 0.0f);
          for (int64_t i = q - 1; i >= 0; --i) {
            float* own = weights.data() + i * q;  // becomes row i of scores * decays * dt
            const float* decay = decays.data() + i * q;
            const float* dw = dweights.data() + i * q;
            float later = 0.0f;
            for (int64_t j = 0; j <= i; ++j) {
              float reach = decay[j] * score[i * q + j];
              own[j] = reach * steps[j];
              dscore[i * q + j] += dw[j] * decay[j] * steps[j];
              suffix[j] += dw[j] * reach;
            }
#pragma omp simd reduction(+ : later)
            for (int64_t j = 0; j < i; ++j) later += steps[j] * suffix[j];
            d_pairs[at + i * s.h] = later;
          }
          for (int64_t i = 0; i < q; ++i)  // weights transposed, so that each dx_j is a row of a product
            for (int64_t j = 0; j < q; ++j) decays[j * q + i] = j <= i ? weights[i * q + j] : 0.0f;
          for (int64_t j = 0; j < q; j += ROWS)
            block_product(dx.data() + j * s.p, s.p, decays.data() + j * q, q, dyh, inner, j, q, s.p);
          float end = sums[at + (q - 1) * s.h], skip = D[group * k + head];
          for (int64_t j = 0; j < q; ++j) {
            float reach = decay_(end - sums[at + j * s.h]), felt = 0.0f;
            const float* state = left + ((group * s.c + chunk) * q + j) * kp + head * s.p;
            float* out = dxbc + (chunk * q + j) * conv + channel;
            float factor = reach * steps[j];
#pragma omp simd reduction(+ : felt)
            for (int64_t v = 0; v < s.p; ++v) {
              felt += x[j * conv + v] * state[v];
              out[v] = dx[j * s.p + v] + factor * state[v] + skip * dyh[j * inner + v];
            }
            ddt[at + j * s.h] = suffix[j] + reach * felt;
            d_out[at + j * s.h] = factor * felt;
          }
        }
      }
    }
  }
}

}  // namespace

#define FOR_EACH_TYPE(define) define(float, float) define(bf16, bf16)

#define DEFINE(name, T)                                                                                              \
  extern "C" void convolve_##name(const Shape* s, const T* zxbcdt, const float* taps, const float* bias,            \
                                  const float* keep, float* xbc, float* kept) {                                     \
    convolve(*s, zxbcdt, taps, bias, keep, xbc, kept);                                                              \
  }                                                                                                                  \
  extern "C" void convolve_backward_##name(const Shape* s, const T* zxbcdt, const float* taps, const float* bias,   \
                                           const float* dxbc, T* dzxbcdt, float* dtaps, float* dbias) {             \
    convolve_backward(*s, zxbcdt, taps, bias, dxbc, dzxbcdt, dtaps, dbias);                                         \
  }                                                                                                                  \
  extern "C" void finish_##name(const Shape* s, const T* zxbcdt, const float* sums, const float* dt,                \
                                const float* scores, const float* xbc, const float* read, const float* D,           \
                                const float* norm_weight, T* out, float eps) {                                      \
    finish(*s, zxbcdt, sums, dt, scores, xbc, read, D, norm_weight, eps, out);                                      \
  }                                                                                                                  \
  extern "C" void finish_backward_##name(                                                                            \
      const Shape* s, const T* zxbcdt, const T* dout, const float* sums, const float* dt, const float* scores,      \
      const float* xbc, const float* read, const float* D, const float* norm_weight, T* dzxbcdt, float* dy,         \
      float* entering, float* d_in, float* dD, float* dweight, float eps) {                                         \
    finish_backward(*s, zxbcdt, dout, sums, dt, scores, xbc, read, D, norm_weight, eps, dzxbcdt, dy, entering,      \
                    d_in, dD, dweight);                                                                              \
  }

FOR_EACH_TYPE(DEFINE)

extern "C" void pass_states_forward(const Shape* s, const float* sums, float* states) {
  pass_states(*s, sums, states);
}
extern "C" void pass_states_backward(const Shape* s, const float* sums, const float* states, float* dstates,
                                     float* crossing) {
  pass_gradients(*s, sums, states, dstates, crossing);
}
extern "C" void within_chunks_backward(const Shape* s, const float* sums, const float* dt, const float* scores,
                                       const float* xbc, const float* dy, const float* left, const float* D,
                                       float* dxbc, float* dscores, float* ddt, float* d_pairs, float* d_out) {
  within_backward(*s, sums, dt, scores, xbc, dy, left, D, dxbc, dscores, ddt, d_pairs, d_out);
}
