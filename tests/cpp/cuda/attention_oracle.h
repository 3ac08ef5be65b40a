#pragma once
// Attention in double, and how far a kernel that rounds softmax numerators may be from it.
#include <cmath>
#include <functional>
#include <random>
#include <vector>

#include "doctest.h"
#include "kept.h"

namespace dream_r::test {

inline std::vector<float> normals(std::size_t n, unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  std::vector<float> v(n);
  for (float& x : v) x = normal(engine);
  return v;
}

struct Expected {
  std::vector<double> out;
  std::vector<double> mass;    // sum_j p_j |v_j|
  std::vector<double> square;  // sum_j (p_j v_j)^2
  // The same of a numerator of 1 instead of p_j.
  std::vector<double> unit_mass, unit_square;
};

// key(j, d), value(j, d) for j in [0, keys).
using Element = std::function<double(int, int)>;
inline void attend(const float* q, int dim, int keys, DType q_type, const Element& key,
                   const Element& value, Expected& to) {
  std::vector<double> p(static_cast<std::size_t>(keys));
  double top = -INFINITY, z = 0;
  for (int j = 0; j < keys; ++j) {
    double s = 0;
    for (int d = 0; d < dim; ++d) s += kept(q[d], q_type) * key(j, d);
    p[j] = s / std::sqrt(dim);
    top = std::max(top, p[j]);
  }
  for (double& s : p) z += s = std::exp(s - top);
  for (int d = 0; d < dim; ++d) {
    double out = 0, mass = 0, square = 0, unit_mass = 0, unit_square = 0;
    for (int j = 0; j < keys; ++j) {
      const double unit = value(j, d) / z, v = p[j] * unit;
      out += v, mass += std::abs(v), square += v * v;
      unit_mass += std::abs(unit), unit_square += unit * unit;
    }
    to.out.push_back(out), to.mass.push_back(mass), to.square.push_back(square);
    to.unit_mass.push_back(unit_mass), to.unit_square.push_back(unit_square);
  }
}

// A numerator that is rounded to `weights` is off by rounding() of itself at most, or, where an f16
// is below its normal numbers, by half of their last place; and numerators are off independently of
// one another, so the mean square over all outputs is that of the single ones. f32: what scores,
// exponentials and sums add, in parts of the mass.
inline void check_close(const std::vector<float>& got, const Expected& want, DType weights) {
  REQUIRE(got.size() == want.out.size());
  const double weight = rounding(weights), f32 = 5e-6;
  const double tiny = weights == DType::f16 ? 0x1p-25 : 0.0;
  double squares = 0, allowed = 0, worst = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double e = std::abs(got[i] - want.out[i]);
    const double ratio = e / ((weight + f32) * want.mass[i] + tiny * want.unit_mass[i]);
    if (!(ratio <= worst)) worst = ratio;  // NaN stays
    squares += e * e;
    allowed += weight * weight * want.square[i] + tiny * tiny * want.unit_square[i] +
               f32 * f32 * want.mass[i] * want.mass[i];
  }
  CHECK(worst <= 1.0);
  CHECK(squares <= allowed);
}

}  // namespace dream_r::test
