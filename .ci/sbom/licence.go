package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A sign is a passage that only one licence has. Its text is in small letters,
// with one space between words.
type sign struct{ id, text string }

var signs = []sign{
	{"Apache-2.0", "apache license version 2.0"},
	{"MIT", "permission is hereby granted, free of charge, to any person obtaining a copy"},
	{"ISC", "permission to use, copy, modify, and/or distribute this software for any purpose with or without fee"},
	{"ISC", "permission to use, copy, modify, and distribute this software for any purpose with or without fee"},
	{"MPL-2.0", "mozilla public license version 2.0"},
	{"MPL-2.0", "mozilla public license, version 2.0"},
	{"BSD-2-Clause", "redistribution and use in source and binary forms"},
	{"BSD-3-Clause", "neither the name"},
	{"BSD-3-Clause", "may not be used to endorse or promote products"},
	{"GPL", "gnu general public license version"},
	{"LGPL", "gnu lesser general public license version"},
	{"AGPL", "gnu affero general public license version"},
}

// classify returns the licences that text holds, by their SPDX names; none if it
// knows none of them.
func classify(text string) []string {
	text = strings.ToLower(strings.Join(strings.Fields(strings.NewReplacer("#", " ", "*", " ", "//", " ").Replace(text)), " "))
	var ids []string
	for _, s := range signs {
		if strings.Contains(text, s.text) {
			ids = append(ids, s.id)
		}
	}
	if slices.Contains(ids, "BSD-3-Clause") { // which has all that BSD-2-Clause has
		ids = slices.DeleteFunc(ids, func(id string) bool { return id == "BSD-2-Clause" })
	}
	if slices.Contains(ids, "MPL-2.0") { // which names the GNU licences as others one may choose
		ids = slices.DeleteFunc(ids, func(id string) bool { return strings.HasSuffix(id, "GPL") })
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// licencesIn returns the licences of the module in dir: all that its licence
// files hold. A file of which nothing is known is an error.
func licencesIn(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, e := range entries {
		if !isLicence(e) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		found := classify(string(text))
		if len(found) == 0 {
			return nil, fmt.Errorf("classify %s: none of the licences known here", filepath.Join(dir, e.Name()))
		}
		ids = append(ids, found...)
	}
	if len(ids) == 0 {
		return nil, fmt.Errorf("find licence: no file for it in %s", dir)
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

func isLicence(e os.DirEntry) bool {
	name := strings.ToLower(strings.TrimSuffix(e.Name(), filepath.Ext(e.Name())))
	return e.Type().IsRegular() && (name == "license" || name == "licence" || name == "copying" || name == "unlicense")
}
