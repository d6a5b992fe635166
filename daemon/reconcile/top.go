package reconcile

import (
	"golang.org/x/sync/errgroup"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/nft"
	"github.com/podwall/podwall/internal/ruleset"
)

// Top returns what the rules and the interface of each attachment have counted,
// in the order in which people read attachments. Those that can't be read are
// left out. It reads the kernel, Parallel namespaces at once.
func (k *Keeper) Top() []api.Traffic {
	k.mu.Lock()
	as := k.sorted()
	k.mu.Unlock()
	read := make([]*api.Traffic, len(as))
	var g errgroup.Group
	g.SetLimit(max(k.Parallel, 1))
	for i, a := range as {
		g.Go(func() error {
			read[i] = k.traffic(a)
			return nil
		})
	}
	_ = g.Wait() // what can't be read is nil
	list := []api.Traffic{}
	for _, t := range read {
		if t != nil {
			list = append(list, *t)
		}
	}
	return list
}

// traffic reads what one attachment has counted, or nothing.
func (k *Keeper) traffic(a *attachment) *api.Traffic {
	k.mu.Lock()
	known, record := a.known, a.record
	k.mu.Unlock()
	netns, err := k.open(a)
	if err != nil || known == nil {
		return nil
	}
	defer netns.Close()
	counts, err := k.Kernel.Counters(int(netns.Fd()))
	if err != nil {
		return nil
	}
	t := &api.Traffic{Attachment: record.Attachment, Audit: known.Rules.Audit, Hidden: hidden(record.Attachment, counts)}
	t.Rules, t.Dropped = rulesOf(record.Interface, known.Rules, counts)
	if k.Kernel.Volume != nil {
		received, sent, err := k.Kernel.Volume(int(netns.Fd()), record.Interface)
		if err != nil {
			return nil // the interface is gone
		}
		t.Received, t.Sent = api.Volume(received), api.Volume(sent)
	}
	return t
}

// hidden is what was beyond the limit of what an attachment's rules log.
func hidden(a api.Attachment, counts map[string]nft.Count) api.Hidden {
	return api.Hidden{Namespace: a.Namespace, Pod: a.Name, ContainerID: a.ContainerID, Interface: a.Interface,
		Drops:   counts[ruleset.HiddenCounter(a.Interface)].Packets + counts[ruleset.HiddenGuardCounter(a.Interface)].Packets,
		Accepts: counts[ruleset.HiddenAcceptsCounter(a.Interface)].Packets}
}
