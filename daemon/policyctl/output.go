package main

import (
	"encoding/json"
	"fmt"
	"io"

	"sigs.k8s.io/yaml"
)

// show prints v in the format that -o names; draw draws it for people.
func (c *cli) show(v any, draw func(*page)) error {
	switch c.output {
	case jsonText:
		return printJSON(c.stdout, v)
	case yamlText:
		return printYAML(c.stdout, v)
	}
	p := &page{color: c.terminal && !c.noColor && !c.plain}
	draw(p)
	_, err := io.WriteString(c.stdout, p.b.String())
	return err
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func printYAML(w io.Writer, v any) error {
	b, err := yaml.Marshal(v)
	if err != nil {
		return fmt.Errorf("write yaml: %w", err)
	}
	_, err = w.Write(b)
	return err
}
