package reconcile

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/podwall/podwall/daemon/bypass"
	"github.com/podwall/podwall/daemon/source"
	"github.com/podwall/podwall/daemon/store"
	"github.com/podwall/podwall/daemon/tamper"
	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/nft"
	"github.com/podwall/podwall/internal/policy"
	"github.com/podwall/podwall/internal/ruleset"
)

// A Store keeps what must outlive the daemon.
type Store interface {
	// Save stores records and forgets keys, durably: all or, on error, nothing.
	Save(put []store.Record, gone []api.Key) error
}

// A Kernel is what the Keeper needs of the kernel, by packages nft and bypass.
type Kernel struct {
	Apply      func(netns int, iface string, rs ruleset.RuleSet, last *nft.Known) (nft.Known, bool, error)
	Check      func(netns int, iface string, known nft.Known) ([]string, uint32, error)
	Counters   func(netns int) (map[string]nft.Count, error)
	Generation func(netns int) (uint32, error)
	Own        func(netns int, generation uint32) (Owner, uint32, error)
	// Bypass says how traffic of the interface goes past the rules in its
	// namespace, or nothing. Without it nobody looks.
	Bypass func(netns int, iface string) (string, error)
	// Index is the index of an interface. Without it nobody asks whether that is
	// the device it was.
	Index func(netns int, iface string) (int, error)
	// Name is the name of the interface with an index. Without it nobody says what
	// a device is called now.
	Name func(netns, index int) (string, error)
	// NamespaceID is the id by which changes in a namespace are heard. Without it
	// nobody listens.
	NamespaceID func(netns int) (int32, error)
	// NoGuard says that this kernel has no hook at the egress of a device, NoOwner
	// that tables can't belong to one process and outlive it.
	NoGuard, NoOwner bool
	// NoLog says that it can't hand packets to a process.
	NoLog bool
	// Volume is what an interface has received and sent. Without it nobody knows.
	Volume func(netns int, iface string) (received, sent nft.Count, err error)
}

// RealKernel is the kernel that this process runs on.
var RealKernel = Kernel{Apply: nft.Apply, Check: nft.Check, Counters: nft.Counters, Generation: nft.Generation, Own: own,
	Bypass: bypass.Find, NamespaceID: tamper.NamespaceID, Index: nft.Index, Name: nft.Name, Volume: nft.Volume}

// A Keeper keeps the firewalls of this node's attachments. Its exported fields
// are set before the first call and not changed afterwards; its methods may be
// called from any goroutine.
type Keeper struct {
	Store  Store
	Kernel Kernel
	Log    *slog.Logger
	// Node is this node's name in the cluster.
	Node string
	// NodeAddresses returns the addresses that this node has right now.
	NodeAddresses func() ([]netip.Addr, error)
	// Parallel is how many namespaces are written to at once; at least 1.
	Parallel int
	// Observer is told what the Keeper does. New gives one that does not listen.
	Observer Observer
	// Listener hears what rules log. New gives one that does not listen.
	Listener Listener

	kick chan struct{} // holds one token while there is a version to work on
	late chan struct{} // holds one token while an ADD that has ended, or a round, left something to store

	ending sync.WaitGroup // of the last round's sockets; the rounds'

	storing    sync.Mutex // held while the store is written; taken before mu
	refreshing sync.Mutex // held while the node's addresses are read and noted; taken before mu

	mu                 sync.Mutex    // guards what follows
	world              *policy.World // what the source has said, as this node knows better
	locals             locals
	problems           []api.Problem // of the last Update, and what follows
	objects            map[string]int
	unknown            string
	synced             time.Time // of the last Update that was not Unknown; zero before the first
	attachments        map[api.Key]*attachment
	owners             map[store.NetnsID]Owner
	leaving            map[store.NetnsID]*leaving
	version            uint64        // of everything that rule sets depend on
	done               uint64        // the version that the last round reached
	roundDone          chan struct{} // closed, and replaced, at the end of each round
	dirty, taken       time.Time     // of the oldest change that no round has taken, and that the present one has
	nodeAddrs          []netip.Addr
	own                ownAddrs
	nodeEgressByPolicy bool
	protection         Protection
	logging            ruleset.Logging
	batch              *batch    // that may still be joined; nil is a new one
	deaf               bool      // nothing is heard from namespaces
	owed               []api.Key // that the store does not have as they are
	digests            digests
}

