package integration

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/podwall/podwall/integration/lab"
	"github.com/podwall/podwall/internal/api"
)

// rounds is how often podwalld is killed.
const rounds = 200

// podwalld is killed at random instants: while it starts, while pods come and go,
// while policy changes. Whatever it was doing, once it is back every pod that was
// added has its rules, and no other is known.
func TestKilledAtRandomInstants(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	c := &chaos{rng: rand.New(rand.NewPCG(seed, 1)), node: startNode(t, denyShop), client: api.Client{}}
	c.client.Socket = c.node.Socket()
	c.friend = addPod(t, c.node, "shop", "friend")
	c.stranger = addPod(t, c.node, "other", "stranger")
	for range 4 {
		must(t, c.add(t.Context()))
	}
	must(t, c.node.Kill())
	for round := range rounds {
		c.upheaval(t)
		if err := c.right(t.Context(), round%10 == 0); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		must(t, c.node.Kill())
	}
	t.Logf("%d pods added, %d deleted, %d refused, %d policies written", c.added, c.deleted, c.refused, c.written)
	for _, did := range []int{c.added, c.deleted, c.written} { // an ADD waits for the next podwalld, so few are refused
		if did < rounds/10 {
			t.Errorf("did too little to prove anything")
		}
	}
}

// A chaos is a node in upheaval. Its fields are touched by one goroutine at a
// time, save for what mu guards.
type chaos struct {
	node             *lab.Node
	client           api.Client
	friend, stranger *lab.Sandbox

	mu                      sync.Mutex
	rng                     *rand.Rand
	live                    []*lab.Sandbox
	made                    int
	open                    bool // whether the last policy written lets strangers in
	added, deleted, refused int
	written                 int
	broken                  []error // what should not have happened
}

// upheaval starts podwalld and kills it at a random instant, while pods come and
// go and policy changes, and starts it again.
func (c *chaos) upheaval(t *testing.T) {
	t.Helper()
	must(t, c.node.Launch())
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() { c.churn(ctx) })
	}
	all.Go(func() { c.legislate(ctx) })
	time.Sleep(time.Duration(c.random(250)) * time.Millisecond)
	must(t, c.node.Kill())
	time.Sleep(time.Duration(c.random(40)) * time.Millisecond) // life goes on without it
	cancel()
	must(t, c.node.Start(t.Context())) // some ADDs are waiting for it
	all.Wait()
}

// random returns a number below n.
func (c *chaos) random(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rng.IntN(n)
}

// churn adds and deletes pods until ctx ends. A call that began is finished, as
// runtimes do.
func (c *chaos) churn(ctx context.Context) {
	for ctx.Err() == nil {
		work := context.WithoutCancel(ctx)
		if sb := c.take(); sb != nil {
			_ = c.del(work, sb) // an error is kept
		} else {
			_ = c.add(work) // refused while podwalld is away
		}
	}
}

// take removes a random pod from the living, or none if there are few.
func (c *chaos) take() *lab.Sandbox {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.live) < 3 || (len(c.live) < 8 && c.rng.IntN(2) == 0) {
		return nil
	}
	i := c.rng.IntN(len(c.live))
	sb := c.live[i]
	c.live = slices.Delete(c.live, i, i+1)
	return sb
}

// add adds a pod with a server in it.
func (c *chaos) add(ctx context.Context) error {
	c.mu.Lock()
	c.made++
	name := fmt.Sprintf("pod-%d", c.made%20) // names come again
	c.mu.Unlock()
	sb, err := c.node.AddPod(ctx, "shop", name)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.refused++
		return err
	}
	c.added++
	c.live = append(c.live, sb)
	if _, err = lab.Serve(sb.Netns, sb.Addrs, 80); err != nil {
		c.broken = append(c.broken, err)
	}
	return err
}

func (c *chaos) del(ctx context.Context, sb *lab.Sandbox) error {
	c.mu.Lock()
	c.deleted++
	c.mu.Unlock()
	err := c.node.DelPod(ctx, sb)
	if err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.broken = append(c.broken, err)
	}
	return err
}

// legislate changes policy until ctx ends.
func (c *chaos) legislate(ctx context.Context) {
	for ctx.Err() == nil {
		open := c.random(2) == 0
		policy := denyShop
		if open {
			policy = strings.ReplaceAll(denyShop, "  ingress:\n", "  ingress:\n  - from: [{namespaceSelector: {}}]\n")
		}
		if err := c.node.WriteManifest("0.yaml", policy); err == nil {
			c.mu.Lock()
			c.open = open
			c.written++
			c.mu.Unlock()
		}
		time.Sleep(time.Duration(5+c.random(60)) * time.Millisecond)
	}
}

// right waits until the daemon knows exactly the living pods, and each one's
// kernel is as the last policy says: by the daemon's own comparison and, if asked
// for, by packets.
func (c *chaos) right(ctx context.Context, packets bool) error {
	err := errors.Join(c.broken...)
	if err != nil {
		return err
	}
	for end := time.Now().Add(settling); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if err = c.known(ctx); err == nil {
			break
		}
	}
	if err != nil || !packets {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, settling)
	defer cancel()
	// Addresses come round again, and neighbours remember whose they were.
	for _, sb := range []*lab.Sandbox{c.friend, c.stranger} {
		if _, err := sb.RunErr("ip neigh flush dev eth0"); err != nil {
			return err
		}
	}
	var flows []lab.Expectation
	for _, sb := range c.live {
		flows = append(flows, tcp(c.friend, sb, true), tcp(c.stranger, sb, c.open))
	}
	return lab.Settle(ctx, flows)
}

// known returns an error unless the daemon's attachments are the living pods'
// and each is enforced, with the kernel in sync.
func (c *chaos) known(ctx context.Context) error {
	want := []string{c.friend.ID, c.stranger.ID}
	for _, sb := range c.live {
		want = append(want, sb.ID)
	}
	var pods []api.PodSummary
	if err := c.client.Call(ctx, api.VerbPods, nil, &pods, nil); err != nil {
		return err
	}
	var errs []error
	for _, p := range pods {
		i := slices.Index(want, p.ContainerID)
		if i < 0 {
			errs = append(errs, fmt.Errorf("attachment of %s is left over", p.Pod()))
			continue
		}
		want = slices.Delete(want, i, i+1)
		errs = append(errs, c.enforced(ctx, p))
	}
	for _, id := range want {
		errs = append(errs, fmt.Errorf("attachment %.12s is lost", id))
	}
	return errors.Join(errs...)
}

// enforced returns an error unless one attachment is.
func (c *chaos) enforced(ctx context.Context, p api.PodSummary) error {
	var all []api.Inspection
	if err := c.client.Call(ctx, api.VerbInspect, api.InspectRequest{Pod: p.ContainerID}, &all, nil); err != nil {
		return err
	}
	for _, i := range all {
		switch {
		case i.Status.State != api.StateEnforced:
			return fmt.Errorf("%s is %s: %s", p.Pod(), i.Status.State, i.Status.Message)
		case !i.Kernel.InSync:
			return fmt.Errorf("%s is not in sync: %v %s", p.Pod(), i.Kernel.Differences, i.Kernel.Error)
		}
	}
	return nil
}
