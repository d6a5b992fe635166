package main

import (
	"encoding/xml"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// The elements of JUnit's format that others read.
type (
	testsuite struct {
		XMLName  xml.Name `xml:"testsuite"`
		Name     string   `xml:"name,attr"`
		Tests    int      `xml:"tests,attr"`
		Failures int      `xml:"failures,attr"`
		Skipped  int      `xml:"skipped,attr"`
		Time     string   `xml:"time,attr"`
		Cases    []testcase
	}
	testcase struct {
		XMLName xml.Name `xml:"testcase"`
		Name    string   `xml:"name,attr"`
		Class   string   `xml:"classname,attr"`
		Time    string   `xml:"time,attr"`
		Failure *said    `xml:"failure"`
		Skipped *said    `xml:"skipped"`
	}
	said struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",cdata"`
	}
)

// writeJUnit writes a file for each row.
func writeJUnit(dir string, rows []*row) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, r := range rows {
		b, err := xml.MarshalIndent(r.junit(), "", "  ")
		if err != nil {
			return err
		}
		file := "junit-" + strings.ReplaceAll(strings.ToLower(r.suite), " ", "-") + ".xml"
		if err := os.WriteFile(filepath.Join(dir, file), append([]byte(xml.Header), b...), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (r *row) junit() testsuite {
	s := testsuite{Name: r.suite, Tests: len(r.cases), Failures: r.failed, Skipped: r.skipped, Time: fmt.Sprintf("%.3f", r.took.Seconds())}
	for _, t := range r.cases {
		c := testcase{Name: t.name, Class: r.suite, Time: fmt.Sprintf("%.3f", t.took.Seconds())}
		switch t.state {
		case "pass":
		case "skip":
			c.Skipped = &said{Message: t.reason()}
		default:
			c.Failure = &said{Message: "failed", Text: printable(t.output.String())}
		}
		s.Cases = append(s.Cases, c)
	}
	return s
}

// printable leaves out what XML can't hold.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' {
			return -1
		}
		return r
	}, s)
}