// New returns a Keeper without attachments, for its fields to be set.
func New() *Keeper {
	return &Keeper{
		Parallel:    8,
		Observer:    deaf{},
		Listener:    deaf{},
		kick:        make(chan struct{}, 1),
		late:        make(chan struct{}, 1),
		world:       policy.New(policy.Snapshot{}),
		locals:      newLocals(),
		attachments: map[api.Key]*attachment{},
		owners:      map[store.NetnsID]Owner{},
		leaving:     map[store.NetnsID]*leaving{},
		roundDone:   make(chan struct{}),
	}
}

// changed says that something rule sets depend on is different now. k.mu is held.
func (k *Keeper) changed() {
	k.version++
	k.dirtied()
	k.wake()
}

// wake asks for a round.
func (k *Keeper) wake() { ask(k.kick) }

// ask puts a token where there is none.
func ask(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default: // it was asked for already
	}
}

// Update takes in what the source says, for the next round on. None may be left
// out. What is Unknown is not enforced: ADD waits for an Update that is not.
func (k *Keeper) Update(u source.Update) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if u.Whole {
		u.Gone = k.world.Beyond(u.Set)
	}
	k.world.Apply(u.Change)
	k.learn(u.Change)
	k.problems, k.objects, k.unknown = u.Problems, u.Objects, u.Unknown
	if u.Unknown == "" {
		k.synced = time.Now()
	}
	k.changed()
}

// SetNodeEgress says whether traffic from pods to their own node is subject to
// policy. Otherwise it always passes.
func (k *Keeper) SetNodeEgress(byPolicy bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.nodeEgressByPolicy != byPolicy {
		k.nodeEgressByPolicy = byPolicy
		k.changed()
	}
}

// Restore takes over the attachments of an earlier run of the daemon. The
// kernel is not touched: the first round looks at what stands there.
func (k *Keeper) Restore(records []store.Record) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, r := range records {
		k.attach(&attachment{record: r, stored: r, restored: true, status: pending(r, "the daemon has just started")})
	}
	k.changed()
}

// notSynced is what ADD gets before the source has delivered, nil afterwards.
// k.mu is held.
func (k *Keeper) notSynced() error {
	switch {
	case !k.synced.IsZero():
		return nil
	case k.unknown != "":
		return api.Errorf(api.CodeUnavailable, "podwalld knows no policies yet: %s", k.unknown)
	}
	return api.Errorf(api.CodeUnavailable, "podwalld has not read its policies yet")
}

// Synced returns an error that says what is missing until the source has
// spoken and a round has brought every attachment up to it.
func (k *Keeper) Synced() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.notSynced(); err != nil {
		return err
	}
	if k.done == 0 {
		return api.Errorf(api.CodeUnavailable, "podwalld is still looking at the pods that were here before it")
	}
	return nil
}

// Run makes a round whenever something changed, until ctx ends. Then it stores what
// is not stored yet.
func (k *Keeper) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			k.store()
			return nil
		case <-k.kick: // something changed
			k.round(ctx)
		}
	}
}

// WaitReady blocks until ADD works or ctx ends, which is an error then.
func (k *Keeper) WaitReady(ctx context.Context) error { return k.waitFor(ctx, 1) }

// waitFor blocks until a round has reached version v or ctx ends.
func (k *Keeper) waitFor(ctx context.Context, v uint64) error {
	for {
		k.mu.Lock()
		reached, next := k.done >= v, k.roundDone
		k.mu.Unlock()
		if reached {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the other pods' rules: %w", ctx.Err())
		case <-next: // a round has ended
		}
	}
}

// Refresh reads the node's addresses again and, if they changed, starts a round.
func (k *Keeper) Refresh() error {
	k.refreshing.Lock() // else an older list could be noted after a newer one
	defer k.refreshing.Unlock()
	addrs, err := k.NodeAddresses()
	if err != nil {
		return fmt.Errorf("list the node's addresses: %w", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if !sameAddrs(k.nodeAddrs, addrs) {
		k.Log.Info("the node's addresses changed", "addresses", addrs)
		k.nodeAddrs = addrs
		k.changed()
	}
	return nil
}
