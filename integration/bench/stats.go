package main

import (
	"math"
	"slices"
)

// A spread is what many ratios of pairs come to: their median, its 95 %
// confidence interval, and the quartiles.
type spread struct {
	median   float64
	low, top float64 // of the confidence interval of the median
	q1, q3   float64
	n        int
}

// summarize needs at least one value, in any order.
func summarize(values []float64) spread {
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	// Order statistics, which assume nothing about the noise: the median lies
	// between these ranks unless a fair coin falls far to one side.
	half := 0.98 * math.Sqrt(float64(n))
	low, top := int(math.Floor(float64(n)/2-half)), int(math.Ceil(float64(n)/2+half))-1
	return spread{
		median: quantile(v, 0.5), q1: quantile(v, 0.25), q3: quantile(v, 0.75),
		low: v[max(low, 0)], top: v[min(top, n-1)], n: n,
	}
}

// quantile of sorted values, interpolated.
func quantile(sorted []float64, q float64) float64 {
	at := q * float64(len(sorted)-1)
	i := int(at)
	if i+1 >= len(sorted) {
		return sorted[len(sorted)-1]
	}
	return sorted[i] + (at-float64(i))*(sorted[i+1]-sorted[i])
}

// tail is the 99th percentile instead of the median, and its interval.
func tail(values []float64) spread {
	v := slices.Sorted(slices.Values(values))
	n := float64(len(v))
	half := 1.96 * math.Sqrt(n*0.99*0.01)
	low, top := int(n*0.99-half), int(math.Ceil(n*0.99+half))-1
	return spread{
		median: quantile(v, 0.99), q1: quantile(v, 0.25), q3: quantile(v, 0.75),
		low: v[max(low, 0)], top: v[min(top, len(v)-1)], n: len(v),
	}
}

// exactly is the spread of what is counted once.
func exactly(v float64) spread { return spread{median: v, low: v, top: v, q1: v, q3: v, n: 1} }

// ratios are those of a's values to b's, pair by pair.
func ratios(a, b []float64) []float64 {
	var r []float64
	for i := range min(len(a), len(b)) {
		r = append(r, a[i]/b[i])
	}
	return r
}
