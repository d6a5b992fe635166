// Package explain says whether a flow passes, and who says so.
//
// It asks the compiled rule set of each end, the same value that stands in the
// kernel, and puts the decision into a sentence:
//
//	from ── egress of the pod that opens ──▶ ── ingress of the pod it goes to ──▶ to
//
// A Service is two questions: egress is judged at its virtual address, which is
// what the pod sees, and ingress at every ready endpoint behind it.
//
// # Contract
//
// Explain is pure. Where a flow is several, because the ends have addresses of
// both families or a Service has several endpoints, one that is denied denies
// them all, and the reason names it. An end that can't be named is an error that
// suggests what was perhaps meant.
package explain
