package kube

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	netv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/policy"
)

// askWithin is how long the API server has to answer a question that an ADD waits
// for.
const askWithin = 2 * time.Second

// sameWithin is how long it has to say who it is, after the connection was lost.
const sameWithin = 5 * time.Second

// Learn returns nil once what was published holds the pod of that name and UID, or,
// with an empty UID, of that name. If it is not known, the API server is asked once:
// the runtime may be faster than the watch. Then an error that matches
// api.ErrUnavailable says why the pod's labels, and so its rules, are not known.
// Callers who ask for the same pod at the same time get the same answer.
func (s *Source) Learn(ctx context.Context, namespace, name, uid string) error {
	s.start()
	pod := policy.Name{Namespace: namespace, Name: name}
	upTo, known := s.ledger.knows(pod, uid)
	if !known {
		asked := s.asking.DoChan(namespace+"/"+name+"/"+uid, func() (any, error) {
			// Others may be waiting for this answer: it does not end with one of them.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askWithin)
			defer cancel()
			return s.ask(ctx, pod, uid)
		})
		select {
		case <-ctx.Done():
			return api.Errorf(api.CodeUnavailable, "pod %s/%s: not known yet: %v", namespace, name, ctx.Err())
		case r := <-asked:
			if r.Err != nil {
				return r.Err
			}
			upTo = r.Val.(uint64)
		}
	}
	if err := s.ledger.waitFor(ctx, upTo); err != nil {
		return api.Errorf(api.CodeUnavailable, "pod %s/%s: its labels are not in force yet: %v", namespace, name, err)
	}
	return nil
}

// knows reports whether the pod is known, and how many news must be published for
// it to be in force.
func (l *ledger) knows(pod policy.Name, id string) (upTo uint64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range l.mirrors {
		if e, ok := m.entries[pod]; ok && m.name == podKind && (id == "" || e.uid == uid{} || e.uid == uidOf(id)) {
			return l.due(object{podKind, pod}), true
		}
	}
	return 0, false
}

// due is how many news must be published for what is known of o to be in force.
// l.mu is held.
func (l *ledger) due(o object) uint64 {
	if _, waits := l.news[o]; waits || !l.begun {
		return l.noted
	}
	return 0
}

// ask gets the pod from the API server and takes it in.
func (s *Source) ask(ctx context.Context, pod policy.Name, uid string) (upTo uint64, err error) {
	unknown := func(cause any) error {
		return api.Errorf(api.CodeUnavailable, "pod %s/%s: its labels are not known: %v", pod.Namespace, pod.Name, cause)
	}
	c, err := s.dial.client(corev1.SchemeGroupVersion)
	if err != nil {
		return 0, unknown(err)
	}
	o, err := c.Get().Namespace(pod.Namespace).Resource("pods").Name(pod.Name).Do(ctx).Get()
	switch {
	case apierrors.IsNotFound(err):
		return 0, unknown("the API server has no such pod")
	case apierrors.IsForbidden(err):
		return 0, unknown("podwalld may not get pods: " + tidy(err))
	case err != nil:
		return 0, unknown(tidy(err))
	}
	upTo, err = s.ledger.learn(o, uid, unknown)
	if err != nil {
		return 0, err
	}
	// Where the pod is late, so may be the policies that were made before it.
	n, err := s.askPolicies(ctx, pod.Namespace)
	if err != nil {
		return 0, unknown("the policies of its namespace are not: " + tidy(err))
	}
	return max(upTo, n), nil
}

// askPolicies lists the NetworkPolicies of a namespace and takes them in. Those that
// it does not have any more are left to the watch.
func (s *Source) askPolicies(ctx context.Context, namespace string) (upTo uint64, err error) {
	c, err := s.dial.client(netv1.SchemeGroupVersion)
	if err != nil {
		return 0, err
	}
	var list netv1.NetworkPolicyList
	if err := c.Get().Namespace(namespace).Resource("networkpolicies").Do(ctx).Into(&list); err != nil {
		return 0, err
	}
	for _, m := range s.ledger.mirrors {
		if m.name != policyKind {
			continue
		}
		for i := range list.Items {
			n, err := m.learn(&list.Items[i])
			if err != nil {
				return 0, err
			}
			upTo = max(upTo, n)
		}
	}
	return upTo, nil
}

