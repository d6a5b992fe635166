package policy

import "slices"

// A finder finds, for the labels of an object, the few among many selectors that
// may pick it, so that nobody has to ask them all. What it finds must still be
// asked: it may be too much, never too little. The zero finder is empty.
type finder[T comparable] struct{ at map[spot][]T }

// A spot is where a selector waits for objects: those of a namespace, or of any
// if that is empty, with a label or, where that is zero, any labels.
type spot struct {
	namespace string
	label     label
}

type label struct{ key, value string }

// spotsOf returns where a selector for objects in a namespace waits: at each
// value of its shortest In or, without one, at all objects. One that picks
// nothing waits nowhere.
func spotsOf(namespace string, s Selector) []spot {
	if !s.All && len(s.Needs) == 0 {
		return nil
	}
	best := -1
	for i, n := range s.Needs {
		if !s.All && n.Op == In && (best < 0 || len(n.Values) < len(s.Needs[best].Values)) {
			best = i
		}
	}
	if best < 0 {
		return []spot{{namespace: namespace}}
	}
	var spots []spot
	for _, v := range s.Needs[best].Values {
		if at := (spot{namespace, label{s.Needs[best].Key, v}}); !slices.Contains(spots, at) {
			spots = append(spots, at)
		}
	}
	return spots
}

func (f *finder[T]) add(namespace string, s Selector, item T) {
	if f.at == nil {
		f.at = make(map[spot][]T)
	}
	for _, at := range spotsOf(namespace, s) {
		f.at[at] = append(f.at[at], item)
	}
}

// remove takes back an add of the same arguments.
func (f *finder[T]) remove(namespace string, s Selector, item T) {
	for _, at := range spotsOf(namespace, s) {
		list := f.at[at]
		if i := slices.Index(list, item); i >= 0 {
			list = slices.Delete(list, i, i+1)
		}
		if f.at[at] = list; len(list) == 0 {
			delete(f.at, at)
		}
	}
}

// visit calls found for what may pick an object of a namespace with these
// labels; the same thing several times if it was added so.
func (f *finder[T]) visit(namespace string, labels func(func(key, value string) bool), found func(T)) {
	if len(f.at) == 0 {
		return
	}
	visit := func(l label) {
		for _, item := range f.at[spot{namespace, l}] {
			found(item)
		}
		if namespace == "" {
			return
		}
		for _, item := range f.at[spot{"", l}] {
			found(item)
		}
	}
	visit(label{})
	for k, v := range labels {
		visit(label{k, v})
	}
}
