package ruleset

// An Identity is a chain in memory. Chains of one Identity are equal; equal chains
// may have several.
type Identity struct {
	tiers *Tier
	n     int
	end   Action
}

// Identity returns where c is.
func (c Chain) Identity() Identity {
	at := Identity{n: len(c.Tiers), end: c.Default}
	if at.n > 0 {
		at.tiers = &c.Tiers[0]
	}
	return at
}