// learn takes in a pod that was asked for, if it is the one that was meant.
func (l *ledger) learn(o any, uid string, unknown func(any) error) (upTo uint64, err error) {
	for _, m := range l.mirrors {
		if m.name != podKind || m.whole {
			continue
		}
		i, err := m.item(o)
		if err != nil {
			return 0, unknown(err)
		}
		p := i.value.(policy.Pod)
		switch {
		case uid != "" && i.uid != uid:
			return 0, unknown(fmt.Sprintf("the API server has one of that name with UID %s, not %s", i.uid, uid))
		case p.HostNetwork || p.Done:
			return 0, unknown("the API server says that it has no network of its own, or runs no more")
		}
		return m.learn(i)
	}
	return 0, unknown("pods are not read")
}

// learn takes in an object that was asked for, and returns how many news must be
// published for it to be in force.
func (m *mirror) learn(o any) (upTo uint64, err error) {
	i, err := m.item(o)
	if err != nil {
		return 0, err
	}
	m.ledger.mu.Lock()
	defer m.ledger.mu.Unlock()
	if e, known := m.entries[i.Name]; !known || e.version < i.version { // else the watch was faster
		m.put(i)
		m.ahead[i.Name] = i.version
	}
	return m.ledger.due(object{m.name, i.Name}), nil
}

// A cluster is who the API server was at first.
type cluster struct {
	mu    sync.Mutex
	uid   string        // of namespace kube-system
	lost  bool          // the last question had no answer that counts
	found chan struct{} // closed, and replaced, each time that it was found again
}

// again returns a channel that is closed when the API server was found again.
func (c *cluster) again() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.found == nil {
		c.found = make(chan struct{})
	}
	return c.found
}

// meet returns an error if uid is another cluster's than at first, or if it could be
// told then and can't be told now: a cluster that was wiped looks so while it starts.
func (c *cluster) meet(uid string, cause error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.uid == "":
		c.uid = uid
	case cause != nil:
		return fmt.Errorf("whether it is still the same cluster's can't be told: %s", tidy(cause))
	case c.uid != uid:
		return fmt.Errorf("it is another cluster's now (namespace kube-system had UID %s and has %s): restart podwalld to follow that one", c.uid, uid)
	}
	if c.lost && c.found != nil {
		close(c.found)
		c.found = nil
	}
	c.lost = false
	return nil
}

// lose notes that the API server was not found.
func (c *cluster) lose() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lost = true
}

// same returns an error if the API server can't be reached, or is another cluster's
// than at first. Those who ask at the same time share the answer.
func (s *Source) same(ctx context.Context) error {
	_, err, _ := s.asking.Do("same", func() (_ any, err error) {
		defer func() {
			if err != nil {
				s.cluster.lose()
			}
		}()
		ctx, cancel := context.WithTimeout(ctx, sameWithin)
		defer cancel()
		c, err := s.dial.client(corev1.SchemeGroupVersion)
		if err != nil {
			return nil, err
		}
		var ns corev1.Namespace
		err = c.Get().MaxRetries(0).Resource("namespaces").Name("kube-system").Do(ctx).Into(&ns)
		switch {
		case apierrors.IsNotFound(err), apierrors.IsForbidden(err):
			return nil, s.cluster.meet("", err)
		case errors.Is(err, context.DeadlineExceeded):
			return nil, fmt.Errorf("no answer within %s", sameWithin)
		case err != nil:
			return nil, err
		}
		return nil, s.cluster.meet(string(ns.UID), nil)
	})
	return err
}

// terminating asks whether a namespace is being deleted.
func (s *Source) terminating(ctx context.Context, namespace string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	c, err := s.dial.client(corev1.SchemeGroupVersion)
	if err != nil {
		return true, err
	}
	var ns corev1.Namespace
	err = c.Get().Resource("namespaces").Name(namespace).Do(ctx).Into(&ns)
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	return ns.DeletionTimestamp != nil || ns.Status.Phase == corev1.NamespaceTerminating, err
}

// faults returns what is wrong with the connection, each thing once.
func (s *Source) faults() []api.Problem {
	var list []api.Problem
	seen := map[api.Problem]bool{}
	for _, l := range s.links {
		if p, ok := l.problem(); ok && !seen[p] {
			seen[p] = true
			list = append(list, p)
		}
	}
	return list
}
