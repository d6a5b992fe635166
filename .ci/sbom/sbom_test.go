package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

// built returns the binaries of make build.
func built(t *testing.T) []string {
	t.Helper()
	var paths []string
	for _, name := range []string{"podwall", "podwalld", "policyctl", "podwall-install"} {
		path := filepath.Join(root, "bin", name)
		if _, err := os.Stat(path); err != nil {
			t.Fatalf("%v; run make build", err)
		}
		paths = append(paths, path)
	}
	return paths
}

func write(t *testing.T, paths []string) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := run(&b, "v1.2.3", paths); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// read parses a bill, of which every field must be one that CycloneDX has.
func read(t *testing.T, text []byte) bill {
	t.Helper()
	var b bill
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&b); err != nil {
		t.Fatal(err)
	}
	return b
}

// What go version -m says of each binary is what the bill says of it.
func TestBillNamesWhatIsLinked(t *testing.T) {
	paths := built(t)
	b := read(t, write(t, paths))
	for _, path := range paths {
		out, err := exec.Command("go", "version", "-m", path).Output()
		if err != nil {
			t.Fatal(err)
		}
		want := []string{"pkg:golang/std@" + strings.TrimPrefix(strings.Fields(string(out))[1], "go")}
		for line := range strings.Lines(string(out)) {
			if f := strings.Fields(line); len(f) == 4 && f[0] == "dep" {
				want = append(want, "pkg:golang/"+f[1]+"@"+f[2])
			}
		}
		i := slices.IndexFunc(b.Dependencies, func(d dependency) bool { return d.Ref == "binary:"+filepath.Base(path) })
		if i < 0 {
			t.Errorf("%s is not in the bill", path)
			continue
		}
		got := slices.Sorted(slices.Values(b.Dependencies[i].DependsOn))
		if slices.Sort(want); !slices.Equal(got, want) {
			t.Errorf("%s is made of\n%v, want\n%v", path, got, want)
		}
	}
}

// The parts of the CycloneDX 1.6 schema that a bill of ours can get wrong.
func TestBillIsValid(t *testing.T) {
	paths := built(t)
	b := read(t, write(t, paths))
	if b.Format != "CycloneDX" || b.SpecVersion != "1.6" || b.Version < 1 {
		t.Errorf("it is a %s %s, document version %d", b.Format, b.SpecVersion, b.Version)
	}
	if ok := regexp.MustCompile(`^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`).MatchString(b.Serial); !ok {
		t.Errorf("serial number %q", b.Serial)
	}
	purl := regexp.MustCompile(`^pkg:golang/[a-zA-Z0-9._~/-]+@[a-zA-Z0-9.+-]+$`)
	refs := make(map[string]bool)
	for _, c := range append(b.Components, b.Metadata.Component) {
		switch {
		case c.Ref == "" || refs[c.Ref]:
			t.Errorf("%s: its bom-ref %q is not its own", c.Name, c.Ref)
		case c.Name == "" || c.Version == "":
			t.Errorf("%s has no name or version", c.Ref)
		case c.Type != "application" && c.Type != "library":
			t.Errorf("%s is a %q", c.Ref, c.Type)
		case c.PURL != "" && !purl.MatchString(c.PURL), c.PURL == "" && c.Type == "library":
			t.Errorf("%s has the package URL %q", c.Ref, c.PURL)
		case len(c.Licences) == 0:
			t.Errorf("%s has no licence", c.Ref)
		}
		refs[c.Ref] = true
	}
	for _, d := range b.Dependencies {
		for _, ref := range append(d.DependsOn, d.Ref) {
			if !refs[ref] {
				t.Errorf("nothing is called %q, which %s depends on", ref, d.Ref)
			}
		}
	}
	for _, path := range paths {
		mustHash(t, b, path)
	}
}

// mustHash compares the bill's hash of a binary with the file.
func mustHash(t *testing.T, b bill, path string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := hash{"SHA-256", fmt.Sprintf("%x", sha256.Sum256(text))}
	for _, c := range b.Components {
		if c.Ref == "binary:"+filepath.Base(path) && !slices.Equal(c.Hashes, []hash{want}) {
			t.Errorf("hash of %s is %v, want %v", path, c.Hashes, want)
		}
	}
}

