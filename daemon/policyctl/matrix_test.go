package main

import (
	"encoding/xml"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/podwall/podwall/internal/explain"
	"github.com/podwall/podwall/internal/matrix"
	"github.com/podwall/podwall/internal/policy"
	"github.com/podwall/podwall/internal/ruleset"
)

// crowd is 50 pods of five namespaces, none of which folds with another; one has
// a name that is no name.
func crowd() policy.Snapshot {
	var s policy.Snapshot
	for i := range 50 {
		p := policy.Pod{Namespace: fmt.Sprintf("team%d", i/10), Name: fmt.Sprintf("pod%02d", i), Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)})},
			Labels: policy.Labels{"n": fmt.Sprint(i % 10)}}
		s.Pods = append(s.Pods, p)
	}
	s.Pods[7].Name = "\x1b[2J</text><script>alert('\"&')</script>"
	for i := range 5 {
		ns := fmt.Sprintf("team%d", i)
		s.Policies = append(s.Policies, policy.Policy{Ref: ruleset.Ref{Kind: "NetworkPolicy", Namespace: ns, Name: "<own>"},
			Subject: policy.PodSet{Namespace: ns, Pods: policy.Selector{Needs: []policy.Need{{Key: "n", Op: policy.In, Values: []string{"1", "2", "3"}}}}},
			Ingress: policy.Side{Applies: true, Rules: []policy.Rule{{Action: ruleset.Accept, Ports: []policy.Port{{Ports: ruleset.Ports{Proto: ruleset.TCP, First: 443, Last: 443}}},
				Peers: []policy.Peer{{Pods: policy.PodSet{Namespace: ns, Pods: policy.Selector{All: true}}}}}}}})
	}
	return s
}

// An element is a part of the picture.
type element struct {
	XMLName  xml.Name
	Attrs    []xml.Attr `xml:",any,attr"`
	Children []element  `xml:",any"`
	Text     string     `xml:",chardata"`
}

func (e element) attr(name string) string {
	for _, a := range e.Attrs {
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

func (e element) walk(fn func(element)) {
	fn(e)
	for _, c := range e.Children {
		c.walk(fn)
	}
}

// pictureOf is the picture of all pods of s, read as XML.
func pictureOf(t *testing.T, s policy.Snapshot) (m matrix.Matrix, text string, page element) {
	t.Helper()
	m, err := matrix.Of(policy.New(s), explain.Options{}, s.Pods, nil)
	if err != nil {
		t.Fatal(err)
	}
	text = matrixHTML(m)
	d := xml.NewDecoder(strings.NewReader(text))
	if err := d.Decode(&page); err != nil {
		t.Fatalf("the picture is no XML: %v", err)
	}
	if rest := strings.TrimSpace(text[d.InputOffset():]); rest != "" {
		t.Errorf("the page goes on after its end: %q", rest)
	}
	return m, text, page
}

func TestPictureOfFiftyPods(t *testing.T) {
	m, text, page := pictureOf(t, crowd())
	classes, cells := map[string]int{}, 0
	page.walk(func(e element) {
		switch e.XMLName.Local {
		case "script", "link", "img", "iframe":
			t.Errorf("the picture holds a %s", e.XMLName.Local)
		}
		label := e.attr("aria-label")
		if e.XMLName.Local != "td" || label == "" {
			return
		}
		classes[e.attr("class")]++
		cell := m.Cells[cells]
		cells++
		if want := clean(cell.From) + " → " + clean(cell.To) + "\n"; !strings.HasPrefix(label, want) {
			t.Errorf("a cell's label is %q, want it to begin with %q", label, want)
		}
		if e.attr("class") == "some" && !strings.Contains(label, "✓ TCP 443: Allow") {
			t.Errorf("label %q of an ambiguous cell names no port", label)
		}
		if e.attr("class") == "deny" && !strings.Contains(label, "/<own>") {
			t.Errorf("label %q of a denied cell names no policy", label)
		}
	})
	// In each namespace three pods are isolated: from its 9 others one port is
	// allowed, from the 40 outside none.
	want := map[string]int{"self": 50, "some": 5 * 3 * 9, "deny": 5 * 3 * 40, "allow": 50*50 - 50 - 5*3*9 - 5*3*40}
	if fmt.Sprint(classes) != fmt.Sprint(want) {
		t.Errorf("cells are %v, want %v", classes, want)
	}
	for _, part := range []string{"prefers-color-scheme: dark", `\u001b[2J&lt;/text&gt;`, "50 pods in 5 namespaces", "some ports: 135 pairs"} {
		if !strings.Contains(text, part) {
			t.Errorf("the picture lacks %q", part)
		}
	}
}

// Where there is room, a cell says which ports are open.
func TestPictureOfFewPods(t *testing.T) {
	s := crowd()
	s.Pods = s.Pods[:5]
	_, _, page := pictureOf(t, s)
	said := map[string]int{}
	page.walk(func(e element) {
		if e.XMLName.Local == "td" && e.attr("aria-label") != "" {
			said[e.Text]++
		}
	})
	if want := map[string]int{"·": 5, "443": 12, "✓": 8}; fmt.Sprint(said) != fmt.Sprint(want) {
		t.Errorf("cells say %v, want %v", said, want)
	}
}

func TestInside(t *testing.T) {
	port := func(proto ruleset.Proto, first, last uint16, verdict string) matrix.Port {
		return matrix.Port{Ports: &ruleset.Ports{Proto: proto, First: first, Last: last}, Verdict: verdict}
	}
	other := func(verdict string) matrix.Port { return matrix.Port{Other: true, Verdict: verdict} }
	tests := []struct {
		name  string
		ports []matrix.Port
		want  string
	}{
		{"a port", []matrix.Port{port(ruleset.TCP, 80, 80, "Allow"), other("Deny")}, "80"},
		{"two", []matrix.Port{port(ruleset.TCP, 80, 80, "Allow"), port(ruleset.UDP, 53, 53, "Allow"), other("Deny")}, "80, UDP 53"},
		{"more than there is room for", []matrix.Port{port(ruleset.TCP, 80, 80, "Allow"), port(ruleset.TCP, 82, 82, "Allow"), port(ruleset.TCP, 84, 90, "Allow"), other("Deny")}, "80 +2"},
		{"all but one", []matrix.Port{port(ruleset.TCP, 80, 80, "Deny"), other("Allow")}, "others"},
	}
	for _, tt := range tests {
		if got := inside(matrix.Cell{Verdict: matrix.Some, Ports: tt.ports}); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestAddressed(t *testing.T) {
	pods := []policy.Pod{
		{Name: "old", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}},
		{Name: "new"}, {Name: "newer"}, {Name: "agent", HostNetwork: true}, {Name: "job", Done: true},
	}
	all, madeUp := addressed(pods)
	if len(madeUp) != 2 || len(all) != 5 || len(pods[1].Addresses) != 0 {
		t.Fatalf("made up %v of %v; the manifests are %v", madeUp, all, pods)
	}
	if got := fmt.Sprint(all[1].Addresses, all[2].Addresses); got != "[240.0.0.1 100::1] [240.0.0.2 100::2]" {
		t.Errorf("addresses %s", got)
	}
	all, _ = addressed(pods[1:2])
	if got := fmt.Sprint(all[0].Addresses); got != "[240.0.0.1]" {
		t.Errorf("addresses in a cluster that has none: %s", got)
	}
}
