package netnstest

import (
	"fmt"
	"testing"
	"time"
)

// deadline is how long what must become true may take. It is long because it
// costs nothing where the fact holds.
const deadline = 10 * time.Second

// Eventually calls fact until it returns nil. If it doesn't within ten seconds
// the test ends with its last error.
func Eventually(t testing.TB, fact func() error) {
	t.Helper()
	pause := time.Millisecond
	for end := time.Now().Add(deadline); ; pause = min(2*pause, 50*time.Millisecond) {
		err := fact()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not within %s: %v", deadline, err)
		}
		time.Sleep(pause)
	}
}

// A Flow is one way of reaching somewhere, for tests to try with and without a
// rule.
type Flow struct {
	From    *NS
	Network string // "tcp" or "udp"
	To      string // where an Echo listens
}

// String is for failures.
func (f Flow) String() string { return f.Network + " to " + f.To }

// MustPass tries f until it is answered, and ends the test if it never is.
func (f Flow) MustPass(t testing.TB) {
	t.Helper()
	Eventually(t, func() error { return f.be(Answered) })
}

// MustBe tries f once. A Silent that was not preceded by a MustPass of the same
// flow proves nothing; MustBlock does both.
func (f Flow) MustBe(t testing.TB, want Outcome) {
	t.Helper()
	if err := f.be(want); err != nil {
		t.Error(err)
	}
}

func (f Flow) be(want Outcome) error {
	got, err := f.From.Probe(f.Network, f.To)
	if err == nil && got != want {
		err = fmt.Errorf("%s is %s, want %s", f, got, want)
	}
	return err
}

// MustBlock shows that rule is what stops the flows: each passes, rule is put in
// place, and each is silent.
func MustBlock(t testing.TB, rule func(), flows ...Flow) {
	t.Helper()
	for _, f := range flows {
		f.MustPass(t)
	}
	rule()
	errs := make(chan error)
	for _, f := range flows {
		go func() { errs <- f.be(Silent) }()
	}
	for range flows {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}
