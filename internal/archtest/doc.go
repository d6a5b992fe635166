// Package archtest keeps the laws of the code base, as tests.
//
// # Contract
//
// Every law stands in one of two tables: imports_test.go says which package may
// know which, source_test.go says what code may look like. A law of source comes
// with an example of a breach, and a test that the law finds it.
package archtest
