package integration

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/podwall/podwall/integration/lab"
)

// What recommend prints is a manifest: applied in place of the policies there were,
// it lets through what was accepted, and nothing else that anybody tries.
func TestRecommend(t *testing.T) {
	t.Parallel()
	s := observed(t)
	text, err := s.Policyctl(t.Context(), "recommend", "-n", "shop")
	must(t, err)
	for _, want := range []string{"kind: NetworkPolicy", "shop/web", `{"app": "db"}`} {
		if !strings.Contains(text, want) {
			t.Errorf("recommended without %q:\n%s", want, text)
		}
	}
	if strings.Contains(text, "shop/jobs to") {
		t.Errorf("what db only dropped is recommended for jobs:\n%s", text)
	}
	must(t, s.WriteManifest("shop.yaml", strings.Split(observedShop, "---\napiVersion: networking")[0]+"---\n"+text))
	admin := lab.Expectation{Name: "web to db at a port nobody used",
		Flow: lab.Flow{From: s.web.Netns, Proto: "tcp", To: netip.AddrPortFrom(s.db.Addr(false), 8080)}}
	expect(t, tcp(s.web, s.api, true), tcp(s.web, s.db, true), tcp(s.api, s.db, true),
		tcp(s.jobs, s.db, false), tcp(s.db, s.web, false), admin)
}
