package manifest

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	kjson "sigs.k8s.io/json"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/kubepolicy"
	"github.com/podwall/podwall/internal/policy"
)

// An object is one object of a file.
type object struct {
	kind, namespace, name string
	value                 any    // policy.Pod and so on
	raw                   []byte // of a NetworkPolicy: as JSON
	alias                 bool   // the name is not the manifest's
	file                  string
	doc                   int
}

// String is kind namespace/name.
func (o object) String() string {
	if o.namespace == "" {
		return o.kind + " " + o.name
	}
	return o.kind + " " + o.namespace + "/" + o.name
}

// place is where the object is.
func (o object) place() string { return fmt.Sprintf("%s (document %d)", o.file, o.doc) }

// A readFunc reads an object of one kind. If it does not fit its kind the error
// is not nil, and the object holds what could be read.
type readFunc func(raw []byte) (object, []api.Problem, error)

// kinds are the kinds that are read, except NetworkPolicy, by apiVersion and
// kind.
var kinds = map[string]readFunc{
	"v1 Namespace": reader("Namespace", kubepolicy.Namespace, func(n policy.Namespace) (string, string) { return "", n.Name }),
	"v1 Node":      reader("Node", kubepolicy.Node, func(n policy.Node) (string, string) { return "", n.Name }),
	"v1 Pod":       reader("Pod", kubepolicy.Pod, func(p policy.Pod) (string, string) { return p.Namespace, p.Name }),
	"v1 Service":   reader("Service", kubepolicy.Service, func(s policy.Service) (string, string) { return s.Namespace, s.Name }),
	"discovery.k8s.io/v1 EndpointSlice": reader("EndpointSlice", kubepolicy.EndpointSlice,
		func(s policy.EndpointSlice) (string, string) { return s.Namespace, s.Name }),
}

// reader makes a readFunc of a kind's parser. Fields that the kind does not have
// are ignored: newer Kubernetes prints newer fields.
func reader[In kubernetes, Out any](kind string, parse func(*In) (Out, error), id func(Out) (namespace, name string)) readFunc {
	return func(raw []byte) (object, []api.Problem, error) {
		var in In
		misfit := kjson.UnmarshalCaseSensitivePreserveInts(raw, &in)
		out, err := parse(&in)
		o := object{kind: kind, value: out}
		o.namespace, o.name = id(out)
		return o, problems(o.String(), err), misfit
	}
}

type kubernetes interface {
	corev1.Namespace | corev1.Node | corev1.Pod | corev1.Service | discoveryv1.EndpointSlice
}

// problems takes the errors that were joined in err apart.
func problems(object string, err error) []api.Problem {
	if err == nil {
		return nil
	}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		var list []api.Problem
		for _, err := range many.Unwrap() {
			list = append(list, problems(object, err)...)
		}
		return list
	}
	var fe *kubepolicy.FieldError
	if errors.As(err, &fe) {
		return []api.Problem{{Object: cmp.Or(fe.Object, object), Field: fe.Field, Message: fe.Err.Error()}}
	}
	return []api.Problem{{Object: object, Field: fieldOf(err), Message: explain(err)}}
}

// fieldOf is the field that a decoder's error is about, if it knows.
func fieldOf(err error) string {
	var te *json.UnmarshalTypeError
	if errors.As(err, &te) {
		return te.Field
	}
	var fe kjson.FieldError
	if errors.As(err, &fe) {
		return fe.FieldPath()
	}
	return ""
}

// explain is a decoder's error in the words of whoever wrote the manifest.
func explain(err error) string {
	var te *json.UnmarshalTypeError
	if !errors.As(err, &te) {
		return err.Error()
	}
	return fmt.Sprintf("%s where %s is wanted", te.Value, jsonKind(te.Type))
}

func jsonKind(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Struct, reflect.Map:
		return "an object"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	}
	return "a number"
}
