package kube

import (
	"sync"

	"k8s.io/apimachinery/pkg/watch"
)

// A stream is a watch whose events are heard of as they come, and that says when it
// is stopped. (watch.Filter leaves a goroutine behind if it is stopped while an event
// is on its way.)
type stream struct {
	inner watch.Interface
	out   chan watch.Event
	done  chan struct{}
	stop  func()
}

// newStream passes w on. Each event goes to hear before anybody else gets it;
// stopped is called once, at the end.
func newStream(w watch.Interface, hear func(watch.Event), stopped func()) *stream {
	s := &stream{inner: w, out: make(chan watch.Event), done: make(chan struct{})}
	s.stop = sync.OnceFunc(func() {
		close(s.done)
		w.Stop()
		stopped()
	})
	go s.pass(hear)
	return s
}

// pass ends with the watch or with the stream.
func (s *stream) pass(hear func(watch.Event)) {
	defer close(s.out)
	for e := range s.inner.ResultChan() {
		select {
		case <-s.done: // what comes now is about the end
			return
		default:
		}
		hear(e)
		select {
		case s.out <- e:
		case <-s.done: // nobody reads any more
			return
		}
	}
}

// ResultChan is watch.Interface's.
func (s *stream) ResultChan() <-chan watch.Event { return s.out }

// Stop ends the watch. Again is harmless.
func (s *stream) Stop() { s.stop() }
