package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/containernetworking/cni/pkg/skel"

	"github.com/podwall/podwall/conf/netconf"
	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/queue"
)

// delArgs reads what a DEL needs. What is missing is left empty.
func delArgs(getenv func(string) string, stdin io.Reader, stderr io.Writer) *skel.CmdArgs {
	b, err := io.ReadAll(stdin)
	if err != nil {
		fmt.Fprintf(stderr, "podwall: DEL: read stdin: %v\n", err)
	}
	return &skel.CmdArgs{ContainerID: getenv("CNI_CONTAINERID"), IfName: getenv("CNI_IFNAME"), StdinData: b}
}

// del lets the daemon forget an attachment. It never fails: a runtime would keep
// the pod in Terminating, and the plugins before this one would never release
// its addresses. What goes wrong is a line on stderr.
func (p *plugin) del(args *skel.CmdArgs) {
	k := api.Key{ContainerID: args.ContainerID, Interface: args.IfName}
	// Also a configuration with errors says where the daemon is, or implies it.
	c, err := netconf.Parse(args.StdinData)
	if err == nil {
		err = p.forget(c.Socket, k)
	} else {
		err = errors.Join(err, p.forget(c.Socket, k))
	}
	if err != nil {
		p.warn(fmt.Errorf("DEL: %w", err))
	}
}

// forget tells the daemon, or else the queue.
func (p *plugin) forget(socket string, k api.Key) error {
	ctx, cancel := within(p.delPeriod)
	defer cancel()
	err := api.Client{Socket: socket}.Call(ctx, api.VerbDel, k, nil, nil)
	switch {
	case err == nil, errors.Is(err, api.ErrNotFound):
		return nil
	case errors.Is(err, api.ErrInvalid) && !errors.Is(err, api.ErrVersion):
		return err // and would be refused from the queue too
	}
	if qerr := queue.Push(queue.Dir(socket), k); qerr != nil {
		return errors.Join(err, qerr)
	}
	return nil
}
