package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// A Cluster is one that runs.
type Cluster struct {
	Config
	Control *Machine // etcd, API server, controller manager, scheduler
	Nodes   []*Node

	tools Tools
	name  string // of its directories
	pki   *pki

	mu     sync.Mutex
	places map[string]place // of pods, by namespace/name
}

// startLimit is how long Until waits.
const startLimit = 90 * time.Second

// Up makes a cluster and returns when its nodes are ready and, as the Config
// says, podwall enforces on them. What it took down again on error has left its
// logs.
func Up(ctx context.Context, config Config) (*Cluster, error) {
	config = config.withDefaults()
	if err := config.check(); err != nil {
		return nil, err
	}
	root, err := Repository()
	if err != nil {
		return nil, err
	}
	if config.Product == "" {
		config.Product = root
	}
	tools := toolsOf(root)
	if err := tools.sweep(); err != nil {
		return nil, fmt.Errorf("clean up after a cluster that was killed: %w", err)
	}
	c := &Cluster{Config: config, tools: tools, name: fmt.Sprintf("%s-%d", time.Now().Format("150405"), os.Getpid()),
		places: make(map[string]place)}
	if err := c.up(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("cluster up: %w (logs in %s)", err, c.Logs()), c.KeepLogs(ctx, "up"), c.Down())
	}
	return c, nil
}

func (c *Cluster) up(ctx context.Context) error {
	if err := os.MkdirAll(c.Logs(), 0o755); err != nil {
		return err
	}
	var err error
	if c.pki, err = newPKI(filepath.Join(c.dir(), "pki")); err != nil {
		return err
	}
	c.Control = c.machine("control", "/var/lib/etcd")
	if err := c.Control.PowerOn(); err != nil {
		return err
	}
	if err := c.wireControl(ctx); err != nil {
		return err
	}
	if err := c.startControl(ctx); err != nil {
		return err
	}
	for i := range c.Config.Nodes {
		c.Nodes = append(c.Nodes, &Node{Machine: c.machine(fmt.Sprintf("node%d", i+1), onNodeDisk...), Index: i + 1, cluster: c})
	}
	for _, n := range c.Nodes {
		if err := n.Boot(ctx); err != nil {
			return err
		}
	}
	if err := c.installPodwall(ctx); err != nil {
		return err
	}
	return c.Ready(ctx)
}

func (c *Cluster) machine(name string, keep ...string) *Machine {
	return &Machine{Name: name, tools: c.tools, disk: filepath.Join(c.dir(), name), logs: c.Logs(), keep: keep,
		shown: []string{string(c.tools), c.Product}}
}

// dir is on a real disk: a container's root can't be an overlay on an overlay.
func (c *Cluster) dir() string { return filepath.Join(string(c.tools), "run", c.name) }

// Logs is the directory with the output of every program.
func (c *Cluster) Logs() string { return filepath.Join(string(c.tools), "logs", c.name) }

// cgroup is the kubelet's root, of a name that no other cluster has.
func (c *Cluster) cgroup(n *Node) string { return "podwall-" + c.name + "-" + n.Name }

// Ready waits until every node is ready.
func (c *Cluster) Ready(ctx context.Context) error {
	return c.Until(ctx, "nodes are ready", func(ctx context.Context) error {
		said, err := c.Kubectl(ctx, "get", "nodes", "-o", `jsonpath={range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{" "}{end}`)
		if err != nil {
			return err
		}
		if ready := strings.Count(said, "True"); ready != len(c.Nodes) {
			return fmt.Errorf("%d of %d", ready, len(c.Nodes))
		}
		return nil
	})
}

// Down ends everything and removes what the cluster kept on disk, but not its
// logs. Again is harmless.
func (c *Cluster) Down() error {
	var errs []error
	for _, n := range c.Nodes {
		errs = append(errs, n.PowerOff(), removeCgroup(c.cgroup(n)))
	}
	if c.Control != nil {
		errs = append(errs, c.Control.PowerOff())
	}
	return errors.Join(append(errs, os.RemoveAll(c.dir()))...)
}

// KeepLogs adds the logs of the pods there are, and the Events, to those of the
// cluster's programs, below the name of an occasion.
func (c *Cluster) KeepLogs(ctx context.Context, occasion string) error {
	dir := filepath.Join(c.Logs(), occasion)
	errs := []error{os.MkdirAll(dir, 0o755)}
	for _, n := range c.Nodes {
		pods := filepath.Join(n.disk, "/var/log/pods")
		if _, err := os.Stat(pods); err == nil {
			errs = append(errs, os.CopyFS(filepath.Join(dir, n.Name+"-pods"), os.DirFS(pods)))
		}
	}
	if c.Control != nil && c.Control.Running("apiserver") {
		events, err := c.Kubectl(ctx, "get", "events", "-A", "--sort-by=.metadata.creationTimestamp", "-o", "yaml")
		errs = append(errs, err, os.WriteFile(filepath.Join(dir, "events.yaml"), []byte(events), 0o644))
	}
	return errors.Join(errs...)
}

// Until calls try until it returns nil, for up to 90 seconds. Its error names
// what was waited for and what stood in the way last.
func (c *Cluster) Until(ctx context.Context, what string, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: %w", what, err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// Tool is the path of a program that parts or Prepare built.
func (c *Cluster) Tool(name string) string { return c.tools.Path(name) }
