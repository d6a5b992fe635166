package reconcile

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/podwall/podwall/daemon/store"
	"github.com/podwall/podwall/internal/nft"
	"github.com/podwall/podwall/internal/policy"
	"github.com/podwall/podwall/internal/ruleset"
)

// crowded is a bench with attached pods of shop/web's kind, as many as local, that
// let in remote ones.
func crowded(t testing.TB, local, remote int) *bench {
	b := newBench(t)
	var pods []policy.Pod
	for i := range remote {
		pods = append(pods, policy.Pod{Namespace: "shop", Name: fmt.Sprint("r", i), Labels: policy.Labels{"app": "fe"}, Node: "there",
			Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})}})
	}
	var records []store.Record
	for i := range local {
		r := attached('a', fmt.Sprint("p", i), "", fmt.Sprintf("11.0.0.%d", i))
		r.ContainerID = fmt.Sprint("c", i)
		records = append(records, r)
		pods = append(pods, policy.Pod{Namespace: "shop", Name: r.Name, Labels: policy.Labels{"app": "web"}})
	}
	b.Restore(records)
	b.Update(everything(shop(pods...)))
	return b
}

// settleAll takes the rules that plan asks for as standing.
func (b *bench) settleAll() (jobs int) {
	list, _, _ := b.plan(nil)
	for _, j := range list {
		b.enforced(j.a, nft.Known{Rules: j.rules}, j.version)
	}
	return len(list)
}

// The fast comparison says what reflect.DeepEqual says, whatever differs.
func TestSameIsDeepEqual(t *testing.T) {
	b := crowded(t, 1, 3)
	compiled := func() (rs ruleset.RuleSet) {
		b.world.Keep(slices.Values([]*policy.Firewall{})) // so that nothing is shared
		for _, a := range b.attachments {
			rs = b.compile(a)
		}
		return rs
	}
	if !new(comparison).same(compiled(), compiled()) {
		t.Error("equal rule sets are not the same")
	}
	for n := 0; ; n++ {
		rs, other := compiled(), compiled()
		left := n
		path := alter(reflect.ValueOf(&other).Elem(), &left)
		if path == "" {
			if n < 20 {
				t.Errorf("%d changes were tried, want one of each field", n)
			}
			return
		}
		if new(comparison).same(rs, other) || new(comparison).same(other, rs) {
			t.Errorf("same after a change of %s", path)
		}
	}
}

// alter changes the value that is left steps on in v, and says where that is;
// nowhere if v has fewer.
func alter(v reflect.Value, left *int) (path string) {
	if v.Kind() == reflect.Struct && v.Type().PkgPath() != "net/netip" {
		for i := range v.NumField() {
			if at := alter(v.Field(i), left); at != "" {
				return "." + v.Type().Field(i).Name + at
			}
		}
		return ""
	}
	if *left--; *left < 0 {
		switch v.Kind() {
		case reflect.Bool:
			v.SetBool(!v.Bool())
		case reflect.String:
			v.SetString(v.String() + "x")
		case reflect.Int:
			v.SetInt(v.Int() + 1)
		case reflect.Uint8, reflect.Uint16, reflect.Uint32:
			v.SetUint(v.Uint() ^ 1)
		case reflect.Slice:
			v.Set(reflect.Append(v, reflect.Zero(v.Type().Elem())))
		default:
			v.SetZero()
		}
		return " "
	}
	if v.Kind() == reflect.Slice {
		for i := range v.Len() {
			if at := alter(v.Index(i), left); at != "" {
				return fmt.Sprintf("[%d]%s", i, at)
			}
		}
	}
	return ""
}

// Each pod's own list is another one, of the same content, once all is worked out anew; many share one.
func TestListsAreComparedOnce(t *testing.T) {
	b := crowded(t, 50, 100)
	if n := b.settleAll(); n != 50 {
		t.Fatalf("%d jobs at first, want 50", n)
	}
	b.world.Keep(slices.Values([]*policy.Firewall{})) // so that all is worked out again
	var c comparison
	for _, a := range b.attachments {
		if !c.same(a.known.Rules, b.compile(a)) {
			t.Fatalf("rules of %s differ", a.record.Pod())
		}
	}
	if len(c.lists) != 1 {
		t.Errorf("%d pairs of lists were compared, want 1", len(c.lists))
	}
}

// What a round costs while nothing differs: 250 pods, each of which lets in so
// many.
func BenchmarkIdleRound(b *testing.B) {
	for _, remote := range []int{1_000, 10_000} {
		b.Run(fmt.Sprint(remote, " peers"), func(b *testing.B) {
			k := crowded(b, 250, remote)
			k.settleAll()
			for b.Loop() {
				k.mu.Lock()
				k.changed()
				k.mu.Unlock()
				if n := k.settleAll(); n != 0 {
					b.Fatalf("%d jobs", n)
				}
			}
		})
	}
}
