package api

import "github.com/podwall/podwall/internal/ruleset"

// VerbMatrix asks who may reach whom: MatrixRequest; answered by matrix.Matrix.
const VerbMatrix Verb = "matrix"

// A MatrixRequest asks about the pods of some namespaces, or of all if none are
// named, on all ports or, if there are any in it, on these.
type MatrixRequest struct {
	Namespaces []string        `json:"namespaces,omitempty"`
	Ports      []ruleset.Ports `json:"ports,omitempty"`
}
