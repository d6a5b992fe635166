package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const (
	module = "github.com/podwall/podwall"
	root   = "../.."
)

// A pkg is what go list says about a package.
type pkg struct {
	ImportPath, Name, Dir string
	Imports, Deps         []string
	GoFiles               []string
	TestGoFiles           []string
	XTestGoFiles          []string
}

// path is the package's folder inside the repository.
func (p pkg) path() string {
	return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
}

// packages lists every package of the repository.
func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Name,Dir,Imports,Deps,GoFiles,TestGoFiles,XTestGoFiles", "./...", "./.ci/report", "./.ci/sbom")
	cmd.Dir = root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v: %s", err, &stderr)
	}
	var all []pkg
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatalf("go list: %v", err)
		}
		all = append(all, p)
	}
}

// A source is one parsed file.
type source struct {
	fset *token.FileSet
	file *ast.File
	path string          // inside the repository
	test bool            // a _test.go file
	vars map[string]bool // the variables of its package, in whichever file
}

// folder is where the file is, inside the repository.
func (s *source) folder() string { return filepath.Dir(s.path) }

// line is where a node begins.
func (s *source) line(n ast.Node) int { return s.fset.Position(n.Pos()).Line }

// sources parses every Go file of a package.
func sources(t *testing.T, p pkg) []*source {
	t.Helper()
	fset := token.NewFileSet()
	vars := make(map[string]bool)
	var all []*source
	add := func(test bool, names []string) {
		for _, name := range names {
			file, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			s := &source{fset: fset, file: file, path: filepath.Join(p.path(), name), test: test, vars: vars}
			s.declare()
			all = append(all, s)
		}
	}
	add(false, p.GoFiles)
	add(true, p.TestGoFiles)
	add(true, p.XTestGoFiles)
	return all
}

// declare adds the file's package variables to vars.
func (s *source) declare() {
	for _, d := range s.file.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.VAR {
			continue
		}
		for _, spec := range g.Specs {
			for _, name := range spec.(*ast.ValueSpec).Names {
				s.vars[name.Name] = name.Name != "_"
			}
		}
	}
}
