package integration

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"github.com/podwall/podwall/integration/lab"
)

// adopted lets shop/friend in to shop/web, and shop/web out to shop/pal.
const adopted = `
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: pal, labels: {app: pal}}
spec: {containers: [{name: main}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web, labels: {app: web}}
spec: {containers: [{name: main}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: web-out}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Egress]
  egress:
  - to: [{podSelector: {matchLabels: {app: pal}}}]
`

// Pods that ran before podwall came are adopted: libcni remembers them. What they
// have open and may have stays open, whoever opened it; the rest is closed.
func TestAdoption(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	must(t, n.WriteManifest("deny.yaml", denyShop))
	must(t, n.WriteManifest("web.yaml", adopted))
	bare := n.Network().WithChain()
	add := func(namespace, name string) *lab.Sandbox {
		sb := newSandbox(t, n, namespace, name)
		must(t, n.Add(t.Context(), bare, sb, "eth0"))
		serve(t, sb.Netns, sb.Addrs, 80)
		return sb
	}
	hood := &neighbourhood{Node: n, friend: add("shop", "friend"), stranger: add("other", "stranger")}
	web, pal := add("shop", "web"), add("shop", "pal")
	hood.reached(t, web, true)
	in := newTalk(t, tcp(hood.friend, web, true))
	out := newTalk(t, tcp(web, pal, true))
	bad := newTalk(t, tcp(hood.stranger, web, false))
	worse := newTalk(t, tcp(web, hood.stranger, false))

	must(t, n.Start(t.Context()))
	hood.guarded(t, web)
	expect(t, tcp(web, hood.stranger, false), tcp(web, hood.friend, false))
	for name, k := range map[string]*talk{"friend to web": in, "web to pal": out} {
		if err := k.say(); err != nil {
			t.Errorf("open connection from %s: %v", name, err)
		}
	}
	for name, k := range map[string]*talk{"stranger to web": bad, "web to stranger": worse} {
		if err := k.say(); err == nil {
			t.Errorf("open connection from %s still works", name)
		}
	}
	mustKnow(t, n, web, "eth0")

	// Its DEL goes through the chain it was added with, without podwall.
	must(t, n.Del(t.Context(), bare, web, "eth0"))
	must(t, web.Delete())
	mustKnow(t, n, web)
}

// A talk is an open connection to a port that echoes.
type talk struct{ conn net.Conn }

func newTalk(t *testing.T, e lab.Expectation) *talk {
	t.Helper()
	k := &talk{}
	eventually(t, func() (err error) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		k.conn, err = e.Dial(ctx)
		return err
	})
	t.Cleanup(func() { _ = k.conn.Close() })
	must(t, k.say())
	return k
}

// say sends a word and waits for its echo.
func (k *talk) say() error {
	if err := k.conn.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return err
	}
	if _, err := k.conn.Write([]byte("podwall")); err != nil {
		return err
	}
	_, err := io.ReadFull(k.conn, make([]byte, len("podwall")))
	return err
}
