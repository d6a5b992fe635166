package reconcile

import "github.com/podwall/podwall/internal/ruleset"

// Digests remember those of the chains that the attachments' rules share, for as
// long as they are asked for between one aging and the next. The zero digests know
// none; they are not for several goroutines.
type digests struct {
	now, before map[ruleset.Identity]ruleset.Digest
}

// of is ruleset.DigestOf.
func (d *digests) of(c ruleset.Chain) ruleset.Digest {
	at := c.Identity()
	sum, known := d.now[at]
	if !known {
		if sum, known = d.before[at]; !known {
			sum = ruleset.DigestOf(c)
		}
		if d.now == nil {
			d.now = map[ruleset.Identity]ruleset.Digest{}
		}
		d.now[at] = sum
	}
	return sum
}

// age forgets the chains that nobody has asked for since the last aging.
func (d *digests) age() { d.now, d.before = nil, d.now }
