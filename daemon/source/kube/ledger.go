package kube

import (
	"context"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/podwall/podwall/daemon/source"
	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/policy"
)

const (
	// patience is how long the API server may say nothing at the start, and atLongest
	// how long it may take to be read, before what an earlier run stored counts.
	patience  = 5 * time.Second
	atLongest = 30 * time.Second
	// confirmAgain is how soon a question that got no answer is asked again.
	confirmAgain = time.Second
	// part is how many objects may gather at the start before they are published.
	part = 4096
	// reading is why they are not enough to go by.
	reading = "the cluster is being read"
)

// A ledger gathers what the mirrors see, and publishes it.
type ledger struct {
	files Files
	log   *slog.Logger
	// terminating asks the API server whether a namespace is being deleted, or is
	// not known to be anything else.
	terminating func(ctx context.Context, namespace string) (bool, error)
	faults      func() []api.Problem // of the connection
	kick        chan struct{}        // holds one token while there may be something to publish
	urgent      chan struct{}        // holds one token while something is awaited

	saving           sync.Mutex // held while objects are stored; taken before mu
	mu               sync.Mutex // guards what follows, and the mirrors
	mirrors          []*mirror
	news             map[object]any       // not published yet; nil is gone
	since            time.Time            // of the oldest news
	withdrawn        map[policy.Name]bool // NetworkPolicies that are gone, if their namespaces are not terminating
	asked            time.Time            // when it was tried to find that out, in vain
	listing          time.Time            // when an object of a list came last
	begun            bool                 // something that says anything was published
	parts            bool                 // so were objects, before or since
	restored         time.Time            // when what was restored had been stored; zero if nothing was
	earlier          map[object]uint64    // the sums of what an earlier run stored and nobody has spoken of yet
	unsaved          map[object][]byte    // contents; nil is gone
	awaited          map[object]bool      // of these and of what is being saved, what is not published before it was tried
	unsavable        string               // why it could not be stored
	noted, published uint64               // how many news there were, and how many are published
	advance          chan struct{}        // closed, and replaced, when published moves
	said             []api.Problem        // of the connection, in the log
	last             source.Update        // as it was published, without its objects
}

// An object is one of a kind.
type object struct {
	kind string
	policy.Name
}

func newLedger(files Files, log *slog.Logger) *ledger {
	return &ledger{
		files: files, log: log,
		kick:      make(chan struct{}, 1),
		urgent:    make(chan struct{}, 1),
		news:      map[object]any{},
		withdrawn: map[policy.Name]bool{},
		unsaved:   map[object][]byte{},
		awaited:   map[object]bool{},
		earlier:   map[object]uint64{},
		advance:   make(chan struct{}),
	}
}

// mirror makes a mirror of k.
func (l *ledger) mirror(k kind) *mirror {
	m := &mirror{kind: k, ledger: l, entries: map[policy.Name]entry{}, problems: map[policy.Name][]api.Problem{}, ahead: map[policy.Name]uint64{},
		kept: map[policy.Name]*item{}, ends: map[string]bool{}}
	l.mirrors = append(l.mirrors, m)
	return m
}

// wake asks for a look at what may be published.
func (l *ledger) wake() { ask(l.kick) }

// ask puts a token where there is none.
func ask(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default: // it was asked for already
	}
}

// note takes in that an object is i now or, if that is nil, gone; and whether Files
// has it so. l.mu is held.
func (l *ledger) note(o object, i *item, saved bool) {
	var value any
	var content []byte
	if i != nil {
		value, content = i.value, i.content
	}
	if len(l.news) == 0 {
		l.since = time.Now()
	}
	l.news[o] = value
	l.noted++
	if l.files != nil && !saved {
		l.unsaved[o] = content
		if o.first() {
			l.awaited[o] = true
			ask(l.urgent)
		}
	}
	l.wake()
}

// waiting says for how long news have waited to be published.
func (l *ledger) waiting(now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.news) == 0 || !l.begun {
		return 0
	}
	return now.Sub(l.since)
}

// run publishes until ctx ends.
func (l *ledger) run(ctx context.Context, publish func(source.Update)) error {
	start := time.Now()
	late := time.NewTimer(patience)
	defer late.Stop()
	again := time.NewTimer(0)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-l.kick: // there may be news
		case <-late.C: // what was stored may have to do
			late.Reset(time.Second) // or a second later
		case <-again.C: // a question had no answer
		}
		if !l.confirm(ctx) {
			again.Reset(confirmAgain)
		}
		l.next(l.late(start, time.Now()), publish)
	}
}

// late reports whether the API server, which has been read since start, was given
// time enough.
func (l *ledger) late(start, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return now.Sub(start) >= patience && now.Sub(l.listing) >= patience || now.Sub(start) >= atLongest
}

// next publishes what there is to be published. At the start that waits for the
// disk, if need be; later only what is awaited does, which comes next time.
func (l *ledger) next(late bool, publish func(source.Update)) {
	if l.missing(late) {
		l.recall(publish)
	}
	l.mu.Lock()
	starts := !l.begun
	l.mu.Unlock()
	if u, upTo, ok := l.take(late); ok {
		if starts {
			l.saveFirst()
		}
		publish(u)
		l.reached(upTo)
	}
}

