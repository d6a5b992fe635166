package conf_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/invopop/jsonschema"

	"github.com/podwall/podwall/conf/daemonconf"
)

// The tables of docs/configuration.md are what the types say.
func TestDocumentIsOfTheTypes(t *testing.T) {
	path := filepath.Join("..", "docs", "configuration.md")
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := got
	for _, f := range formats {
		want = f.intoDocument(t, want)
	}
	if *update {
		if err := os.WriteFile(path, want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not of the types any more; go test ./conf -update writes\n%s", path, want)
	}
}

// intoDocument returns doc with f's table between the comments that are there for
// it.
func (f format) intoDocument(t *testing.T, doc []byte) []byte {
	t.Helper()
	begin, end := fmt.Sprintf("<!-- of %s -->\n", f.file), "<!-- end -->\n"
	before, rest, ok := strings.Cut(string(doc), begin)
	_, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		t.Fatalf("no place for the fields of %s: want %s and %s", f.file, begin, end)
	}
	return []byte(before + begin + f.table(t) + end + after)
}

// table is f's fields, in the order of the type.
func (f format) table(t *testing.T) string {
	t.Helper()
	flags := map[string]string{}
	if f.dir == "daemonconf" {
		for _, field := range daemonconf.Fields() {
			flags[field.Name] = ", `--" + field.Flag + "`"
		}
	}
	var b strings.Builder
	b.WriteString("\n| field | default | meaning |\n|---|---|---|\n")
	s := f.schema(t)
	for p := s.Properties.Oldest(); p != nil; p = p.Next() {
		fmt.Fprintf(&b, "| `%s`%s | %s | %s |\n", p.Key, flags[p.Key], defaultOf(p.Value), meaning(p.Key, p.Value))
	}
	b.WriteString("\n")
	return b.String()
}

// meaning is the field's description, which begins with the name in the type
// instead, and the values that it may have.
func meaning(name string, p *jsonschema.Schema) string {
	_, text, _ := strings.Cut(p.Description, " ")
	text = "`" + name + "` " + text
	enum := p.Enum
	if p.Items != nil {
		enum = p.Items.Enum
	}
	if len(enum) > 0 {
		text += " Values: " + code(enum) + "."
	}
	return text
}

func defaultOf(p *jsonschema.Schema) string {
	list, isList := p.Default.([]any)
	switch {
	case isList:
		return code(list)
	case p.Type == "array":
		return "none"
	case p.Default == nil:
		return "empty"
	}
	return code([]any{p.Default})
}

// code is values in backticks.
func code(values []any) string {
	words := make([]string, len(values))
	for i, v := range values {
		words[i] = fmt.Sprintf("`%v`", v)
	}
	return strings.Join(words, ", ")
}

// Each annotation that a daemon can permit is described.
func TestDocumentNamesTheAnnotations(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "docs", "configuration.md"))
	if err != nil {
		t.Fatal(err)
	}
	names := []string{daemonconf.AnnotationRawSockets, daemonconf.AnnotationAudit, daemonconf.AnnotationObserve}
	if p, ok := formats[1].schema(t).Properties.Get("podAnnotations"); !ok || fmt.Sprint(p.Items.Enum) != fmt.Sprint(names) {
		t.Fatal("the schema has other annotations than the parser")
	}
	for _, name := range names {
		if !bytes.Contains(doc, []byte("`podwall.io/"+name+": ")) {
			t.Errorf("nothing about podwall.io/%s", name)
		}
	}
}
