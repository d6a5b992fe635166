package kube

import (
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// A page is a list of items.
type page struct {
	metav1.TypeMeta
	metav1.ListMeta
	Items []runtime.Object
}

// DeepCopyObject returns the page itself: nobody changes it.
func (p *page) DeepCopyObject() runtime.Object { return p }

// page makes items of a list's objects, so that these are not all there at once
// with what is made of them. What is no list of this kind is an error: whoever
// answers with one is no API server.
func (l *link) page(o runtime.Object) (*page, error) {
	list, err := meta.ListAccessor(o)
	if err != nil {
		return nil, fmt.Errorf("list %s: a %T came instead: %w", l.kind.resource, o, err)
	}
	if list.GetResourceVersion() == "" {
		return nil, fmt.Errorf("list %s: a list without a resourceVersion came", l.kind.resource)
	}
	p := &page{}
	p.ResourceVersion, p.Continue, p.RemainingItemCount = list.GetResourceVersion(), list.GetContinue(), list.GetRemainingItemCount()
	err = meta.EachListItem(o, func(o runtime.Object) error {
		i, err := l.kind.read(o)
		p.Items = append(p.Items, i)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", l.kind.resource, err)
	}
	return p, nil
}
