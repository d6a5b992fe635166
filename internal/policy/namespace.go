package policy

import (
	"iter"
	"maps"
	"slices"
)

// NamespaceNameLabel is the label that every namespace has, with its own name.
const NamespaceNameLabel = "kubernetes.io/metadata.name"

// A namespace is one with what it holds.
type namespace struct {
	cell        // its labels
	name        string
	tags        tags
	declared    bool // by an object of its own
	terminating bool
	audit       Wish
	observe     Wish
	services    int
	pods        map[string]*pod
	policies    subjects // of those that look into it
}

// namespace returns the namespace of that name, which then exists.
func (w *World) namespace(name string) *namespace {
	ns, ok := w.namespaces[name]
	if !ok {
		ns = &namespace{name: name, tags: namespaceTags(name, nil)}
		w.namespaces[name] = ns
		w.named.changed = w.now
	}
	return ns
}

// leave forgets ns if nothing names it any more.
func (w *World) leave(ns *namespace) {
	if !ns.declared && ns.services == 0 && len(ns.pods) == 0 && len(ns.policies.all) == 0 {
		ns.forget()
		ns.policies.forget()
		w.relabel(ns, ns.tags, tagsOf(nil))
		delete(w.namespaces, ns.name)
	}
}

// namespaceTags are the labels of a namespace, of which its name is always one.
func namespaceTags(name string, labels Labels) tags {
	if labels[NamespaceNameLabel] != name {
		labels = maps.Clone(labels)
		if labels == nil {
			labels = Labels{}
		}
		labels[NamespaceNameLabel] = name
	}
	return tagsOf(labels)
}

// label gives ns these labels.
func (w *World) label(ns *namespace, labels Labels) {
	before := ns.tags
	if ns.tags = namespaceTags(ns.name, labels); ns.tags != before {
		ns.changed = w.now
		w.relabel(ns, before, ns.tags)
		w.relabelled(ns, before)
	}
}

// relabel notes in the index that ns has other labels than before.
func (w *World) relabel(ns *namespace, before, now tags) {
	for k, v := range before.all {
		at := label{k, v}
		list := slices.DeleteFunc(w.labelled[at], func(n *namespace) bool { return n == ns })
		if w.labelled[at] = list; len(list) == 0 {
			delete(w.labelled, at)
		}
	}
	for k, v := range now.all {
		if k != NamespaceNameLabel {
			w.labelled[label{k, v}] = append(w.labelled[label{k, v}], ns)
		}
	}
}

// inside yields the namespaces that s looks into.
func (w *World) inside(s *PodSet) iter.Seq[*namespace] {
	return func(yield func(*namespace) bool) {
		for ns := range w.candidates(s) {
			if s.inside(ns) && !yield(ns) {
				return
			}
		}
	}
}

// candidates yields namespaces among which are all that s looks into: the one of
// its name, or those that meet its shortest In, or else all.
func (w *World) candidates(s *PodSet) iter.Seq[*namespace] {
	named := func(name string) []*namespace {
		if ns := w.namespaces[name]; ns != nil {
			return []*namespace{ns}
		}
		return nil
	}
	if s.Namespace != "" {
		return slices.Values(named(s.Namespace))
	}
	spots := spotsOf("", s.Namespaces)
	if len(spots) > 0 && spots[0].label == (label{}) {
		return maps.Values(w.namespaces)
	}
	var list []*namespace
	for _, at := range spots {
		if at.label.key == NamespaceNameLabel {
			list = append(list, named(at.label.value)...)
		} else {
			list = append(list, w.labelled[at.label]...)
		}
	}
	return slices.Values(list)
}
