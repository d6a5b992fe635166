package archtest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// A law is about what one file says.
type law struct {
	name   string
	except []string // folders
	tests  bool     // binds test files too
	breach string   // an example: what follows "package p"
	check  func(*source, func(ast.Node, string))
}

var laws = []law{
	{name: "an exported name has a comment", check: exportedDocumented,
		breach: "type T struct{}\n\nfunc (T) Do() {}"},
	{name: "a function fits a screen: 60 lines", check: functionLength,
		breach: "func f() {" + strings.Repeat("\n", 60) + "}"},
	{name: "a file has at most 500 lines", check: fileLength, tests: true,
		breach: strings.Repeat("\n", 500)},
	{name: "there is no init function", check: noInit, tests: true,
		breach: "func init() {}"},
	{name: "package variables are never assigned to", check: noAssignment, tests: true,
		breach: "import \"os\"\n\nvar x map[int]int\n\nfunc f() { x[1]++; os.Args = nil }"},
	{name: "package variables hold no state", check: noState, tests: true,
		breach: "var x sync.Mutex\n\nvar y = make(map[int]int)"},
	{name: "contexts come from main", check: noBackground, except: []string{"internal/netnstest"},
		breach: "func f() { context.Background() }"},
	{name: "no test is skipped", check: noSkip, tests: true,
		breach: "func f(t *testing.T) { t.Skip() }"},
	{name: "nothing is left to do", check: nothingLeft, tests: true,
		breach: "// TO" + "DO: later."},
	{name: "a package is named after what it is about", check: noVagueName, tests: true,
		breach: "// The name of this package is in path."},
	{name: "an interface has at most three methods", check: shortInterface,
		breach: "type t interface { A(); B(); C(); D() }"},
	{name: "an error is wrapped, and says operation object: cause", check: errorText,
		breach: "func f(err error) { fmt.Errorf(\"Failed to open: %v\", err) }"},
	{name: "only netnstest enters namespaces", check: noEntering, tests: true, except: []string{"internal/netnstest"},
		breach: "func f() { unix.Setns(0, 0) }"},
}

func TestLaws(t *testing.T) {
	var all []*source
	for _, p := range packages(t) {
		all = append(all, sources(t, p)...)
	}
	for _, l := range laws {
		t.Run(l.name, func(t *testing.T) {
			for _, s := range all {
				if (s.test && !l.tests) || slices.Contains(l.except, s.folder()) {
					continue
				}
				l.check(s, func(n ast.Node, what string) { t.Errorf("%s:%d: %s", s.path, s.line(n), what) })
			}
		})
	}
}

func TestLawsFindTheirBreach(t *testing.T) {
	for _, l := range laws {
		t.Run(l.name, func(t *testing.T) {
			fset := token.NewFileSet()
			file, err := parser.ParseFile(fset, "p.go", "package p\n\n"+l.breach+"\n", parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			s := &source{fset: fset, file: file, path: "internal/util/p.go", vars: make(map[string]bool)}
			s.declare()
			found := 0
			l.check(s, func(ast.Node, string) { found++ })
			if found == 0 {
				t.Errorf("law says nothing about\n%s", l.breach)
			}
		})
	}
}

// A package says in its first sentence what it is, and what may be relied on.
func TestPackageComments(t *testing.T) {
	for _, p := range packages(t) {
		var doc string
		for _, s := range sources(t, p) {
			if !s.test {
				doc += s.file.Doc.Text()
			}
		}
		want := "Package " + p.Name + " "
		if p.Name == "main" {
			want = "Command "
		}
		switch {
		case len(p.GoFiles) == 0: // a folder of tests says it where it likes
		case !strings.HasPrefix(doc, want):
			t.Errorf("the comment of %s begins %.30q, want %q", p.path(), doc, want)
		case !strings.Contains(doc, "# Contract\n"):
			t.Errorf("the comment of %s has no Contract", p.path())
		}
	}
}

func exportedDocumented(s *source, report func(ast.Node, string)) {
	for _, d := range s.file.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Doc == nil && d.Name.IsExported() && !ofError(d) && (d.Recv == nil || ast.IsExported(receiver(d))) {
				report(d, d.Name.Name+" has no comment")
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				if name, doc := specDoc(spec); !doc && !groupDoc(d) && ast.IsExported(name) {
					report(spec, name+" has no comment")
				}
			}
		}
	}
}

