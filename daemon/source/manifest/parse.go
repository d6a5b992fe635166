package manifest

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"

	kjson "sigs.k8s.io/json"

	"github.com/podwall/podwall/internal/api"
)

// maxProblems is how many problems of one file are told.
const maxProblems = 20

// A contents is what a file says.
type contents struct {
	objects  []object
	problems []api.Problem // with the objects
	// faults say why the file is not all manifests. The objects are then those
	// that could be read; there may be more.
	faults []string
}

// parse reads the file of the given name.
func parse(name string, data []byte) contents {
	p := parser{name: name}
	read := documents
	if filepath.Ext(name) == ".json" {
		read = jsonDocuments
	}
	n := 0
	for d, err := range read(data) {
		n++
		if err != nil {
			p.breaks(d.number, "%v", err)
			break
		}
		p.document(d.number, d.json)
	}
	if n == 0 {
		p.out.faults = append(p.out.faults, "no object in the file; to withdraw its objects delete the file")
	}
	if more := len(p.out.problems) - maxProblems; more > 0 {
		p.out.problems = p.out.problems[:maxProblems:maxProblems]
		p.problem("and %d more problems", more)
	}
	if len(p.out.faults) > maxProblems {
		p.out.faults = p.out.faults[:maxProblems:maxProblems]
	}
	return p.out
}

// A parser reads one file.
type parser struct {
	name string
	out  contents
}

// problem reports something about the file.
func (p *parser) problem(format string, args ...any) {
	p.out.problems = append(p.out.problems, api.Problem{Object: p.name, Message: fmt.Sprintf(format, args...)})
}

// breaks reports that a document is no manifest.
func (p *parser) breaks(doc int, format string, args ...any) {
	p.out.faults = append(p.out.faults, fmt.Sprintf("document %d: %s", doc, fmt.Sprintf(format, args...)))
}

// A header is what every manifest begins with, and a List's elements.
type header struct {
	APIVersion string            `json:"apiVersion"`
	Kind       string            `json:"kind"`
	Items      []json.RawMessage `json:"items"`
}

// document reads one document, which may be a List.
func (p *parser) document(doc int, raw []byte) {
	h, ok := p.header(doc, raw)
	if !ok {
		return
	}
	element, list := strings.CutSuffix(h.Kind, "List")
	if !list || element != "" && h.Items == nil {
		p.object(doc, h, raw)
		return
	}
	for i, item := range h.Items {
		// Elements of a PodList may leave out what its own kind says.
		item := withKind(item, h.APIVersion, element)
		ih, ok := p.header(doc, item)
		switch {
		case !ok:
		case strings.HasSuffix(ih.Kind, "List"):
			p.breaks(doc, "items[%d]: a %s inside a %s is not read", i, ih.Kind, h.Kind)
		default:
			p.object(doc, ih, item)
		}
	}
}

// header reads the header of a document that must be a Kubernetes object.
func (p *parser) header(doc int, raw []byte) (header, bool) {
	var h header
	if err := kjson.UnmarshalCaseSensitivePreserveInts(raw, &h); err != nil {
		p.breaks(doc, "not a Kubernetes object: %s", oneLine(err))
		return header{}, false
	}
	if h.Kind == "" {
		p.breaks(doc, "no kind: not a Kubernetes object")
		return header{}, false
	}
	return h, true
}

// withKind gives an element of a list of kind its apiVersion and kind, if it is
// an object without.
func withKind(item []byte, apiVersion, kind string) []byte {
	var h header
	if kind == "" || kjson.UnmarshalCaseSensitivePreserveInts(item, &h) != nil || h.Kind != "" {
		return item
	}
	var m map[string]json.RawMessage
	if json.Unmarshal(item, &m) != nil || m == nil {
		return item
	}
	m["apiVersion"], _ = json.Marshal(apiVersion)
	m["kind"], _ = json.Marshal(kind)
	b, err := json.Marshal(m)
	if err != nil {
		return item
	}
	return b
}

// object reads one object that is no List.
func (p *parser) object(doc int, h header, raw []byte) {
	if h.Kind == policyKind && (h.APIVersion == policyVersion || selectsPods(raw)) {
		o, problems := readPolicy(h.APIVersion, raw)
		if o.name == "" {
			o.rename(fmt.Sprintf("@%s#%d", p.name, doc))
		}
		p.add(doc, o, problems)
		return
	}
	read, ok := kinds[h.APIVersion+" "+h.Kind]
	if !ok {
		p.problem("document %d: %s of %s is not read here", doc, h.Kind, orNone(h.APIVersion))
		return
	}
	o, problems, misfit := read(raw)
	if misfit != nil {
		p.breaks(doc, "%s: %s", o, oneLine(misfit))
	}
	p.add(doc, o, problems)
}

// add takes an object over. One without a name is only reported.
func (p *parser) add(doc int, o object, problems []api.Problem) {
	for _, pr := range problems {
		pr.Message += fmt.Sprintf(" (%s, document %d)", p.name, doc)
		p.out.problems = append(p.out.problems, pr)
	}
	if o.name == "" {
		return
	}
	o.file, o.doc = p.name, doc
	p.out.objects = append(p.out.objects, o)
}

func orNone(apiVersion string) string {
	if apiVersion == "" {
		return "no apiVersion"
	}
	return apiVersion
}
