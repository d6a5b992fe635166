package nft

import (
	"fmt"
	"maps"
	"strings"

	"github.com/google/nftables"

	"github.com/podwall/podwall/internal/ruleset"
)

// Editions: a set that can't be changed under the packets being judged is
// replaced by another in the same transaction. The old one keeps its elements
// until the last packet that may look into it is through. A set has at most two
// names, of which one exists at a time: its own, and with this suffix.
const secondEdition = ".b"

// baseName is a set's name without its edition.
func baseName(name string) string { return strings.TrimSuffix(name, secondEdition) }

// editions knows which edition of each set the kernel holds. The zero editions
// holds none: names are the first edition's.
type editions struct {
	second map[string]bool // by base name
	old    []string        // kernel names of the editions that are being replaced
}

// editionsOf lists the sets of a table, without their elements.
func editionsOf(c *nftables.Conn, t *nftables.Table, have held) (editions, error) {
	e := editions{second: map[string]bool{}}
	if len(have.sets) == 0 {
		return e, nil // perhaps without a table to ask
	}
	sets, err := c.GetSets(t)
	if err != nil {
		return e, fmt.Errorf("list sets: %w", err)
	}
	for _, s := range sets {
		if base := baseName(s.Name); base != s.Name {
			e.second[base] = true
		}
	}
	return e, nil
}

// present returns the editions of the table, as they are known or else listed.
func (c *change) present() (editions, error) {
	if c.known && c.second != nil {
		return editions{second: maps.Clone(c.second)}, nil
	}
	return editionsOf(c.conn, c.table, c.have)
}

// name is the name in the kernel of a set's present edition.
func (e *editions) name(base string) string {
	if e.second[base] {
		return base + secondEdition
	}
	return base
}

// renew makes the other edition the present one.
func (e *editions) renew(base string) {
	e.old = append(e.old, e.name(base))
	e.second[base] = !e.second[base]
}

// A setChange is how the elements of a set differ.
type setChange struct {
	set      ruleset.Set
	add, del ruleset.Set // only their elements count
}

// inPlace reports whether the elements of the changed sets may change under a
// packet that is being judged. sameRules says that the rules on sets stay.
//
//   - One set, or map: a packet finds it before or after, and everything else as
//     it was, the blocks that a map leads to among it.
//     An interval set must not gain and lose at once, since the kernel forgets
//     what it lost a moment before it finds what it gained.
//   - Accepting sets that only gain, or only lose, elements: what both rule sets
//     accept is in some set before and after; what neither accepts, in none.
//
// Anything else could make an address that moves from one set to another be
// missed in both, or meet an old rule's port in a new rule's set.
func inPlace(changed []setChange, sameRules bool) bool {
	if !sameRules {
		return false
	}
	var gain, lose bool
	for _, c := range changed {
		replaces := c.set.Interval && len(c.add.Elements) > 0 && len(c.del.Elements) > 0
		if replaces || (c.set.Denies && len(changed) > 1) {
			return false
		}
		gain = gain || len(c.add.Elements) > 0
		lose = lose || len(c.del.Elements) > 0
	}
	return len(changed) <= 1 || !(gain && lose)
}
