package main

import (
	"strings"
	"testing"
)

func TestReport(t *testing.T) {
	const (
		pass = `{"Action":"pass","Package":"p","Test":"A"}` + "\n"
		fail = `{"Action":"output","Package":"p","Test":"B","Output":"why\n"}` + "\n" +
			`{"Action":"fail","Package":"p","Test":"B"}` + "\n" +
			`{"Action":"fail","Package":"p"}` + "\n"
		skip  = `{"Action":"skip","Package":"p","Test":"C"}` + "\n"
		empty = `{"Action":"skip","Package":"q"}` + "\n"
		build = `{"ImportPath":"q","Action":"build-output","Output":"q.go:1: oops\n"}` + "\n" +
			`{"Action":"fail","Package":"q","FailedBuild":"q"}` + "\n"
		died = `{"Action":"output","Package":"p","Test":"D","Output":"panic\n"}` + "\n" +
			`{"Action":"fail","Package":"p"}` + "\n"
	)
	tests := []struct {
		name, events string
		ok           bool
		text, count  string // of the report, and of the report with -count
	}{
		{"all pass", pass, true, "", "1 passed, 0 failed\n"},
		{"one fails", pass + fail, false, "why\n", "failed: p B\n1 passed, 1 failed\n"},
		{"one is skipped", pass + skip, false, "", "skipped, which counts as failed: p C\n1 passed, 1 failed\n"},
		{"package without tests", pass + empty, true, "", "1 passed, 0 failed\n"},
		{"package that does not build", pass + build, false, "q.go:1: oops\n", "failed: q\n1 passed, 1 failed\n"},
		{"package that dies", pass + died, false, "panic\n", "failed: p\n1 passed, 1 failed\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, count := range []bool{false, true} {
				want := tt.text
				if count {
					want = tt.count
				}
				var got strings.Builder
				ok, err := report(strings.NewReader(tt.events), &got, count)
				if err != nil || ok != tt.ok || got.String() != want {
					t.Errorf("report, count %v = %v, %v, %q; want %v, %q", count, ok, err, got.String(), tt.ok, want)
				}
			}
		})
	}
}

func TestNoTestAtAllIsAFailure(t *testing.T) {
	if ok, _ := report(strings.NewReader(""), new(strings.Builder), true); ok {
		t.Error("report of nothing = true, want false")
	}
}
