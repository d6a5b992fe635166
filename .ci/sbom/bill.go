package main

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// A bill is a CycloneDX document. Its fields are those of the specification that
// podwall has something to say about.
type bill struct {
	Format       string       `json:"bomFormat"`
	SpecVersion  string       `json:"specVersion"`
	Serial       string       `json:"serialNumber,omitempty"`
	Version      int          `json:"version"` // of the document
	Metadata     metadata     `json:"metadata"`
	Components   []component  `json:"components"`
	Dependencies []dependency `json:"dependencies"`
}

type metadata struct {
	Component component `json:"component"`
}

type component struct {
	Type       string     `json:"type"`
	Ref        string     `json:"bom-ref"`
	Name       string     `json:"name"`
	Version    string     `json:"version"`
	Hashes     []hash     `json:"hashes,omitempty"`
	Licences   []licensed `json:"licenses,omitempty"`
	PURL       string     `json:"purl,omitempty"`
	Properties []property `json:"properties,omitempty"`
}

type hash struct {
	Algorithm string `json:"alg"`
	Content   string `json:"content"`
}

type licensed struct {
	Licence struct {
		ID string `json:"id"`
	} `json:"license"`
}

type property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type dependency struct {
	Ref       string   `json:"ref"`
	DependsOn []string `json:"dependsOn"`
}

// newBill describes the binaries at paths, in any order, whose modules are in
// cache.
func newBill(cache, version string, paths []string) (*bill, error) {
	if len(paths) == 0 {
		return nil, errors.New("no binaries")
	}
	b := &bill{Format: "CycloneDX", SpecVersion: "1.6", Version: 1}
	product := dependency{}
	modules := make(map[string]component)
	paths = slices.Compact(slices.Sorted(slices.Values(paths)))
	for _, path := range paths {
		bin, err := readBinary(path)
		if err != nil {
			return nil, err
		}
		file, err := application(bin, version)
		if err != nil {
			return nil, err
		}
		needs := dependency{Ref: file.Ref}
		for _, m := range append(bin.modules, module{path: "std", version: strings.TrimPrefix(bin.goVersion, "go")}) {
			if modules[m.purl()], err = library(m, cache); err != nil {
				return nil, err
			}
			needs.DependsOn = append(needs.DependsOn, m.purl())
		}
		b.Components = append(b.Components, file)
		b.Dependencies = append(b.Dependencies, needs)
		product.DependsOn = append(product.DependsOn, file.Ref)
		b.Metadata.Component = whole(bin.main, version)
	}
	product.Ref = b.Metadata.Component.Ref
	b.Dependencies = append(b.Dependencies, product)
	for _, c := range modules {
		b.Components = append(b.Components, c)
	}
	slices.SortFunc(b.Components, func(x, y component) int { return strings.Compare(x.Ref, y.Ref) })
	return b, b.number()
}

// whole is the product of which the binaries are parts.
func whole(path, version string) component {
	purl := module{path: path, version: version}.purl()
	return component{Type: "application", Ref: purl, Name: path[strings.LastIndex(path, "/")+1:], Version: version,
		PURL: purl, Licences: under("Apache-2.0")}
}

// application is a binary as a component.
func application(bin binary, version string) (component, error) {
	f, err := os.Open(bin.path)
	if err != nil {
		return component{}, err
	}
	defer func() { _ = f.Close() }() // only read
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return component{}, fmt.Errorf("hash %s: %w", bin.path, err)
	}
	return component{Type: "application", Ref: "binary:" + bin.name, Name: bin.name, Version: version,
		Hashes: []hash{{"SHA-256", fmt.Sprintf("%x", sum.Sum(nil))}}, Licences: under("Apache-2.0")}, nil
}

// library is a module as a component. The standard library is under Go's own
// licence.
func library(m module, cache string) (component, error) {
	c := component{Type: "library", Ref: m.purl(), Name: m.path, Version: m.version, PURL: m.purl(), Licences: under("BSD-3-Clause")}
	if m.path == "std" {
		return c, nil
	}
	ids, err := licencesIn(m.dir(cache))
	if err != nil {
		return c, fmt.Errorf("licence of %s %s: %w", m.path, m.version, err)
	}
	c.Licences = under(ids...)
	if m.sum != "" { // as go.sum has it
		c.Properties = []property{{"go:sum", m.sum}}
	}
	return c, nil
}

func under(ids ...string) []licensed {
	list := make([]licensed, len(ids))
	for i, id := range ids {
		list[i].Licence.ID = id
	}
	return list
}

// number gives b a serial number: a UUID of version 8, which is what those made
// of a hash of one's own are called.
func (b *bill) number() error {
	text, err := json.Marshal(b)
	if err != nil {
		return err
	}
	id := sha256.Sum256(text)
	id[6], id[8] = id[6]&0x0f|0x80, id[8]&0x3f|0x80
	b.Serial = fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:16])
	return nil
}

func (b *bill) write(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(b)
}
