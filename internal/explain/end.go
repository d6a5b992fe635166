package explain

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/podwall/podwall/internal/api"
)

// An End is one end of a flow as a person names it: an address if Addr is valid,
// else a Service or a pod. The zero End is nobody.
type End struct {
	Addr            netip.Addr
	Service         bool
	Namespace, Name string
}

// ParseEnd reads NAMESPACE/POD, an address, svc/NAMESPACE/NAME, or the name that a
// Service has in DNS: NAME.NAMESPACE.svc, with or without the cluster's domain.
func ParseEnd(s string) (End, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		return End{Addr: a.Unmap()}, nil
	}
	if _, err := netip.ParsePrefix(s); err == nil {
		return End{}, fmt.Errorf("end %q: want a single address, not a block", s)
	}
	if end, ok := parseDNS(s); ok {
		return end, nil
	}
	rest, service := s, false
	if strings.Count(s, "/") == 2 {
		rest, service = strings.CutPrefix(s, "svc/")
	}
	ns, name, ok := strings.Cut(rest, "/")
	if !ok || ns == "" || name == "" || strings.Contains(name, "/") {
		return End{}, fmt.Errorf("end %q: want namespace/pod, an address, or svc/namespace/name", s)
	}
	return End{Service: service, Namespace: ns, Name: name}, nil
}

// parseDNS reads the name that a Service has in DNS.
func parseDNS(s string) (End, bool) {
	parts := strings.Split(strings.TrimSuffix(s, "."), ".")
	if strings.Contains(s, "/") || len(parts) < 3 || parts[2] != "svc" || slices.Contains(parts, "") {
		return End{}, false
	}
	return End{Service: true, Namespace: parts[1], Name: parts[0]}, true
}

// String is what ParseEnd reads.
func (e End) String() string {
	switch {
	case e.Addr.IsValid():
		return e.Addr.String()
	case e.Service:
		return "svc/" + e.Namespace + "/" + e.Name
	}
	return e.Namespace + "/" + e.Name
}

// Parse reads the ends of req. It does not look whether they exist.
func Parse(req api.ExplainRequest) (from, to End, err error) {
	if from, err = ParseEnd(req.From); err != nil {
		return End{}, End{}, fmt.Errorf("from: %w", err)
	}
	if from.Service {
		return End{}, End{}, fmt.Errorf("from: %s: a service opens no connections, name one of its pods", from)
	}
	if to, err = ParseEnd(req.To); err != nil {
		return End{}, End{}, fmt.Errorf("to: %w", err)
	}
	if !req.Protocol.HasPorts() {
		return End{}, End{}, fmt.Errorf("protocol %s: want TCP, UDP or SCTP", req.Protocol)
	}
	if req.Port == 0 {
		return End{}, End{}, fmt.Errorf("port 0: want 1 to 65535")
	}
	return from, to, nil
}
