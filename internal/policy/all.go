package policy

import "iter"

// Pods yields the pods of the Snapshot, done ones too, in no order.
func (w *World) Pods() iter.Seq[Pod] {
	return func(yield func(Pod) bool) {
		for _, ns := range w.namespaces {
			for _, p := range ns.pods {
				if !yield(p.public()) {
					return
				}
			}
		}
	}
}

// Nodes yields the nodes of the Snapshot, in no order.
func (w *World) Nodes() iter.Seq[Node] { return all(w.nodes) }

// Services yields the Services of the Snapshot, in no order.
func (w *World) Services() iter.Seq[Service] { return all(w.services) }

// Policies yields the policies of the Snapshot, in no order.
func (w *World) Policies() iter.Seq[Policy] {
	return func(yield func(Policy) bool) {
		for _, p := range w.policies {
			if !yield(*p.public()) {
				return
			}
		}
	}
}

func all[K comparable, V any](m map[K]*V) iter.Seq[V] {
	return func(yield func(V) bool) {
		for _, v := range m {
			if !yield(*v) {
				return
			}
		}
	}
}
