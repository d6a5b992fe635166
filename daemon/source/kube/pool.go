package kube

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"runtime"
	"sync"
	"unique"
	"weak"

	"github.com/podwall/podwall/internal/policy"
)

// A pool keeps what many pods have in common once: the pods of a Deployment differ
// in their names, addresses and nodes alone. What no pod has any more is forgotten.
type pool struct {
	mu    sync.Mutex
	known map[digest]weak.Pointer[traits]
}

// A digest stands for content.
type digest [16]byte

// Traits are what the pods of one kind of workload have in common.
type traits struct {
	Namespace    string
	Labels       policy.Labels
	Ports        []policy.NamedPort
	RuntimeClass string
}

// Held keeps shared values known to their pool.
type held struct {
	traits *traits
	node   unique.Handle[string]
}

// fill gives i its value, what that shares, and its sum.
func (p *pool) fill(i *item, value any) error {
	if pod, ok := value.(policy.Pod); ok {
		i.uid = pod.UID // of a static pod the one that its node knows
		h, err := p.share(&pod)
		if err != nil {
			return err
		}
		i.Namespace = pod.Namespace
		i.held, value = h, pod
	}
	i.value = value
	b, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("sum %s: %w", i, err)
	}
	i.sum = binary.BigEndian.Uint64(digestOf([]byte(i.uid), b).first())
	return nil
}

// share replaces what pod has in common with others by theirs.
func (p *pool) share(pod *policy.Pod) (held, error) {
	own := traits{pod.Namespace, pod.Labels, pod.Ports, pod.RuntimeClass}
	b, err := json.Marshal(own)
	if err != nil {
		return held{}, fmt.Errorf("share %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	h := held{p.same(digestOf(b), own), unique.Make(pod.Node)}
	pod.Namespace, pod.Labels, pod.Ports, pod.RuntimeClass = h.traits.Namespace, h.traits.Labels, h.traits.Ports, h.traits.RuntimeClass
	pod.Node = h.node.Value()
	return h, nil
}

// same returns the traits of that digest, which are own if they are new.
func (p *pool) same(of digest, own traits) *traits {
	p.mu.Lock()
	defer p.mu.Unlock()
	if t := p.known[of].Value(); t != nil {
		return t
	}
	t := &own
	if p.known == nil {
		p.known = map[digest]weak.Pointer[traits]{}
	}
	p.known[of] = weak.Make(t)
	runtime.AddCleanup(t, p.forget, of)
	return t
}

// forget drops traits that nobody holds.
func (p *pool) forget(of digest) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if w, ok := p.known[of]; ok && w.Value() == nil { // else others took their place
		delete(p.known, of)
	}
}

func digestOf(parts ...[]byte) digest {
	h := sha256.New()
	for _, b := range parts {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(b))))
		h.Write(b)
	}
	return digest(h.Sum(nil)[:len(digest{})])
}

func (d digest) first() []byte { return d[:8] }
