package main

import (
	"encoding/xml"
	"fmt"
	"os"

	"github.com/podwall/podwall/internal/api"
)

// The elements of a JUnit report, of the kind that CI servers agree about: a
// suite for each file, a case for each flow.
type (
	junitSuites struct {
		XMLName  xml.Name      `xml:"testsuites"`
		Tests    int           `xml:"tests,attr"`
		Failures int           `xml:"failures,attr"`
		Suites   []*junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name     string      `xml:"name,attr"`
		Tests    int         `xml:"tests,attr"`
		Failures int         `xml:"failures,attr"`
		Cases    []junitCase `xml:"testcase"`
	}
	junitCase struct {
		Class   string        `xml:"classname,attr"`
		Name    string        `xml:"name,attr"`
		File    string        `xml:"file,attr,omitempty"`
		Line    int           `xml:"line,attr,omitempty"`
		Failure *junitFailure `xml:"failure"`
	}
	junitFailure struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
)

// junitOf is r as JUnit has it. Under --strict each problem of the manifests is a
// case that failed.
func junitOf(r report) *junitSuites {
	all := &junitSuites{}
	for _, x := range r.Results {
		all.add(x.File, junitResult(x))
	}
	if r.Strict {
		for _, p := range r.Problems {
			all.add("manifests", junitProblem(p))
		}
	}
	return all
}

func junitResult(x reported) junitCase {
	c := junitCase{Class: x.File, Name: x.Flow.String(), File: x.File, Line: x.Line}
	if x.Name != "" {
		c.Name = x.Name + ": " + c.Name
	}
	if !x.Passed {
		c.Failure = &junitFailure{Message: fmt.Sprintf("want %s, %s", x.Expect, x.Missed), Text: x.because()}
	}
	return c
}

func junitProblem(p api.Problem) junitCase {
	return junitCase{Class: "manifests", Name: p.Object, Failure: &junitFailure{Message: p.String()}}
}

// add puts c into the suite called name, and counts.
func (all *junitSuites) add(name string, c junitCase) {
	var s *junitSuite
	for _, known := range all.Suites {
		if known.Name == name {
			s = known
		}
	}
	if s == nil {
		s = &junitSuite{Name: name}
		all.Suites = append(all.Suites, s)
	}
	s.Cases = append(s.Cases, c)
	all.Tests, s.Tests = all.Tests+1, s.Tests+1
	if c.Failure != nil {
		all.Failures, s.Failures = all.Failures+1, s.Failures+1
	}
}

// writeJUnit writes r to the file at path.
func writeJUnit(path string, r report) error {
	b, err := xml.MarshalIndent(junitOf(r), "", "  ")
	if err != nil {
		return fmt.Errorf("write junit: %w", err)
	}
	if err := os.WriteFile(path, append([]byte(xml.Header), append(b, '\n')...), 0o644); err != nil {
		return fmt.Errorf("write junit: %w", err)
	}
	return nil
}
