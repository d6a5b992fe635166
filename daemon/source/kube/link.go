package kube

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/podwall/podwall/internal/api"
)

const (
	// silence is how long a watch may say nothing, not even that there is nothing
	// new, which it does each minute, before another one is tried.
	silence = 3 * time.Minute
	// listWithin is how long a list may take.
	listWithin = 5 * time.Minute
	// An API server that does not answer is asked again after firstPause, and at
	// longest each lastPause.
	firstPause = 200 * time.Millisecond
	lastPause  = 10 * time.Second
	// patientAttempts are made, within six seconds, while it forbids what it allowed.
	patientAttempts = 5
)

// A link is the connection of one kind to the API server. A Reflector lists and
// watches through it; what is no answer of the API server it does not get to see.
type link struct {
	kind    kind
	dial    *dialer
	mirror  *mirror
	same    func(context.Context) error // whether it is still the same cluster
	again   func() <-chan struct{}      // closed when another link has found it so
	changed func()

	mu      sync.Mutex
	heard   time.Time
	down    time.Time // since when it is not watched; zero while it is
	fault   error
	doubted bool // it may be another cluster's API server
}

// run follows the kind until ctx ends.
func (l *link) run(ctx context.Context) error {
	l.mu.Lock()
	l.down, l.doubted = time.Now(), true
	l.mu.Unlock()
	r := cache.NewReflectorWithOptions(&cache.ListWatch{ListWithContextFunc: l.list, WatchFuncWithContext: l.watch},
		l.kind.example, l.mirror, cache.ReflectorOptions{
			Name:    l.kind.resource,
			Backoff: &wait.Backoff{Duration: firstPause, Factor: 2, Jitter: 1, Steps: 7, Cap: lastPause},
		})
	r.RunWithContext(ctx)
	return nil
}

// list is a Reflector's. The objects of the list it returns are items.
func (l *link) list(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
	var out *page
	err := l.try(ctx, func(c *rest.RESTClient) error {
		ctx, cancel := context.WithTimeout(ctx, listWithin)
		defer cancel()
		o, err := l.request(c, opts).Do(ctx).Get()
		if err != nil {
			return err
		}
		out, err = l.page(o)
		return err
	})
	return out, err
}

func (l *link) request(c *rest.RESTClient, opts metav1.ListOptions) *rest.Request {
	opts.FieldSelector = l.kind.fields
	return c.Get().MaxRetries(0).Resource(l.kind.resource).VersionedParams(&opts, metav1.ParameterCodec)
}

// watch is a Reflector's.
func (l *link) watch(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error) {
	var out watch.Interface
	err := l.try(ctx, func(c *rest.RESTClient) error {
		ctx, cancel := context.WithCancel(ctx)
		dog := time.AfterFunc(silence, cancel)
		stop := func() { dog.Stop(); cancel() }
		opts.Watch = true
		w, err := l.request(c, opts).Watch(ctx)
		if err != nil {
			stop()
			return err
		}
		l.stands()
		out = newStream(w, func(e watch.Event) {
			dog.Reset(silence)
			if ctx.Err() == nil { // else it is this end that hung up
				l.hear(e)
			}
		}, func() { stop(); l.ended() })
		return nil
	})
	if err != nil && out != nil { // the end came just then
		out.Stop()
		return nil, err
	}
	return out, err
}

// try calls do until the API server has answered, with an error perhaps, or ctx
// ends. Whatever else happens is noted, and tried again.
func (l *link) try(ctx context.Context, do func(*rest.RESTClient) error) error {
	for pause, attempt := firstPause, 1; ; pause, attempt = min(2*pause, lastPause), attempt+1 {
		again := l.again()
		err := l.verify(ctx)
		if err == nil {
			var c *rest.RESTClient
			if c, err = l.dial.client(l.kind.group); err == nil {
				err = do(c)
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		l.answered(err)
		// An API server that starts forbids everything for a moment.
		if err == nil || isAnswer(err) && (attempt > patientAttempts || !apierrors.IsForbidden(err) || !l.mirror.wasListed()) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-again: // it is there again
		case <-time.After(pause/2 + rand.N(pause)): // so that not all nodes come at once
		}
	}
}

// verify makes sure that it is the same cluster's API server after the connection
// was lost.
func (l *link) verify(ctx context.Context) error {
	l.mu.Lock()
	doubted := l.doubted
	l.mu.Unlock()
	if !doubted {
		return nil
	}
	if err := l.same(ctx); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.doubted = false
	return nil
}

// isAnswer reports whether err is the API server's word about a request, which a
// Reflector knows how to deal with, and not one about the API server's own state or
// about who asks.
func isAnswer(err error) bool {
	var s apierrors.APIStatus
	if !errors.As(err, &s) {
		return false
	}
	switch s.Status().Code {
	case http.StatusUnauthorized, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, 0:
		return false
	}
	return true
}

// answered notes how a request went.
func (l *link) answered(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil || isAnswer(err) {
		l.heard = time.Now()
	} else {
		l.doubted = true
	}
	if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) || apierrors.IsTimeout(err) || apierrors.IsInvalid(err) {
		// It is too long ago, or the server is too old to send what there is as a
		// stream: the Reflector asks for a list now.
		err = nil
	}
	l.blame(err)
}

// blame notes what is wrong, or that nothing is. l.mu is held.
func (l *link) blame(err error) {
	if text(l.fault) == text(err) || (apierrors.IsForbidden(l.fault) && apierrors.IsForbidden(err)) {
		return // watching and listing are forbidden in turn
	}
	l.fault = err
	l.changed()
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// stands notes that the kind is watched.
func (l *link) stands() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = time.Time{}
}

// ended notes that the kind is not watched any more. Who answers next may be another
// cluster's, however quietly the watch ended.
func (l *link) ended() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.doubted = true
	if l.down.IsZero() {
		l.down = time.Now()
	}
}

// hear notes that the API server said something.
func (l *link) hear(e watch.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heard = time.Now()
	if e.Type != watch.Error {
		return
	}
	err := apierrors.FromObject(e.Object)
	if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
		return
	}
	l.doubted = true
	if !apierrors.IsTimeout(err) { // its history is shorter than what is known: it was restored, or is another's
		l.blame(fmt.Errorf("watch: %w", err))
	}
}

// freshness is when the API server last said anything, and for how long the kind
// has not been watched.
func (l *link) freshness(now time.Time) (heard time.Time, down time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.down.IsZero() {
		down = now.Sub(l.down)
	}
	return l.heard, down
}

// problem says what is wrong.
func (l *link) problem() (api.Problem, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := api.Problem{Object: "API server"}
	switch {
	case l.fault == nil:
		return p, false
	case apierrors.IsForbidden(l.fault):
		p.Field = l.kind.named()
		p.Message = "podwalld may not list and watch them: " + tidy(l.fault) + "; what was known of them stays in force (docs/kubernetes.md has the rights that podwalld needs)"
	case apierrors.IsUnauthorized(l.fault):
		p.Message = "it does not accept the credentials of " + l.dial.where() + ": " + tidy(l.fault) + "; what was known stays in force"
	default:
		p.Message = tidy(l.fault) + "; what was known stays in force"
	}
	return p, true
}

// tidy is err in one line of bounded length: an API server that is none may answer
// with a page.
func tidy(err error) string {
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err // the same for all that is asked for
	}
	line := strings.Join(strings.Fields(err.Error()), " ")
	if len(line) > 300 {
		line = line[:300] + "…"
	}
	return line
}
