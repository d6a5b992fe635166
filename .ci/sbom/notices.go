package main

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A term is a text that binds whoever passes on some modules.
type term struct {
	text    string
	modules []string
}

// writeNotices writes the licences and notices of all that is linked into the
// binaries at paths: each text once, after the names of the modules that it is of.
func writeNotices(w io.Writer, goroot, cache string, paths []string) error {
	modules := make(map[string]module)
	for _, path := range paths {
		bin, err := readBinary(path)
		if err != nil {
			return err
		}
		for _, m := range append(bin.modules, module{path: "std", version: strings.TrimPrefix(bin.goVersion, "go")}) {
			modules[m.purl()] = m
		}
	}
	terms := make(map[string]*term)
	for _, m := range modules {
		dir := m.dir(cache)
		if m.path == "std" {
			dir = goroot
		}
		texts, err := termsIn(dir)
		if err != nil {
			return fmt.Errorf("licence of %s %s: %w", m.path, m.version, err)
		}
		for _, text := range texts {
			if terms[text] == nil {
				terms[text] = &term{text: text}
			}
			terms[text].modules = append(terms[text].modules, m.path+" "+m.version)
		}
	}
	return print(w, terms)
}

// print writes terms in the order of their first module's name.
func print(w io.Writer, terms map[string]*term) error {
	var all []*term
	for _, t := range terms {
		slices.Sort(t.modules)
		all = append(all, t)
	}
	slices.SortFunc(all, func(a, b *term) int {
		return strings.Compare(a.modules[0]+"\n"+a.text, b.modules[0]+"\n"+b.text)
	})
	if _, err := fmt.Fprint(w, "podwall's binaries contain these modules, each under the terms that follow its name.\n"); err != nil {
		return err
	}
	for _, t := range all {
		if _, err := fmt.Fprintf(w, "\n%s\n%s\n\n%s\n", strings.Repeat("-", 80), strings.Join(t.modules, "\n"), t.text); err != nil {
			return err
		}
	}
	return nil
}

// termsIn returns the texts of the licence and notice files in dir.
func termsIn(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var texts []string
	licensed := false
	for _, e := range entries {
		if !isLicence(e) && !isNotice(e) {
			continue
		}
		licensed = licensed || isLicence(e)
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		texts = append(texts, strings.TrimSpace(string(text)))
	}
	if !licensed {
		return nil, fmt.Errorf("find licence in %s: %w", dir, fs.ErrNotExist)
	}
	return texts, nil
}

func isNotice(e os.DirEntry) bool {
	name := strings.ToLower(strings.TrimSuffix(e.Name(), filepath.Ext(e.Name())))
	return e.Type().IsRegular() && name == "notice"
}