// groupDoc says that a comment may speak for all of a declaration: one above it,
// or, in a list of values, one anywhere in it.
func groupDoc(d *ast.GenDecl) bool {
	return d.Doc != nil || (d.Tok != token.TYPE && slices.ContainsFunc(d.Specs, func(spec ast.Spec) bool {
		_, doc := specDoc(spec)
		return doc
	}))
}

// ofError says that a method is one of package errors' own contract.
func ofError(d *ast.FuncDecl) bool {
	return d.Recv != nil && slices.Contains([]string{"Error", "Unwrap", "Is", "As"}, d.Name.Name)
}

// receiver is the name of a method's type.
func receiver(d *ast.FuncDecl) string {
	t := d.Recv.List[0].Type
	for {
		switch x := t.(type) {
		case *ast.StarExpr:
			t = x.X
		case *ast.IndexExpr:
			t = x.X
		case *ast.Ident:
			return x.Name
		default:
			return ""
		}
	}
}

// specDoc returns the name that a spec declares and whether it has a comment.
func specDoc(spec ast.Spec) (name string, documented bool) {
	switch spec := spec.(type) {
	case *ast.TypeSpec:
		return spec.Name.Name, spec.Doc != nil || spec.Comment != nil
	case *ast.ValueSpec:
		return spec.Names[0].Name, spec.Doc != nil || spec.Comment != nil
	}
	return "", true
}

func functionLength(s *source, report func(ast.Node, string)) {
	for _, d := range s.file.Decls {
		if f, ok := d.(*ast.FuncDecl); ok {
			if n := s.fset.Position(f.End()).Line - s.line(f) + 1; n > 60 {
				report(f, fmt.Sprintf("%s has %d lines", f.Name.Name, n))
			}
		}
	}
}

func fileLength(s *source, report func(ast.Node, string)) {
	if n := s.fset.File(s.file.Pos()).LineCount() - 1; n > 500 {
		report(s.file, fmt.Sprintf("file has %d lines", n))
	}
}

func noInit(s *source, report func(ast.Node, string)) {
	for _, d := range s.file.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
			report(f, "init function")
		}
	}
}

func noAssignment(s *source, report func(ast.Node, string)) {
	check := func(target ast.Expr) {
		if name := s.packageVar(target); name != "" {
			report(target, name+" is assigned to")
		}
	}
	ast.Inspect(s.file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.AssignStmt:
			if n.Tok != token.DEFINE {
				for _, target := range n.Lhs {
					check(target)
				}
			}
		case *ast.IncDecStmt:
			check(n.X)
		}
		return true
	})
}

// packageVar returns the name of the package variable that x is, or is inside
// of; empty if it is none.
func (s *source) packageVar(x ast.Expr) string {
	switch x := x.(type) {
	case *ast.IndexExpr:
		return s.packageVar(x.X)
	case *ast.SelectorExpr:
		if id, ok := x.X.(*ast.Ident); ok && id.Obj == nil && s.imported(id.Name) {
			return id.Name + "." + x.Sel.Name
		}
		return s.packageVar(x.X)
	case *ast.Ident:
		// Unresolved within the file: declared in another one. Resolved to a
		// ValueSpec of the file's own scope: declared here.
		if s.vars[x.Name] && (x.Obj == nil || x.Obj == s.file.Scope.Lookup(x.Name)) {
			return x.Name
		}
	}
	return ""
}

func (s *source) imported(name string) bool {
	return slices.ContainsFunc(s.file.Imports, func(i *ast.ImportSpec) bool {
		path := strings.Trim(i.Path.Value, `"`)
		return (i.Name != nil && i.Name.Name == name) || path[strings.LastIndex(path, "/")+1:] == name
	})
}

