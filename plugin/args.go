package main

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// An identity is who a pod is to Kubernetes. Fields that the runtime did not
// give are empty.
type identity struct{ namespace, name, uid string }

// parseArgs reads CNI_ARGS, KEY=VALUE pairs between semicolons:
//
//	IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_UID=…
//
// Other keys, in any order, and text that is no pair are other plugins' affair. A
// key given twice with different values is an error: which pod's rules would
// apply?
func parseArgs(s string) (identity, error) {
	var id identity
	fields := map[string]*string{
		"K8S_POD_NAMESPACE": &id.namespace,
		"K8S_POD_NAME":      &id.name,
		"K8S_POD_UID":       &id.uid,
	}
	for pair := range strings.SplitSeq(s, ";") {
		key, value, _ := strings.Cut(pair, "=")
		field := fields[key]
		if field == nil || value == "" {
			continue
		}
		if err := checkName(value); err != nil {
			return identity{}, fmt.Errorf("%s: %w", key, err)
		}
		if *field != "" && *field != value {
			return identity{}, fmt.Errorf("%s: both %q and %q", key, *field, value)
		}
		*field = value
	}
	return id, nil
}

// checkName refuses what can't be a name, and what would confuse those who read
// it: a slash divides namespace from name, and a control character writes on
// terminals. Whether it is a name of Kubernetes is not asked: other runtimes have
// pods too.
func checkName(s string) error {
	const longest = 253 // of any name in Kubernetes
	if len(s) > longest {
		return fmt.Errorf("%d bytes: at most %d", len(s), longest)
	}
	odd := func(r rune) bool { return r == '/' || !unicode.IsGraphic(r) }
	if !utf8.ValidString(s) || strings.ContainsFunc(s, odd) {
		return fmt.Errorf("%q: want a name without slash and control characters", s)
	}
	return nil
}
