package policy

import (
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Picks reports whether an object with labels is selected.
func (s Selector) Picks(labels Labels) bool { return picks(s, labels) }

// labelled is what has labels, in whatever form.
type labelled interface {
	get(key string) (value string, ok bool)
}

func (l Labels) get(key string) (value string, ok bool) {
	value, ok = l[key]
	return value, ok
}

func (l Labels) all(yield func(key, value string) bool) { maps.All(l)(yield) }

func picks[L labelled](s Selector, labels L) bool {
	if s.All {
		return true
	}
	for i := range s.Needs {
		if !holds(&s.Needs[i], labels) {
			return false
		}
	}
	return len(s.Needs) > 0
}

func holds[L labelled](n *Need, labels L) bool {
	value, ok := labels.get(n.Key)
	switch n.Op {
	case In:
		return ok && slices.Contains(n.Values, value)
	case NotIn:
		return !ok || !slices.Contains(n.Values, value)
	case Exists:
		return ok
	case DoesNotExist:
		return !ok
	}
	return false
}

// String is s as kubectl writes it: "app=web,tier in (api,db),!legacy". What
// kubectl has no words for is "<all>" and "<nothing>".
func (s Selector) String() string {
	if s.All {
		return "<all>"
	}
	if len(s.Needs) == 0 {
		return "<nothing>"
	}
	words := make([]string, len(s.Needs))
	for i, n := range s.Needs {
		words[i] = n.String()
	}
	return strings.Join(words, ",")
}

// String is n as kubectl writes it: "app=web", "tier in (api,db)", "!legacy".
func (n Need) String() string {
	values := strings.Join(n.Values, ",")
	switch n.Op {
	case In:
		if len(n.Values) == 1 {
			return n.Key + "=" + values
		}
		return n.Key + " in (" + values + ")"
	case NotIn:
		return n.Key + " notin (" + values + ")"
	case Exists:
		return n.Key
	case DoesNotExist:
		return "!" + n.Key
	}
	return "<nothing>"
}

// String is the selector of pods if the set lies in one namespace, and both
// selectors if namespaces are selected too.
func (s PodSet) String() string {
	if s.Namespace != "" {
		return s.Pods.String()
	}
	return "namespaces " + s.Namespaces.String() + ", pods " + s.Pods.String()
}

// inside reports whether s looks into ns at all.
func (s PodSet) inside(ns *namespace) bool {
	if s.Namespace != "" {
		return s.Namespace == ns.name
	}
	return picks(s.Namespaces, ns.tags)
}

// The keys below are equal exactly where the contents are: everything is quoted,
// so that no name can imitate the punctuation between names.

func (s PodSet) appendKey(b []byte) []byte {
	b = strconv.AppendQuote(b, s.Namespace)
	b = s.Namespaces.appendKey(b)
	return s.Pods.appendKey(b)
}

func (s Selector) appendKey(b []byte) []byte {
	b = strconv.AppendBool(append(b, '{'), s.All)
	for _, n := range s.Needs {
		b = strconv.AppendUint(append(b, ','), uint64(n.Op), 10)
		b = strconv.AppendQuote(b, n.Key)
		for _, v := range n.Values {
			b = strconv.AppendQuote(b, v)
		}
	}
	return append(b, '}')
}

// key is equal for equal peers.
func (p Peer) key() string {
	b := strconv.AppendBool(nil, p.Any)
	b = p.Pods.appendKey(b)
	for _, block := range p.Block {
		b = block.AppendTo(append(b, ' '))
	}
	return string(b)
}

// peersKey is equal for lists that hold the same peers in any order.
func peersKey(list []Peer) string {
	keys := make([]string, len(list))
	for i, p := range list {
		keys[i] = p.key()
	}
	slices.Sort(keys)
	return strings.Join(slices.Compact(keys), "\n")
}

// namesKey is equal for lists that hold the same named ports in any order.
func namesKey(ports []Port) string {
	var keys []string
	for _, p := range ports {
		if p.named() {
			keys = append(keys, p.Ports.Proto.String()+strconv.Quote(p.Name))
		}
	}
	slices.Sort(keys)
	return strings.Join(slices.Compact(keys), " ")
}
