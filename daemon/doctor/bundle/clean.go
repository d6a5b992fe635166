package bundle

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
)

// gone stands where something was taken out.
const gone = "(removed)"

// secret matches names whose values nobody else should see.
const secret = `[\w.-]*(?:token|passw(?:or)?d|secret|credential|private[_-]?key|api[_-]?key|client[_-]?key|key[_-]?data|certificate[_-]?(?:authority[_-]?)?data|bearer|authorization|auth)[\w.-]*`

var patterns = []struct {
	find *regexp.Regexp
	put  string
}{
	// name: value and "name": "value" and name=value, quoted or up to the line's
	// end, a comma or a blank.
	{regexp.MustCompile(`(?i)(["']?\b` + secret + `["']?\s*[:=]\s*)(?:"(?:[^"\\]|\\.)*"|'[^']*'|\[[^\]]*\]|\{[^{}]*\}|(?:(?:Bearer|Basic)\s+)?[^\s,;}&\[{"']+)`), `${1}"` + gone + `"`},
	{regexp.MustCompile(`(?i)\b(Bearer|Basic)\s+[A-Za-z0-9._~+/=-]{8,}`), `${1} ` + gone},
	{regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?`), gone}, // a JSON web token
	{regexp.MustCompile(`(://[^\s/:@"']*:)[^\s/@"']+@`), `${1}` + gone + `@`},                 // a password in a URL
	{regexp.MustCompile(`\b[a-z0-9]{6}\.[a-z0-9]{16}\b`), gone},                               // a bootstrap token
}

// pem matches keys, also where their lines end in \n written out.
var pem = regexp.MustCompile(`(?s)-----BEGIN [A-Z ]+-----.*?(?:-----END [A-Z ]+-----|\z)`)

// clean is text without what may be secret. Too much is taken out rather than too
// little.
func clean(text string) string {
	text = strings.ToValidUTF8(text, "\uFFFD")
	if tree, ok := parse(text); ok {
		if b, err := json.MarshalIndent(prune(tree), "", "  "); err == nil {
			return string(b) + "\n"
		}
	}
	return cleanLines(blocks(pem.ReplaceAllString(text, gone)))
}

// cleanLines takes out what the patterns find.
func cleanLines(text string) string {
	var out strings.Builder
	lines := slices.Collect(strings.Lines(text))
	for i := 0; i < len(lines); i++ {
		part := lines[i]
		if !hinted(part) { // most lines: the patterns are slow
			out.WriteString(part)
			continue
		}
		for ; open(part) && i+1 < len(lines); i++ { // a list that goes on
			part += lines[i+1]
		}
		for _, p := range patterns {
			part = p.find.ReplaceAllString(part, p.put)
		}
		out.WriteString(part)
	}
	return out.String()
}

// hints are what there is of every pattern, in lower case.
var hints = []string{"token", "passw", "secret", "credential", "key", "certificate", "bearer", "auth", "basic", "eyj", "://"}

func hinted(line string) bool {
	line = strings.ToLower(line)
	return slices.ContainsFunc(hints, func(h string) bool { return strings.Contains(line, h) })
}

// open reports whether a bracket is open at the end of text.
func open(text string) bool {
	return strings.Count(text, "[") > strings.Count(text, "]") || strings.Count(text, "{") > strings.Count(text, "}")
}

// parse reads text if all of it is one object or list of JSON.
func parse(text string) (tree any, ok bool) {
	if !strings.HasPrefix(text, "{") && !strings.HasPrefix(text, "[") {
		return nil, false
	}
	err := json.Unmarshal([]byte(text), &tree)
	return tree, err == nil
}

var secretName = regexp.MustCompile(`(?i)^` + secret + `$`)

// prune is a tree of JSON without the values of secret names, however deep these
// are, and with its texts cleaned.
func prune(v any) any {
	switch v := v.(type) {
	case string:
		return cleanLines(pem.ReplaceAllString(v, gone))
	case map[string]any:
		for name, value := range v {
			v[name] = prune(value)
			if secretName.MatchString(name) {
				v[name] = gone
			}
		}
	case []any:
		for i, value := range v {
			v[i] = prune(value)
		}
	}
	return v
}

var blockStart = regexp.MustCompile(`(?i)^(\s*)(?:- )?["']?` + secret + `["']?\s*:\s*(?:[|>][-+0-9]*|&\S+|!\S+)?\s*$`)

// blocks takes the blocks out of YAML that stand below a secret name, indented
// more deeply.
func blocks(text string) string {
	var out []string
	hidden := -1 // the indentation of the name whose block this is
	for line := range strings.Lines(text) {
		depth := len(line) - len(strings.TrimLeft(line, " \t"))
		blank := strings.TrimSpace(line) == ""
		if hidden >= 0 && (blank || depth > hidden) {
			continue
		}
		hidden = -1
		if !hinted(line) {
			out = append(out, line)
			continue
		}
		if m := blockStart.FindStringSubmatch(strings.TrimRight(line, "\r\n")); m != nil {
			hidden = len(m[1])
			line = strings.TrimRight(line, "\r\n") + " " + gone + "\n"
		}
		out = append(out, line)
	}
	return strings.Join(out, "")
}
