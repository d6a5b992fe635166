package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/podwall/podwall/conf/netconf"
	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/nft"
	"github.com/podwall/podwall/internal/queue"
	"github.com/podwall/podwall/internal/ruleset"
)

// A plugin answers the CNI verbs. Its fields are what it touches outside its own
// memory, besides the files and the socket that its input names.
type plugin struct {
	apply     func(netns int, iface string, rs ruleset.RuleSet, last *nft.Known) (nft.Known, bool, error)
	stdout    io.Writer
	stderr    io.Writer
	patience  time.Duration // for a whole call
	handover  time.Duration // for a daemon that is not there to be followed by another
	delPeriod time.Duration // for telling the daemon of a DEL, which must not keep a pod from going
}

// A call is an ADD or a CHECK, read and checked.
type call struct {
	conf       netconf.Conf
	previous   previous
	attachment api.Attachment
	netns      *os.File
}

// parse reads a call. The caller closes its netns.
func parse(args *skel.CmdArgs) (*call, error) {
	c, err := netconf.Parse(args.StdinData)
	if err != nil {
		return nil, err
	}
	prev, err := parsePrevious(&c)
	if err != nil {
		return nil, err
	}
	id, err := parseArgs(args.Args)
	if err != nil {
		return nil, &envError{"CNI_ARGS", err}
	}
	if id.namespace == "" {
		id.namespace = c.Namespace
	}
	netns, err := openNetns(args.Netns)
	if err != nil {
		return nil, &envError{"CNI_NETNS", err}
	}
	return &call{conf: c, previous: prev, netns: netns, attachment: api.Attachment{
		Key:       api.Key{ContainerID: args.ContainerID, Interface: args.IfName},
		Netns:     args.Netns,
		Network:   c.Network,
		Namespace: id.namespace,
		Name:      id.name,
		UID:       id.uid,
		Addresses: prev.addresses(args.IfName),

		RawSockets: c.RawSockets == netconf.RawAllow,
	}}, nil
}

// within returns a context for one call: CNI gives none.
func within(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), d)
}

// add gives the attachment its rules and prints the previous plugin's result.
func (p *plugin) add(args *skel.CmdArgs) error {
	c, err := parse(args)
	if err != nil {
		return cniError(err, types.ErrTryAgainLater)
	}
	defer c.netns.Close()
	err = p.install(c)
	if errors.Is(err, api.ErrUnavailable) && c.conf.FailurePolicy == netconf.Open {
		p.warn(fmt.Errorf("%s starts without a firewall, by failurePolicy open: %w", c.attachment.Pod(), err))
		err = nil
	}
	if err == nil {
		_, err = p.stdout.Write(c.previous.output)
	}
	return cniError(err, types.ErrTryAgainLater)
}

// install has the conversation with the daemon that package api describes.
func (p *plugin) install(c *call) error {
	// An earlier DEL of this attachment may still wait for the daemon. It must not
	// be taken for one of what is added now.
	if err := queue.Cancel(queue.Dir(c.conf.Socket), c.attachment.Key); err != nil {
		return err
	}
	ctx, cancel := within(p.patience)
	defer cancel()
	adding, err := p.begin(ctx, c)
	if err != nil {
		return err
	}
	defer adding.Close()
	start := time.Now()
	now, _, err := p.apply(int(c.netns.Fd()), c.attachment.Interface, adding.Rules, nil)
	if err != nil {
		return &applyError{c.attachment, err}
	}
	return adding.Applied(ctx, api.Applied{
		Epoch: now.Epoch, Generation: now.Generation, Others: now.Others, Took: time.Since(start),
	})
}

// askAgain is how often an ADD looks whether there is a daemon.
const askAgain = 50 * time.Millisecond

// begin asks the daemon for rules. One that is being replaced by a newer one is away
// for a moment, in which no pod needs to be refused.
func (p *plugin) begin(ctx context.Context, c *call) (*api.Adding, error) {
	for end := time.Now().Add(p.handover); ; time.Sleep(askAgain) {
		adding, err := api.Client{Socket: c.conf.Socket}.Add(ctx, c.attachment, c.netns)
		var refusal *api.Error
		if !errors.Is(err, api.ErrUnavailable) || errors.As(err, &refusal) || ctx.Err() != nil || time.Until(end) < askAgain {
			return adding, err
		}
	}
}

// check asks the daemon whether the kernel holds what it should.
func (p *plugin) check(args *skel.CmdArgs) error {
	c, err := parse(args)
	if err != nil {
		return cniError(err, types.ErrTryAgainLater)
	}
	defer c.netns.Close()
	ctx, cancel := within(p.patience)
	defer cancel()
	err = api.Client{Socket: c.conf.Socket}.Call(ctx, api.VerbCheck, c.attachment, nil, c.netns)
	return cniError(err, types.ErrTryAgainLater)
}

// gc tells the daemon which attachments of the network still exist.
func (p *plugin) gc(args *skel.CmdArgs) error {
	c, err := netconf.Parse(args.StdinData)
	if err == nil && c.Valid == nil {
		// An absent list is not an empty one, which would forget every pod.
		err = c.Err("cni.dev/valid-attachments", errors.New("missing: want the attachments that exist"))
	}
	if err != nil {
		return cniError(err, types.ErrTryAgainLater)
	}
	valid := make([]api.Key, 0, len(c.Valid))
	for _, a := range c.Valid {
		valid = append(valid, api.Key{ContainerID: a.ContainerID, Interface: a.IfName})
	}
	ctx, cancel := within(p.patience)
	defer cancel()
	err = api.Client{Socket: c.Socket}.Call(ctx, api.VerbGC, api.GC{Network: c.Network, Valid: valid}, nil, nil)
	return cniError(err, types.ErrTryAgainLater)
}

// status fails while ADD can't work.
func (p *plugin) status(args *skel.CmdArgs) error {
	c, err := netconf.Parse(args.StdinData)
	if err == nil {
		ctx, cancel := within(p.patience)
		defer cancel()
		err = api.Client{Socket: c.Socket}.Call(ctx, api.VerbReady, nil, nil, nil)
	}
	return cniError(err, types.ErrPluginNotAvailable)
}

// warn writes one line for the runtime's log.
func (p *plugin) warn(err error) { fmt.Fprintf(p.stderr, "podwall: %s\n", oneLine(err)) }
