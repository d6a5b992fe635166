// Package expect compares what people expect of their policies with what these
// do.
//
//	expectations.yaml ── Parse ──▶ []Expectation ─┐
//	                                              ├─ Cluster.Judge ──▶ []Result
//	manifests ───────── policy.Snapshot ──────────┘
//
// # Contract
//
// A file is read strictly: no field is ignored and no value is guessed. What is
// wrong with it, and every name in it that the cluster does not have, is a
// *conf.Error that names the file, the entry and the field; all of them are
// reported at once.
//
// A flow that can't exist is neither allowed nor denied, so nothing that is
// expected of it is met: a deny must be some policy's doing. A test that could
// not fail would prove nothing. For the same reason a file that expects nothing
// is an error.
//
// The package opens no file and asks no daemon.
package expect
