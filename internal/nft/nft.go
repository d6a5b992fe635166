package nft

import (
	"errors"

	"github.com/podwall/podwall/internal/ruleset"
)

// Known is what an attachment's kernel rules were when they were last looked at.
type Known struct {
	Rules      ruleset.RuleSet
	Epoch      ruleset.Epoch
	Generation uint32 // of the namespace's nftables; anybody's change there moves it
}

// Apply makes rs the firewall of interface iface in the network namespace that
// the descriptor netns refers to, and returns what stands there afterwards.
// wrote says whether anything had to change.
//
// last is what the caller knows to be there; Apply relies on it only as long as
// the namespace's generation is the one it names. With nil it reads the kernel.
func Apply(netns int, iface string, rs ruleset.RuleSet, last *Known) (now Known, wrote bool, err error) {
	return Known{}, false, errors.New("being written")
}

// Read returns the attachment's table as the kernel holds it, and the
// generation it was read at. A namespace without it gives a table without
// blocks.
func Read(netns int, iface string) (ruleset.Table, uint32, error) {
	return ruleset.Table{}, 0, errors.New("being written")
}

// A Count is the value of a counter.
type Count struct{ Packets, Bytes uint64 }

// Counters returns the values of all counters of podwall's table by name.
func Counters(netns int) (map[string]Count, error) { return nil, errors.New("being written") }
