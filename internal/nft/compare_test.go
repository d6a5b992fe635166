package nft

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/podwall/podwall/internal/ruleset"
)

// Each field of a line is in its text, whatever is added later.
func TestTextOfALineTellsLinesApart(t *testing.T) {
	line := ruleset.Line{Conds: []ruleset.Cond{{}}}
	texts := map[string]string{textOf(line): "nothing"}
	var fields func(at string, v reflect.Value)
	fields = func(at string, v reflect.Value) {
		switch {
		case v.Type() == reflect.TypeFor[netip.Prefix]():
			v.Set(reflect.ValueOf(netip.MustParsePrefix("10.0.0.0/8")))
		case v.Kind() == reflect.Struct:
			for f, value := range v.Fields() {
				fields(at+"."+f.Name, value)
			}
			return
		case v.Kind() == reflect.Slice:
			fields(at+"[0]", v.Index(0))
			return
		case v.Kind() == reflect.String:
			v.SetString("x")
		case v.CanUint():
			v.SetUint(1)
		default:
			t.Fatalf("nobody knows how to change %s", at)
		}
		if other, met := texts[textOf(line)]; met {
			t.Errorf("with %s changed the text is that with %s changed", at, other)
		}
		texts[textOf(line)] = at
		v.SetZero()
	}
	fields("line", reflect.ValueOf(&line).Elem())
	if len(texts) < 12 {
		t.Errorf("only %d fields were changed", len(texts))
	}
}

// A Comparison says what is said without one, again and again.
func TestComparisonSaysWhatTheListsSay(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	random := func() ruleset.Peers {
		var list []netip.Prefix
		for range r.IntN(60) {
			p := netip.MustParsePrefix(fmt.Sprintf("10.0.0.%d/%d", r.IntN(64), 32-r.IntN(20)/18))
			list = append(list, p)
		}
		return ruleset.NewPeers(list)
	}
	c := &Round{}
	for range 2000 {
		p, q := random(), random()
		for range 2 {
			add, del := c.between(p.Prefixes, q.Prefixes)
			now := slices.Concat(slices.DeleteFunc(slices.Clone(p.Prefixes), func(x netip.Prefix) bool { return slices.Contains(del, x) }), add)
			slices.SortFunc(now, ruleset.ComparePrefix)
			if !slices.Equal(now, q.Prefixes) || c.covers(q, p) != q.Covers(p) || c.hosts(p.Prefixes) != ruleset.Hosts(p.Prefixes) {
				t.Fatalf("seed %d: %v to %v: add %v, delete %v, covers %t, hosts %t", seed, p, q, add, del, c.covers(q, p), c.hosts(p.Prefixes))
			}
		}
	}
}
