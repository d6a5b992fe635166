package attack

import (
	"cmp"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/podwall/podwall/integration/attack/intruder"
)

// An attack is something that an intruder does to get a packet out of its pod.
type attack struct {
	name   string // as docs/threat-model.md has it
	needs  []int  // capabilities
	far    bool   // its packets go to the world, not to the neighbour
	toNode bool   // its packets may reach the node, but no further
	damage bool   // changes the pod: each time wants a new one
	told   string // what podwalld says of it in its log, if it can't stop it but sees it
	act    func(f *field, p *pod, token []byte) intruder.Act
}

// wage makes each attack: without podwall until it succeeds, then in a protected
// pod of each of the namespaces, where nothing of it may leave.
func wage(t *testing.T, f *field, attacks []attack, namespaces ...string) {
	held := map[string]*pod{}
	for _, ns := range namespaces {
		held[ns] = f.protected(t, ns)
	}
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			t.Parallel()
			a.succeed(t, f, "without podwall the attack does not succeed either", func() *pod {
				if a.damage {
					return f.unprotected(t)
				}
				return f.free
			})
			for _, ns := range namespaces {
				p := held[ns]
				if a.damage {
					p = f.protected(t, ns)
				}
				a.fail(t, f, p)
			}
		})
	}
}

// target is the tap where the attack arrives.
func (a attack) target(f *field) *tap {
	if a.far {
		return f.beyond
	}
	return f.there
}

// succeed makes the attack in a pod until it arrives; complaint says what it means
// if it never does. A device that just came up may lose what is sent, so it is
// sent again; where a script sends, that takes another pod.
func (a attack) succeed(t *testing.T, f *field, complaint string, another func() *pod) {
	t.Helper()
	token := newToken()
	p := another()
	act := a.act(f, p, token)
	eventually(t, func() error {
		err := p.act(t, act, a.needs)
		if arrives(a.target(f), token) {
			return nil
		}
		if len(act.Sends) > 0 {
			act.Script = "" // what it changed stays so
		} else {
			p = another()
			act = a.act(f, p, token)
		}
		return fmt.Errorf("%s: %w", complaint, cmp.Or(err, errSilence))
	})
}

// fail makes the attack, and sends three times; nothing may leave the pod, also
// once podwalld has seen what the attack changed.
func (a attack) fail(t *testing.T, f *field, p *pod) {
	t.Helper()
	token := newToken()
	act := a.act(f, p, token)
	var refused error
	for range 3 {
		refused = errors.Join(refused, p.act(t, act, a.needs))
		act.Script = again(act)
		if a.damage {
			time.Sleep(silence)
		}
	}
	time.Sleep(silence)
	at := f.here
	if a.toNode {
		at = a.target(f)
	}
	if n := at.saw(token); n > 0 {
		t.Errorf("%s: %d frames got out, want none; to the intruder the kernel said: %v", p.Pod(), n, refused)
	}
}

// again is what to do before sending once more: what a script changed stays so.
func again(a intruder.Act) string {
	if len(a.Sends) > 0 {
		return ""
	}
	return ":" // the script itself sent, several times
}

// silence is how long one waits for what must not come. Within one machine
// packets take microseconds.
const silence = 100 * time.Millisecond

// arrives waits a moment for a token.
func arrives(tp *tap, token []byte) bool {
	for end := time.Now().Add(silence); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if tp.saw(token) > 0 {
			return true
		}
	}
	return false
}

// errSilence says that nothing came and that the kernel refused nothing.
var errSilence = errors.New("nothing arrives")
