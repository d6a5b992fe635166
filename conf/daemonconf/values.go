package daemonconf

import "github.com/podwall/podwall/conf"

// A LogFormat is the form of log lines.
type LogFormat uint8

const (
	LogText LogFormat = iota // key=value; the zero LogFormat
	LogJSON                  // one JSON object a line
)

var formatNames = []string{LogText: "text", LogJSON: "json"}

// String is "text" or "json".
func (f LogFormat) String() string { return formatNames[f] }

// MarshalText writes "text" or "json".
func (f LogFormat) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (f *LogFormat) UnmarshalText(b []byte) error {
	i, err := conf.OneOf(b, formatNames...)
	if err == nil {
		*f = LogFormat(i)
	}
	return err
}

// A TamperProtection says whose tables only podwalld may change, where the
// kernel can see to that (Linux 6.9).
type TamperProtection uint8

const (
	TamperOn   TamperProtection = iota // every pod's; the zero TamperProtection
	TamperAuto                         // those of pods that may have CAP_NET_ADMIN
	TamperOff                          // no pod's
)

var tamperNames = []string{TamperOn: "on", TamperAuto: "auto", TamperOff: "off"}

// String is "on", "auto" or "off".
func (p TamperProtection) String() string { return tamperNames[p] }

// MarshalText writes "on", "auto" or "off".
func (p TamperProtection) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (p *TamperProtection) UnmarshalText(b []byte) error {
	i, err := conf.OneOf(b, tamperNames...)
	if err == nil {
		*p = TamperProtection(i)
	}
	return err
}

// A NodeEgress says what a pod's traffic to its own node meets.
type NodeEgress uint8

const (
	NodeEgressByPolicy NodeEgress = iota // policy, as any other traffic; the zero NodeEgress
	NodeEgressAllow                      // it always passes, as Kubernetes says
)

var egressNames = []string{NodeEgressByPolicy: "policy", NodeEgressAllow: "allow"}

// String is "policy" or "allow".
func (e NodeEgress) String() string { return egressNames[e] }

// MarshalText writes "policy" or "allow".
func (e NodeEgress) MarshalText() ([]byte, error) { return []byte(e.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (e *NodeEgress) UnmarshalText(b []byte) error {
	i, err := conf.OneOf(b, egressNames...)
	if err == nil {
		*e = NodeEgress(i)
	}
	return err
}

// SandboxedPods says what becomes of pods whose traffic does not pass the rules
// in their network namespace.
type SandboxedPods uint8

const (
	SandboxedRefuse SandboxedPods = iota // they do not start; the zero SandboxedPods
	SandboxedReport                      // they start, and are reported as Unprotected
)

var sandboxedNames = []string{SandboxedRefuse: "refuse", SandboxedReport: "report"}

// String is "refuse" or "report".
func (p SandboxedPods) String() string { return sandboxedNames[p] }

// MarshalText writes "refuse" or "report".
func (p SandboxedPods) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (p *SandboxedPods) UnmarshalText(b []byte) error {
	i, err := conf.OneOf(b, sandboxedNames...)
	if err == nil {
		*p = SandboxedPods(i)
	}
	return err
}
