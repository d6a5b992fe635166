package ruleset

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash"
	"net/netip"
	"slices"
)

// A Digest stands for a content.
type Digest [sha256.Size]byte

// DigestOf is the digest of a chain: equal for equal chains, on every node.
func DigestOf(c Chain) Digest {
	h := sha256.New()
	write(h, c.withoutLists())
	for _, t := range c.Tiers {
		for _, r := range t.Rules {
			for _, m := range r.Matches {
				list(h, m.Peers.Prefixes)
			}
		}
	}
	return Digest(h.Sum(nil))
}

// list writes a list of prefixes, and first how many there are.
func list(h hash.Hash, prefixes []netip.Prefix) {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 4096), uint64(len(prefixes)))
	for _, p := range prefixes {
		if b = append(b, byte(p.Addr().BitLen()), byte(p.Bits())); len(b) > cap(b)-32 {
			h.Write(b)
			b = b[:0]
		}
		if a := p.Addr().As16(); p.Addr().Is4() {
			b = append(b, a[12:]...)
		} else {
			b = append(b, a[:]...)
		}
	}
	h.Write(b)
}

// write writes v in JSON, and first how long that is.
func write(h hash.Hash, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // plain data; nothing in it can fail to encode
	}
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(b))))
	h.Write(b)
}

// withoutLists is c without what its rules list of peers.
func (c Chain) withoutLists() Chain {
	c.Tiers = slices.Clone(c.Tiers)
	for i := range c.Tiers {
		t := &c.Tiers[i]
		t.Rules = slices.Clone(t.Rules)
		for j := range t.Rules {
			r := &t.Rules[j]
			r.Matches = slices.Clone(r.Matches)
			for k := range r.Matches {
				r.Matches[k].Peers.Prefixes = nil
			}
		}
	}
	return c
}

// Revision names the content of rs: "sha256:" and 64 hexadecimal digits. Equal
// rule sets have equal revisions, on every node and in every version that reads
// the same rules.
func (rs RuleSet) Revision() string { return rs.RevisionBy(DigestOf) }

// RevisionBy is Revision for who has a quicker way to DigestOf: many rule sets
// share their chains.
func (rs RuleSet) RevisionBy(digest func(Chain) Digest) string {
	ingress, egress := digest(rs.Ingress), digest(rs.Egress)
	rs.Ingress, rs.Egress = Chain{}, Chain{}
	h := sha256.New()
	write(h, rs)
	h.Write(ingress[:])
	h.Write(egress[:])
	return fmt.Sprintf("sha256:%x", h.Sum(nil))
}
