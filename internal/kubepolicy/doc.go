// Package kubepolicy parses Kubernetes objects into package policy's terms.
//
// Each function takes one object as the API server or a manifest gives it, and
// is the last place where that object's strings are strings.
//
//	k8s.io/api ──Policy, Pod, Namespace, Node, Service, EndpointSlice──▶ policy
//	                              └──▶ FieldErrors, joined
//
// # Contract
//
// Every function returns a value that may be used, whatever the error. What
// cannot be honoured is left out, on the closed side, and reported as a
// *FieldError; all of an object's errors come at once, joined.
//
// A NetworkPolicy with any error isolates what it selects and admits nobody: a
// policy that was misread must not open what its author meant to close. In the
// other objects one bad field costs no more than itself.
//
// An object without a namespace is in namespace default, as for kubectl. Nothing
// of the object is kept but its strings.
package kubepolicy
