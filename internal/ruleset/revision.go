package ruleset

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
)

// A Digest stands for the content of a list of prefixes.
type Digest [sha256.Size]byte

// DigestOf is the digest of a list: equal for equal lists, on every node.
func DigestOf(list []netip.Prefix) Digest {
	h := sha256.New()
	b := make([]byte, 0, 4096)
	for _, p := range list {
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
	return Digest(h.Sum(nil))
}

// Revision names the content of rs: "sha256:" and 64 hexadecimal digits. Equal
// rule sets have equal revisions, on every node and in every version that reads
// the same rules.
func (rs RuleSet) Revision() string { return rs.RevisionBy(DigestOf) }

// RevisionBy is Revision for who has a quicker way to DigestOf: many rule sets
// share their long lists.
func (rs RuleSet) RevisionBy(digest func([]netip.Prefix) Digest) string {
	var digests []byte
	for _, c := range []*Chain{&rs.Ingress, &rs.Egress} {
		c.Tiers = slices.Clone(c.Tiers)
		for i := range c.Tiers {
			digests = c.Tiers[i].withoutLists(digests, digest)
		}
	}
	b, err := json.Marshal(rs)
	if err != nil {
		panic(err) // plain data; nothing in it can fail to encode
	}
	b = append(binary.BigEndian.AppendUint64(nil, uint64(len(b))), b...)
	return fmt.Sprintf("sha256:%x", sha256.Sum256(append(b, digests...)))
}

// withoutLists takes the lists out of t's own copy of its rules, and appends their
// digests.
func (t *Tier) withoutLists(digests []byte, digest func([]netip.Prefix) Digest) []byte {
	t.Rules = slices.Clone(t.Rules)
	for i := range t.Rules {
		r := &t.Rules[i]
		r.Matches = slices.Clone(r.Matches)
		for j := range r.Matches {
			d := digest(r.Matches[j].Peers.Prefixes)
			digests, r.Matches[j].Peers.Prefixes = append(digests, d[:]...), nil
		}
	}
	return digests
}
