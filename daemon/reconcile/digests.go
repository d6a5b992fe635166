package reconcile

import (
	"net/netip"

	"github.com/podwall/podwall/internal/ruleset"
)

// Digests remember those of the long lists that the attachments' rules share, for
// as long as they are asked for between one aging and the next. The zero digests
// know none; they are not for several goroutines.
type digests struct{ now, before map[span]ruleset.Digest }

// A span is a list in memory.
type span struct {
	first *netip.Prefix
	n     int
}

// of is ruleset.DigestOf.
func (d *digests) of(list []netip.Prefix) ruleset.Digest {
	if len(list) == 0 {
		return ruleset.DigestOf(nil)
	}
	at := span{&list[0], len(list)}
	sum, known := d.now[at]
	if !known {
		if sum, known = d.before[at]; !known {
			sum = ruleset.DigestOf(list)
		}
		if d.now == nil {
			d.now = map[span]ruleset.Digest{}
		}
		d.now[at] = sum
	}
	return sum
}

// age forgets the lists that nobody has asked for since the last aging.
func (d *digests) age() { d.now, d.before = nil, d.now }
