package policy

import "github.com/podwall/podwall/internal/ruleset"

// A Change leads from one state of a Snapshot to the next. The zero Change
// changes nothing.
type Change struct {
	Set  Snapshot // objects that are new or differ, each whole
	Gone Gone     // objects that are no more; an object is never in both
}

// Gone names objects that are no more. Names that nothing bears are ignored.
type Gone struct {
	Namespaces, Nodes      []string
	Pods, Services, Slices []Name
	Policies               []ruleset.Ref
}

// A Name is an object's within its kind. A struct, not a joined string: the pods
// ("a-b", "c") and ("a", "b-c") are two.
type Name struct{ Namespace, Name string }