func TestEqualBinariesGiveEqualBills(t *testing.T) {
	paths := built(t)
	want := write(t, paths)
	slices.Reverse(paths)
	if got := write(t, paths); !bytes.Equal(got, want) {
		t.Errorf("in another order the bill is\n%s\nwant\n%s", got, want)
	}
	if got := write(t, paths[1:]); bytes.Equal(got, want) || read(t, got).Serial == read(t, want).Serial {
		t.Error("a bill without one of the binaries is the same, or has the same number")
	}
}

func TestWhatIsNoBinaryHasNoBill(t *testing.T) {
	for name, paths := range map[string][]string{"none": nil, "a text": {"main.go"}, "a file that is not there": {"nowhere"}} {
		var b bytes.Buffer
		if err := run(&b, "v1", paths); err == nil || b.Len() > 0 {
			t.Errorf("%s: error %v and %d bytes, want an error and none", name, err, b.Len())
		}
	}
}

// What is shipped may be under these licences, and what only tests use also under
// MPL-2.0.
func TestLicences(t *testing.T) {
	shipped := []string{"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT"}
	b := read(t, write(t, built(t)))
	for _, c := range b.Components {
		for _, l := range c.Licences {
			if !slices.Contains(shipped, l.Licence.ID) {
				t.Errorf("%s is linked, under %s", c.Ref, l.Licence.ID)
			}
		}
	}
	cmd := exec.Command("go", "list", "-deps", "-test", "-f", "{{with .Module}}{{if not .Main}}{{.Path}} {{.Dir}}{{end}}{{end}}", "./...")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	tested := slices.Compact(slices.Sorted(strings.Lines(string(out))))
	if len(tested) < len(b.Components)/2 {
		t.Fatalf("tests use only %d modules", len(tested))
	}
	for _, line := range tested {
		path, dir, _ := strings.Cut(strings.TrimSpace(line), " ")
		if path == "" {
			continue
		}
		ids, err := licencesIn(dir)
		if err != nil {
			t.Errorf("%s: %v", path, err)
		}
		for _, id := range ids {
			if !slices.Contains(append(shipped, "MPL-2.0"), id) {
				t.Errorf("tests use %s, under %s", path, id)
			}
		}
	}
}

func TestClassify(t *testing.T) {
	tests := []struct {
		name, text string
		want       []string
	}{
		{"nothing", "", nil},
		{"no licence that is known", "All rights reserved.", nil},
		{"Apache", "  Apache License\n  Version 2.0, January 2004", []string{"Apache-2.0"}},
		{"two in one file", "Apache License Version 2.0\n---\nPermission is hereby granted, free of charge, to any person obtaining a copy", []string{"Apache-2.0", "MIT"}},
		{"BSD with two clauses", "Redistribution and use in source\nand binary forms, with or without", []string{"BSD-2-Clause"}},
		{"BSD with three clauses", "Redistribution and use in source and binary forms\n * Neither the name of", []string{"BSD-3-Clause"}},
		{"ISC", "Permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is", []string{"ISC"}},
		{"MPL, which names the GPL", "Mozilla Public License Version 2.0 ... GNU General Public License Version 2.0", []string{"MPL-2.0"}},
		{"GPL", "GNU GENERAL PUBLIC LICENSE\n Version 3, 29 June 2007", []string{"GPL"}},
		{"LGPL", "GNU LESSER GENERAL PUBLIC LICENSE Version 2.1", []string{"LGPL"}},
	}
	for _, tt := range tests {
		if got := classify(tt.text); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// Every module that is linked is named with its terms, and each text is there once.
func TestNotices(t *testing.T) {
	paths := built(t)
	var first, second bytes.Buffer
	for _, b := range []*bytes.Buffer{&first, &second} {
		if err := runNotices(b, paths); err != nil {
			t.Fatal(err)
		}
		slices.Reverse(paths)
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("the order of the binaries counts")
	}
	text := first.String()
	for _, path := range paths {
		bin, err := readBinary(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range bin.modules {
			if !strings.Contains(text, "\n"+m.path+" "+m.version+"\n") {
				t.Errorf("%s %s is in %s and not in the notices", m.path, m.version, path)
			}
		}
	}
	for _, want := range []string{"\nstd 1.", "Redistribution and use in source and binary forms", "Apache License"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q", want)
		}
	}
	if n := strings.Count(text, "Copyright (c) 2009 The Go Authors"); n > 2 { // with and without the patent grant's other year
		t.Errorf("the Go authors' licence is there %d times", n)
	}
}

// A module without a licence can't be passed on.
func TestNoticesNeedALicence(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "NOTICE"), []byte("ours"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := termsIn(dir); err == nil {
		t.Error("a notice is taken for a licence")
	}
}
