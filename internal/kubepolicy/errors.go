package kubepolicy

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// A FieldError says which field of which object cannot be honoured.
type FieldError struct {
	Object string // kind and name: NetworkPolicy shop/api
	Field  string // as kubectl explain writes it: spec.ingress[0].from[1].ipBlock.cidr
	Err    error
}

// Error is "object: field: cause".
func (e *FieldError) Error() string { return fmt.Sprintf("%s: %s: %v", e.Object, e.Field, e.Err) }

// Unwrap returns the cause.
func (e *FieldError) Unwrap() error { return e.Err }

// A reader reads one object and collects what is wrong with it.
type reader struct {
	object string
	errs   []error
}

// newReader reads an object of kind, whose name and namespace it checks.
// Namespaces of cluster-wide kinds are empty.
func newReader(kind string, m *metav1.ObjectMeta, namespaced bool) *reader {
	if !namespaced {
		r := &reader{object: kind + " " + printable(m.Name)}
		r.name("metadata.name", m.Name, validation.IsDNS1123Subdomain)
		return r
	}
	r := &reader{object: kind + " " + printable(namespaceOf(m)) + "/" + printable(m.Name)}
	r.name("metadata.namespace", namespaceOf(m), validation.IsDNS1123Label)
	r.name("metadata.name", m.Name, validation.IsDNS1123Subdomain)
	return r
}

// namespaceOf is the namespace of an object that has one.
func namespaceOf(m *metav1.ObjectMeta) string {
	if m.Namespace == "" {
		return metav1.NamespaceDefault
	}
	return m.Namespace
}

// printable is s, quoted if a terminal could take any of it for a command.
func printable(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsGraphic(r) }) {
		return strconv.Quote(s)
	}
	return s
}

func (r *reader) fail(field string, err error) {
	r.errs = append(r.errs, &FieldError{Object: r.object, Field: field, Err: err})
}

func (r *reader) failf(field, format string, args ...any) {
	r.fail(field, fmt.Errorf(format, args...))
}

// name checks s by one of Kubernetes' own rules, which returns what is wrong.
func (r *reader) name(field, s string, rule func(string) []string) bool {
	if s == "" {
		r.failf(field, "missing")
		return false
	}
	wrong := rule(s)
	if len(wrong) > 0 {
		r.failf(field, "%.80q: %s", s, strings.Join(wrong, "; "))
	}
	return len(wrong) == 0
}

// err is everything that was wrong, or nil.
func (r *reader) err() error { return errors.Join(r.errs...) }

// reason is everything that was wrong in one line without the object's name, or
// empty.
func (r *reader) reason() string {
	causes := make([]string, len(r.errs))
	for i, err := range r.errs {
		causes[i] = strings.TrimPrefix(err.Error(), r.object+": ")
	}
	return strings.Join(causes, "; ")
}

// at is the field of element i of a list.
func at(field string, i int) string { return fmt.Sprintf("%s[%d]", field, i) }
