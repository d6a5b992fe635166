package expect

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/podwall/podwall/conf"
	"github.com/podwall/podwall/internal/explain"
	"github.com/podwall/podwall/internal/ruleset"
)

// maxFlows is how many flows one entry may be about: its lists multiply.
const maxFlows = 10_000

// Parse reads the content of the file called name. Its errors are *conf.Errors,
// joined if there are several.
func Parse(name string, content []byte) ([]Expectation, error) {
	entries, err := decode(content)
	if err != nil {
		return nil, &conf.Error{Object: name, Err: err}
	}
	var (
		list []Expectation
		errs []error
	)
	for i, n := range entries {
		e := Expectation{File: name, Entry: i + 1, Line: n.Line, Protocol: ruleset.TCP}
		errs = append(errs, e.read(meant(n)))
		list = append(list, e)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return list, nil
}

// decode returns the elements of the list that is the only document in content.
func decode(content []byte) ([]*yaml.Node, error) {
	d := yaml.NewDecoder(bytes.NewReader(content))
	var doc, more yaml.Node
	if err := d.Decode(&doc); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if err := d.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one YAML document: want one")
	}
	if len(doc.Content) == 0 {
		return nil, errors.New("nothing is expected: want a list of expectations")
	}
	list := doc.Content[0]
	if list.Kind != yaml.SequenceNode {
		return nil, fmt.Errorf("line %d: want a list of expectations", list.Line)
	}
	if len(list.Content) == 0 {
		return nil, errors.New("nothing is expected: want a list of expectations")
	}
	return list.Content, nil
}

// A field reads what stands in it.
type field func(*yaml.Node) error

// fields are those that an entry may have.
func (e *Expectation) fields() map[string]field {
	return map[string]field{
		"name":     text(&e.Name),
		"from":     ends(&e.From, initiator),
		"to":       ends(&e.To, explain.ParseEnd),
		"port":     e.setPort,
		"ports":    e.setPorts,
		"protocol": e.setProtocol,
		"expect":   e.setExpect,
		"because":  text(&e.Because),
	}
}

// read fills e with what the mapping n holds.
func (e *Expectation) read(n *yaml.Node) error {
	if n.Kind != yaml.MappingNode {
		return &conf.Error{Object: e.object(), Err: errors.New("want the fields of an expectation")}
	}
	var errs []error
	seen := map[string]bool{}
	fields := e.fields()
	bad := func(field string, err error) {
		if err != nil {
			errs = append(errs, &conf.Error{Object: e.object(), Field: field, Err: err})
		}
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, value := n.Content[i].Value, meant(n.Content[i+1])
		set, ok := fields[name]
		switch {
		case !ok:
			bad(name, fmt.Errorf("%w: want one of %s", conf.ErrUnknown, strings.Join(names(fields), ", ")))
		case seen[name]:
			bad(name, errors.New("stands there twice"))
		default:
			bad(name, set(value))
		}
		seen[name] = true
	}
	for _, required := range []string{"from", "to", "expect"} {
		if !seen[required] {
			bad(required, errors.New("is missing"))
		}
	}
	if seen["port"] == seen["ports"] {
		bad("port", errors.New("want either port or ports"))
	}
	if len(errs) == 0 && len(e.From)*len(e.To)*len(e.Ports) > maxFlows {
		bad("", fmt.Errorf("is about more than %d flows", maxFlows))
	}
	return errors.Join(errs...)
}

// names are those of fields, sorted.
func names(fields map[string]field) []string {
	var list []string
	for name := range fields {
		list = append(list, name)
	}
	slices.Sort(list)
	return list
}

func (e *Expectation) setPort(n *yaml.Node) error {
	p, err := portOf(n)
	e.Ports = []uint16{p}
	return err
}

func (e *Expectation) setPorts(n *yaml.Node) error {
	if n.Kind != yaml.SequenceNode || len(n.Content) == 0 {
		return errors.New("want a list of numbers")
	}
	e.Ports = nil
	for _, c := range n.Content {
		p, err := portOf(meant(c))
		if err != nil {
			return err
		}
		if slices.Contains(e.Ports, p) {
			return fmt.Errorf("%d stands there twice", p)
		}
		e.Ports = append(e.Ports, p)
	}
	return nil
}

// portOf takes a decimal number only: YAML would read 010 as eight.
func portOf(n *yaml.Node) (uint16, error) {
	p, err := strconv.ParseUint(n.Value, 10, 16)
	if err != nil || p == 0 || n.ShortTag() != "!!int" || strconv.FormatUint(p, 10) != n.Value {
		return 0, fmt.Errorf("%s: want a number of 1 to 65535", written(n))
	}
	return uint16(p), nil
}

func (e *Expectation) setProtocol(n *yaml.Node) error {
	var p ruleset.Proto
	if err := p.UnmarshalText([]byte(n.Value)); err != nil || !p.HasPorts() || !isText(n) {
		return fmt.Errorf("%s: want TCP, UDP or SCTP", written(n))
	}
	e.Protocol = p
	return nil
}

func (e *Expectation) setExpect(n *yaml.Node) error {
	v := Verdict(n.Value)
	if !isText(n) || v != Allow && v != Deny {
		return fmt.Errorf("%s: want allow or deny", written(n))
	}
	e.Expect = v
	return nil
}

// text returns the field that holds a string, in *dst.
func text(dst *string) field {
	return func(n *yaml.Node) error {
		if !isText(n) || n.Value == "" {
			return fmt.Errorf("%s: want a text", written(n))
		}
		*dst = n.Value
		return nil
	}
}

// initiator reads an end that can open connections.
func initiator(s string) (explain.End, error) {
	end, err := explain.ParseEnd(s)
	if err == nil && end.Service {
		err = fmt.Errorf("%s: a service opens no connections, name one of its pods", end)
	}
	return end, err
}

// ends returns the field that holds one end or a list of them, in *dst.
func ends(dst *[]explain.End, parse func(string) (explain.End, error)) field {
	return func(n *yaml.Node) error {
		list := []*yaml.Node{n}
		if n.Kind == yaml.SequenceNode {
			list = n.Content
		}
		if len(list) == 0 {
			return errors.New("want at least one end")
		}
		for _, c := range list {
			c = meant(c)
			if !isText(c) {
				return fmt.Errorf("%s: want namespace/pod, an address, or svc/namespace/name", written(c))
			}
			end, err := parse(c.Value)
			if err != nil {
				return err
			}
			if slices.Contains(*dst, end) {
				return fmt.Errorf("%s stands there twice", end)
			}
			*dst = append(*dst, end)
		}
		return nil
	}
}

// written is n as errors show it.
func written(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	return conf.Quote(n.Value)
}

// meant is n, or what n is an alias of.
func meant(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

func isText(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!str" }
