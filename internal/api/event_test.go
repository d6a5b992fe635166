package api_test

import (
	"net/netip"
	"testing"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/ruleset"
)

func TestFilter(t *testing.T) {
	e := api.Event{
		Verdict: ruleset.Dropped, Direction: ruleset.Ingress, Namespace: "shop", Pod: "api", ContainerID: "0123456789ab", Interface: "eth0",
		From: api.End{Address: netip.MustParseAddr("10.0.0.7"), Port: 40000, Namespace: "shop", Pod: "web"},
		To:   api.End{Address: netip.MustParseAddr("10.0.0.2"), Port: 80, Namespace: "shop", Pod: "api"},
	}
	tests := []struct {
		name   string
		filter api.Filter
		want   bool
	}{
		{"the zero Filter picks all", api.Filter{}, true},
		{"its namespace", api.Filter{Namespace: "shop"}, true},
		{"another namespace", api.Filter{Namespace: "sho"}, false},
		{"its pod", api.Filter{Pod: "shop/api"}, true},
		{"the peer is not the pod", api.Filter{Pod: "shop/web"}, false},
		{"the beginning of its container's id", api.Filter{Pod: "0123"}, true},
		{"one of two directions", api.Filter{Directions: []ruleset.Direction{ruleset.Egress, ruleset.Ingress}}, true},
		{"the other direction", api.Filter{Directions: []ruleset.Direction{ruleset.Egress}}, false},
		{"its verdict", api.Filter{Verdicts: []ruleset.Fate{ruleset.Dropped}}, true},
		{"another verdict", api.Filter{Verdicts: []ruleset.Fate{ruleset.Audited}}, false},
		{"the port it was opened to", api.Filter{Port: 80}, true},
		{"the port it was opened from", api.Filter{Port: 40000}, false},
		{"its peer by name", api.Filter{Peer: "shop/web"}, true},
		{"its peer by address", api.Filter{Peer: "10.0.0.7"}, true},
		{"its peer by the address in another notation", api.Filter{Peer: "::ffff:10.0.0.7"}, true},
		{"a block that holds its peer", api.Filter{Peer: "10.0.0.0/29"}, true},
		{"a block that holds the pod alone", api.Filter{Peer: "10.0.0.2/32"}, false},
		{"a service of that name", api.Filter{Peer: "svc/shop/web"}, false},
		{"everything but one", api.Filter{Pod: "shop/api", Peer: "shop/web", Port: 81}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			picks, err := tt.filter.Compile()
			if err != nil {
				t.Fatal(err)
			}
			if got := picks(&e); got != tt.want {
				t.Errorf("picks: %v, want %v", got, tt.want)
			}
		})
	}
}

func TestPeerThatMakesNoSense(t *testing.T) {
	for _, peer := range []string{"web", "/", "shop/", "a/b/c", "svc/shop", "svc//api", "10.0.0.0/33/1"} {
		_, err := api.Filter{Peer: peer}.Compile()
		if ok := peer == "svc/shop"; (err == nil) != ok { // a pod of namespace svc
			t.Errorf("peer %q: %v", peer, err)
		}
	}
}

func TestFilterHides(t *testing.T) {
	tests := []struct {
		name   string
		filter api.Filter
		hidden api.Hidden
		want   bool
	}{
		{"drops of the pod", api.Filter{Pod: "shop/api"}, api.Hidden{Namespace: "shop", Pod: "api", Drops: 1}, true},
		{"drops of another pod", api.Filter{Pod: "shop/api"}, api.Hidden{Namespace: "shop", Pod: "web", Drops: 1}, false},
		{"accepts where drops are asked for", api.Filter{Verdicts: []ruleset.Fate{ruleset.Dropped}}, api.Hidden{Accepts: 1}, false},
		{"drops where audits are asked for, which they may be", api.Filter{Verdicts: []ruleset.Fate{ruleset.Audited}}, api.Hidden{Drops: 1}, true},
		{"nothing", api.Filter{}, api.Hidden{}, false},
	}
	for _, tt := range tests {
		if got := tt.filter.Hides(&tt.hidden); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}
