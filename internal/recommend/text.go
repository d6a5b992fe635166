package recommend

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"github.com/podwall/podwall/internal/policy"
	"github.com/podwall/podwall/internal/ruleset"
)

func compareRefs(a, b ruleset.Ref) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// comment is text behind a #, on one line whatever is in it.
func comment(indent, text string) string {
	text = strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return '?'
		}
		return r
	}, text)
	return indent + "# " + text + "\n"
}

// YAML is the policies as manifests, each rule below its evidence. Strings are
// quoted, which YAML reads as JSON does.
func (r Recommendation) YAML() string {
	var b strings.Builder
	b.WriteString(comment("", "Recommended by policyctl for what was accepted on node "+r.Node+". Not in the evidence: flows that"))
	b.WriteString(comment("", "nobody opened meanwhile, and pods of other nodes. Replies and the pods' own node need no rule."))
	for _, n := range r.Notes {
		b.WriteString(comment("", "note: "+n))
	}
	for _, l := range r.Left {
		b.WriteString(comment("", "left out: "+l))
	}
	for _, p := range r.Policies {
		b.WriteString("---\n" + comment("", "for "+strings.Join(p.About, ", ")))
		fmt.Fprintf(&b, "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  namespace: %q\n  name: %q\nspec:\n  podSelector: %s\n  policyTypes: [Ingress, Egress]\n",
			p.Ref.Namespace, p.Ref.Name, selector(p.Subject.Pods))
		rules(&b, "ingress", "from", p.Ref.Namespace, p.Policy.Ingress.Rules, p.Evidence)
		rules(&b, "egress", "to", p.Ref.Namespace, p.Policy.Egress.Rules, p.Egress)
	}
	return b.String()
}

func rules(b *strings.Builder, direction, who, namespace string, list []policy.Rule, said [][]string) {
	if len(list) == 0 {
		fmt.Fprintf(b, "  %s: [] # none was seen\n", direction)
		return
	}
	fmt.Fprintf(b, "  %s:\n", direction)
	for i, r := range list {
		for _, s := range said[i] {
			b.WriteString(comment("  ", s))
		}
		port := r.Ports[0].Ports
		fmt.Fprintf(b, "  - %s: [%s]\n    ports: [{protocol: %s, port: %d}]\n", who, peer(namespace, r.Peers[0]), port.Proto, port.First)
	}
}

func peer(namespace string, p policy.Peer) string {
	switch {
	case len(p.Block) > 0:
		return fmt.Sprintf("{ipBlock: {cidr: %q}}", p.Block[0])
	case p.Pods.Namespace == namespace:
		return fmt.Sprintf("{podSelector: %s}", selector(p.Pods.Pods))
	}
	return fmt.Sprintf("{namespaceSelector: {matchLabels: {%s: %q}}, podSelector: %s}", policy.NamespaceNameLabel, p.Pods.Namespace, selector(p.Pods.Pods))
}

func selector(s policy.Selector) string {
	var labels, expressions []string
	for _, n := range s.Needs {
		if n.Op == policy.In {
			labels = append(labels, fmt.Sprintf("%q: %q", n.Key, n.Values[0]))
		} else {
			expressions = append(expressions, fmt.Sprintf("{key: %q, operator: DoesNotExist}", n.Key))
		}
	}
	var parts []string
	if len(labels) > 0 {
		parts = append(parts, "matchLabels: {"+strings.Join(labels, ", ")+"}")
	}
	if len(expressions) > 0 {
		parts = append(parts, "matchExpressions: ["+strings.Join(expressions, ", ")+"]")
	}
	return "{" + strings.Join(parts, ", ") + "}"
}
