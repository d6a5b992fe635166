package kube

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	netv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/flowcontrol"

	"github.com/podwall/podwall/internal/policy"
)

const (
	// Of all Events a node may make burst at once and, from then on, one every
	// fifty seconds.
	eventRate, eventBurst = 0.02, 20
	// repeatEvery is how often an Event is renewed while its cause lasts. The API
	// server forgets Events after an hour.
	repeatEvery = 30 * time.Minute
	longestNote = 1024 // bytes, by the API
)

// A Notice is something about an object that people should hear of.
type Notice struct {
	Kind            string // Pod or NetworkPolicy
	Namespace, Name string
	UID             string // of a pod; may be empty
	Reason          string // one word, for machines: Unprotected
	Note            string // one sentence
}

// An announcer makes Events of Notices.
type announcer struct {
	mu     sync.Mutex
	limit  flowcontrol.RateLimiter
	events map[Notice]*announced
}

// An announced Notice is one that has an Event.
type announced struct {
	at      time.Time
	count   int32
	ours    bool // this node made the Event
	lasting bool // the Notice was in the last call
}

// Announce makes an Event of each Notice, in the object's namespace, once for as
// long as the Notice comes again with each call. The Event's name follows from what
// it says, so all nodes that say the same of a policy make one together. Events are
// few in any case: what is too much at once is left for a later call.
func (s *Source) Announce(ctx context.Context, notices []Notice) error {
	s.start()
	a := &s.announcer
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.events == nil {
		a.limit, a.events = flowcontrol.NewTokenBucketRateLimiter(eventRate, eventBurst), map[Notice]*announced{}
	}
	for _, e := range a.events {
		e.lasting = false
	}
	var failed error
	now := time.Now()
	for _, n := range notices {
		e := a.events[n]
		if e != nil {
			e.lasting = true
		}
		if e != nil && now.Sub(e.at) < repeatEvery || failed != nil || !a.limit.TryAccept() {
			continue
		}
		if e == nil {
			e = &announced{lasting: true}
			a.events[n] = e
		}
		if failed = s.announce(ctx, n, e, now); failed != nil {
			delete(a.events, n)
		}
	}
	for n, e := range a.events {
		if !e.lasting && now.Sub(e.at) > repeatEvery {
			delete(a.events, n) // if it comes back it is news again
		}
	}
	return failed
}

// announce makes n's Event, or renews it.
func (s *Source) announce(ctx context.Context, n Notice, e *announced, now time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	c, err := s.dial.client(eventsv1.SchemeGroupVersion)
	if err != nil {
		return err
	}
	e.at = now
	if e.ours {
		e.count++
		switch err := renew(ctx, c, n, e.count, now); {
		case err == nil:
			return nil
		case !apierrors.IsNotFound(err):
			return fmt.Errorf("event about %s %s/%s: %w", n.Kind, n.Namespace, n.Name, err)
		}
	}
	err = c.Post().Namespace(n.Namespace).Resource("events").Body(s.event(n, now)).Do(ctx).Error()
	e.ours, e.count = err == nil, 1
	if err != nil && !apierrors.IsAlreadyExists(err) && !gone(err) {
		return fmt.Errorf("event about %s %s/%s: %w", n.Kind, n.Namespace, n.Name, err)
	}
	return nil
}

// gone reports whether err says that there is no place for an Event any more: the
// namespace is gone, or going.
func gone(err error) bool {
	return apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause)
}

// renew says that n still holds.
func renew(ctx context.Context, c *rest.RESTClient, n Notice, count int32, now time.Time) error {
	patch, err := json.Marshal(map[string]any{"series": eventsv1.EventSeries{Count: count, LastObservedTime: metav1.NewMicroTime(now)}})
	if err != nil {
		return err
	}
	return c.Patch(types.MergePatchType).Namespace(n.Namespace).Resource("events").Name(n.event()).Body(patch).Do(ctx).Error()
}

func (s *Source) event(n Notice, now time.Time) *eventsv1.Event {
	regarding := corev1.ObjectReference{APIVersion: "v1", Kind: n.Kind, Namespace: n.Namespace, Name: n.Name, UID: types.UID(n.UID)}
	if n.Kind == policyKind {
		regarding.APIVersion = netv1.SchemeGroupVersion.String()
		regarding.UID = types.UID(s.ledger.uidOf(object{policyKind, policy.Name{Namespace: n.Namespace, Name: n.Name}}))
	}
	note := n.Note
	if len(note) > longestNote {
		note = strings.ToValidUTF8(note[:longestNote-3], "") + "…" // which has three bytes
	}
	return &eventsv1.Event{
		ObjectMeta:          metav1.ObjectMeta{Namespace: n.Namespace, Name: n.event()},
		EventTime:           metav1.NewMicroTime(now),
		ReportingController: "podwall.io/podwalld",
		ReportingInstance:   s.Node,
		Action:              "Enforce",
		Reason:              n.Reason,
		Regarding:           regarding,
		Note:                note,
		Type:                corev1.EventTypeWarning,
	}
}

// event is the name of n's Event.
func (n Notice) event() string {
	sum := digestOf([]byte(n.Kind), []byte(n.UID), []byte(n.Reason), []byte(n.Note))
	return fmt.Sprintf("%.200s.%s", n.Name, hex.EncodeToString(sum.first()))
}

// Dishonoured reports whether any NetworkPolicy can't be honoured.
func (s *Source) Dishonoured() bool {
	s.start()
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	for _, m := range s.ledger.mirrors {
		if m.name == policyKind && len(m.problems) > 0 {
			return true
		}
	}
	return false
}

// uidOf is the UID of an object, if it is known.
func (l *ledger) uidOf(o object) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.uid(o)
}
