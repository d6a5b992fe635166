package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
)

// A Node is what an installer has to know of its node.
type Node struct {
	Labels  map[string]string
	Runtime string   // as containerd://2.3.7
	Taints  []string // their keys
}

// node is as much of the object as is read.
type node struct {
	Metadata struct {
		ResourceVersion string            `json:"resourceVersion"`
		Labels          map[string]string `json:"labels"`
	} `json:"metadata"`
	Spec struct {
		Taints []json.RawMessage `json:"taints"`
	} `json:"spec"`
	Status struct {
		NodeInfo struct {
			ContainerRuntimeVersion string `json:"containerRuntimeVersion"`
		} `json:"nodeInfo"`
	} `json:"status"`
}

// Node reads a node.
func (c *Client) Node(ctx context.Context, name string) (Node, error) {
	n, err := c.node(ctx, name)
	out := Node{Labels: n.Metadata.Labels, Runtime: n.Status.NodeInfo.ContainerRuntimeVersion}
	for _, t := range n.Spec.Taints {
		out.Taints = append(out.Taints, keyOf(t))
	}
	return out, err
}

func (c *Client) node(ctx context.Context, name string) (n node, err error) {
	err = c.get(ctx, question{"get", "nodes", name, http.MethodGet, "/api/v1/nodes/" + url.PathEscape(name), nil}, &n)
	return n, err
}

// keyOf is a taint's key.
func keyOf(taint json.RawMessage) string {
	var t struct{ Key string }
	_ = json.Unmarshal(taint, &t) // one without a key is somebody else's
	return t.Key
}

// tries bounds how often a node is read again because somebody else changed it.
const tries = 5

// Taint gives a node the taint key, with the effect NoSchedule, or takes it away
// whatever its effect. All other taints stay as they are, whoever changes them at
// the same time. It reports whether there was anything to do.
func (c *Client) Taint(ctx context.Context, name, key string, want bool) (changed bool, err error) {
	for range tries {
		var n node
		if n, err = c.node(ctx, name); err != nil {
			return false, err
		}
		taints, differ := with(n.Spec.Taints, key, want)
		if !differ {
			return false, nil
		}
		var patch struct {
			Metadata struct {
				ResourceVersion string `json:"resourceVersion"` // of what was read: else a conflict
			} `json:"metadata"`
			Spec struct {
				Taints []json.RawMessage `json:"taints"`
			} `json:"spec"`
		}
		patch.Metadata.ResourceVersion, patch.Spec.Taints = n.Metadata.ResourceVersion, taints
		err = c.get(ctx, question{"patch", "nodes", name, http.MethodPatch, "/api/v1/nodes/" + url.PathEscape(name), patch}, &n)
		if !errors.Is(err, errConflict) {
			return err == nil, err
		}
	}
	return false, err
}

// with returns taints with or without the one that has the key, and whether that
// makes a difference.
func with(taints []json.RawMessage, key string, want bool) (out []json.RawMessage, differ bool) {
	out = []json.RawMessage{}
	has := false
	for _, t := range taints {
		if keyOf(t) == key {
			has = true
			if !want {
				continue
			}
		}
		out = append(out, t)
	}
	if want && !has {
		quoted, err := json.Marshal(key)
		if err != nil {
			panic(err) // a string always has a JSON form
		}
		out = append(out, json.RawMessage(`{"key": `+string(quoted)+`, "effect": "NoSchedule"}`))
	}
	return out, has != want
}
