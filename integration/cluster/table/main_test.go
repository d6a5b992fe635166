package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTable(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct {
		name, events, want string
		good               bool
	}{
		{"cases below a suite are counted, suites and clusters are not", `
			{"Action":"run","Test":"TestIPv4"}
			{"Action":"run","Test":"TestIPv4/netpol"}
			{"Action":"run","Test":"TestIPv4/netpol/a"}
			{"Action":"pass","Test":"TestIPv4/netpol/a","Elapsed":1}
			{"Action":"run","Test":"TestIPv4/netpol/b"}
			{"Action":"output","Test":"TestIPv4/netpol/b","Output":"    x_test.go:1: needs SCTP\n"}
			{"Action":"skip","Test":"TestIPv4/netpol/b"}
			{"Action":"pass","Test":"TestIPv4/netpol","Elapsed":90}
			{"Action":"pass","Test":"TestIPv4","Elapsed":100}`,
			"| IPv4 netpol | 1 | 1 | 0 | 1: needs SCTP | 1.5 |", true},
		{"a cluster that does not come up is a row", `
			{"Action":"run","Test":"TestIPv4"}
			{"Action":"fail","Test":"TestIPv4","Elapsed":6}
			{"Action":"fail"}`,
			"| IPv4 | 1 | 0 | 1 | 0 | 0.1 |", false},
		{"a suite that fails although its cases pass has one more case", `
			{"Action":"run","Test":"TestIPv4"}
			{"Action":"run","Test":"TestIPv4/netpol"}
			{"Action":"run","Test":"TestIPv4/netpol/a"}
			{"Action":"pass","Test":"TestIPv4/netpol/a"}
			{"Action":"fail","Test":"TestIPv4/netpol"}
			{"Action":"fail","Test":"TestIPv4"}
			{"Action":"fail"}`,
			"| IPv4 netpol | 2 | 1 | 1 | 0 | 0.0 |", false},
		{"a case that never ended has failed", `
			{"Action":"run","Test":"TestIPv4"}
			{"Action":"run","Test":"TestIPv4/race"}
			{"Action":"run","Test":"TestIPv4/race/IPv4"}
			{"Action":"fail"}`,
			"| IPv4 race | 1 | 0 | 1 | 0 | 0.0 |", false},
		{"a package of the product is a row", `
			{"Action":"run","Package":"podwall/daemon/source/kube","Test":"TestWatch"}
			{"Action":"run","Package":"podwall/daemon/source/kube","Test":"TestWatch/gone"}
			{"Action":"pass","Package":"podwall/daemon/source/kube","Test":"TestWatch/gone","Elapsed":5}
			{"Action":"pass","Package":"podwall/daemon/source/kube","Test":"TestWatch","Elapsed":6}
			{"Action":"run","Package":"podwall/daemon/source/kube","Test":"TestPatience"}
			{"Action":"pass","Package":"podwall/daemon/source/kube","Test":"TestPatience","Elapsed":6}
			{"Action":"pass","Package":"podwall/daemon/source/kube"}`,
			"| WithoutNodes kube | 2 | 2 | 0 | 0 | 0.2 |", true},
		{"no test at all is not well", ``, "|---|---|---|---|---|---|", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out, log bytes.Buffer
			err := run(strings.NewReader(strings.TrimSpace(tt.events)), &out, &log, dir)
			if (err == nil) != tt.good {
				t.Errorf("error %v, want one: %v", err, !tt.good)
			}
			if !strings.Contains(out.String(), tt.want+"\n") {
				t.Errorf("got\n%swant the row\n%s", &out, tt.want)
			}
		})
	}
}

func TestJUnit(t *testing.T) {
	dir := t.TempDir()
	events := `{"Action":"run","Test":"TestIPv4/race"}
		{"Action":"output","Test":"TestIPv4/race","Output":"a \u001b[1m leak\n"}
		{"Action":"fail","Test":"TestIPv4/race","Elapsed":2}`
	if err := run(strings.NewReader(events), new(bytes.Buffer), new(bytes.Buffer), dir); err == nil {
		t.Error("a failed case is no error")
	}
	got, err := os.ReadFile(filepath.Join(dir, "junit-ipv4-race.xml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`name="IPv4 race" tests="1" failures="1" skipped="0" time="2.000"`, "<![CDATA[a [1m leak\n]]>"} {
		if !strings.Contains(string(got), want) {
			t.Errorf("got\n%s\nwant %s in it", got, want)
		}
	}
}