var stateful = regexp.MustCompile(`^(sync|atomic)\.`)

func noState(s *source, report func(ast.Node, string)) {
	for _, d := range s.file.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.VAR {
			continue
		}
		for _, spec := range g.Specs {
			v := spec.(*ast.ValueSpec)
			if sel, ok := v.Type.(*ast.SelectorExpr); ok && stateful.MatchString(fmt.Sprint(sel.X)+"."+sel.Sel.Name) {
				report(v, v.Names[0].Name+" can change")
			}
			for _, value := range v.Values {
				if call, ok := value.(*ast.CallExpr); ok && (fmt.Sprint(call.Fun) == "make" || fmt.Sprint(call.Fun) == "new") {
					report(v, v.Names[0].Name+" can change")
				}
			}
		}
	}
}

// calls reports every call of one of the given functions or methods of something
// whose name is one of x.
func calls(s *source, x []string, names []string, report func(ast.Node, string)) {
	ast.Inspect(s.file, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok && slices.Contains(names, sel.Sel.Name) {
			if id, ok := sel.X.(*ast.Ident); ok && slices.Contains(x, id.Name) {
				report(n, id.Name+"."+sel.Sel.Name)
			}
		}
		return true
	})
}

func noBackground(s *source, report func(ast.Node, string)) {
	if s.file.Name.Name != "main" {
		calls(s, []string{"context"}, []string{"Background", "TODO"}, report)
	}
}

func noSkip(s *source, report func(ast.Node, string)) {
	calls(s, []string{"t", "b", "f", "tb"}, []string{"Skip", "Skipf", "SkipNow"}, report)
}

func noEntering(s *source, report func(ast.Node, string)) {
	calls(s, []string{"unix", "syscall"}, []string{"Setns", "Unshare"}, report)
}

func noVagueName(s *source, report func(ast.Node, string)) {
	if slices.Contains([]string{"util", "utils", "common", "helpers", "types", "pkg", "misc"}, path.Base(s.folder())) {
		report(s.file, s.folder())
	}
}

func shortInterface(s *source, report func(ast.Node, string)) {
	ast.Inspect(s.file, func(n ast.Node) bool {
		if i, ok := n.(*ast.InterfaceType); ok && i.Methods.NumFields() > 3 {
			report(n, fmt.Sprintf("interface has %d methods", i.Methods.NumFields()))
		}
		return true
	})
}

var badError = regexp.MustCompile(`^"([A-Z][a-z]|failed to|error|cannot|unable to)`)

// errorText looks at the texts of errors, and for an err among the arguments of
// fmt.Errorf that no %w wraps.
func errorText(s *source, report func(ast.Node, string)) {
	ast.Inspect(s.file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok || len(call.Args) == 0 {
			return true
		}
		fun, ok := call.Fun.(*ast.SelectorExpr)
		text, isText := call.Args[0].(*ast.BasicLit)
		if !ok || !isText || (fun.Sel.Name != "Errorf" && fun.Sel.Name != "New") {
			return true
		}
		pkg := fmt.Sprint(fun.X)
		if (pkg == "fmt" || pkg == "errors") && badError.MatchString(text.Value) {
			report(n, text.Value)
		}
		for _, arg := range call.Args[1:] {
			if id, ok := arg.(*ast.Ident); ok && pkg == "fmt" && id.Name == "err" && !strings.Contains(text.Value, "%w") {
				report(n, text.Value+" does not wrap err")
			}
		}
		return true
	})
}

var leftToDo = regexp.MustCompile(`\b(TODO|FIXME|XXX)\b`)

func nothingLeft(s *source, report func(ast.Node, string)) {
	for _, group := range s.file.Comments {
		for _, c := range group.List {
			if word := leftToDo.FindString(c.Text); word != "" {
				report(c, word)
			}
		}
	}
}
