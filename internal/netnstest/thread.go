package netnstest

import (
	"errors"
	"runtime"

	"golang.org/x/sys/unix"
)

// errNoAnswer is what Do returns when its function never came back.
var errNoAnswer = errors.New("function inside the namespace ended its goroutine (t.Fatal or t.Skip belong outside)")

// onThrowawayThread calls fn on an OS thread that no other goroutine will see.
//
// The goroutine locks the thread and does not unlock it, on purpose: the
// runtime then destroys the thread with the goroutine. A thread that was
// unlocked instead would go back to the pool still in the wrong namespace.
//
// The process's first thread can't be destroyed: it would stay in the
// namespace, keep it alive, and be what others see in /proc/PID/ns/net. If the
// goroutine happens to start there it holds that thread until another one has
// done the work, and gives it back untouched.
//
// fn returns an error because it cannot call t.Fatal: it runs on another
// goroutine, which Fatal would end without an answer.
func onThrowawayThread(fn func() error) error {
	answer := make(chan error, 1)
	go func() {
		err := errNoAnswer
		defer func() { answer <- err }()
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			err = onThrowawayThread(fn)
			runtime.UnlockOSThread()
			return
		}
		err = fn()
	}()
	return <-answer
}