// take returns what is to be published, and how many news that covers.
func (l *ledger) take(late bool) (u source.Update, upTo uint64, ok bool) {
	faults := l.faults()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.say(faults)
	if !l.begun && !l.mayBegin(late || len(faults) > 0) {
		return l.takePart(faults)
	}
	starts := !l.begun
	u.Whole, l.begun, l.parts = starts && !l.parts, true, true
	u.Objects, u.Problems = l.count(), l.problems(faults)
	wait := l.waits(starts)
	if len(l.news) == len(wait) && !u.Whole && !l.differs(u) {
		return u, 0, false
	}
	l.differs(u)
	l.give(&u, wait)
	if len(wait) > 0 {
		return u, 0, true
	}
	return u, l.noted, true
}

// waits returns the news that are not to be published yet: what is awaited and, since
// a rule may say who is no peer by the labels of its namespace, the pods of a
// namespace that is. l.mu is held.
func (l *ledger) waits(starts bool) map[object]any {
	if starts || len(l.awaited) == 0 {
		return nil
	}
	wait := map[object]any{}
	for o, v := range l.news {
		in := object{namespaceKind, policy.Name{Name: o.Namespace}}
		if l.awaited[o] || o.kind == podKind && v != nil && l.awaited[in] {
			wait[o] = v
		}
	}
	return wait
}

// takeFull is takePart when enough has gathered.
func (l *ledger) takeFull() (u source.Update, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.news) < part {
		return u, false
	}
	u, _, ok = l.takePart(nil)
	return u, ok
}

// takePart is take while not enough is known to be published as a world: it says
// why, and gives away what has gathered so that it does not become too much.
// l.mu is held.
func (l *ledger) takePart(faults []api.Problem) (u source.Update, upTo uint64, ok bool) {
	u.Whole, u.Unknown, u.Problems = !l.parts, reading, l.problems(faults)
	if len(faults) > 0 {
		u.Unknown = faults[0].String()
	}
	if len(l.news) < part {
		return u, 0, len(faults) > 0 && l.differs(u)
	}
	l.differs(u)
	l.parts, u.Objects = true, l.count()
	l.give(&u, nil)
	return u, 0, true
}

// give puts the news into u, but for those that wait. l.mu is held.
func (l *ledger) give(u *source.Update, wait map[object]any) {
	for o, v := range l.news {
		if _, waits := wait[o]; !waits {
			add(&u.Change, o, v)
		}
	}
	if u.Whole {
		u.Gone = policy.Gone{}
	}
	if l.news = wait; wait == nil {
		l.news = map[object]any{}
	}
}

// say logs what is wrong with the connection, each thing once. l.mu is held.
func (l *ledger) say(faults []api.Problem) {
	for _, f := range faults {
		if !slices.Contains(l.said, f) {
			l.log.Warn("API server", "resource", f.Field, "problem", f.Message)
		}
	}
	if len(faults) == 0 && len(l.said) > 0 {
		l.log.Info("API server: nothing is wrong any more")
	}
	l.said = faults
}

// mayBegin reports whether enough is known to be published: everything as it is
// or, if that is not to be had, as it was.
func (l *ledger) mayBegin(away bool) bool {
	for _, m := range l.mirrors {
		if !m.listed {
			return away && !l.restored.IsZero() && len(l.earlier) == 0
		}
	}
	return true
}

// differs reports whether u says anything else than the last Update did, objects
// aside, and remembers it.
func (l *ledger) differs(u source.Update) bool {
	if reflect.DeepEqual(l.last.Problems, u.Problems) && l.last.Unknown == u.Unknown {
		return false
	}
	l.last.Problems, l.last.Unknown = u.Problems, u.Unknown
	return true
}

// reached notes that the first n news are published.
func (l *ledger) reached(n uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n > l.published {
		l.published = n
		close(l.advance)
		l.advance = make(chan struct{})
	}
}

// waitFor returns when the first n news are published, or when ctx has ended.
func (l *ledger) waitFor(ctx context.Context, n uint64) error {
	for {
		l.mu.Lock()
		reached, next := l.published >= n, l.advance
		l.mu.Unlock()
		if reached {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-next: // more is published
		}
	}
}

// count counts objects by kind. l.mu is held.
func (l *ledger) count() map[string]int {
	n := map[string]int{}
	for _, m := range l.mirrors {
		n[m.name] += len(m.entries)
	}
	return n
}

// add puts an object, or that it is gone, into c.
func add(c *policy.Change, o object, value any) {
	switch v := value.(type) {
	case policy.Namespace:
		c.Set.Namespaces = append(c.Set.Namespaces, v)
	case policy.Node:
		c.Set.Nodes = append(c.Set.Nodes, v)
	case policy.Pod:
		c.Set.Pods = append(c.Set.Pods, v)
	case policy.Service:
		c.Set.Services = append(c.Set.Services, v)
	case policy.EndpointSlice:
		c.Set.Slices = append(c.Set.Slices, v)
	case policy.Policy:
		c.Set.Policies = append(c.Set.Policies, v)
	default:
		remove(&c.Gone, o)
	}
}
