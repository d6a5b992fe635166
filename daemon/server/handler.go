package server

import (
	"os"

	"github.com/podwall/podwall/daemon/reconcile"
	"github.com/podwall/podwall/internal/api"
)

// A Handler knows the answers.
type Handler struct {
	Keeper *reconcile.Keeper
	// Ready returns nil once ADD works, else what it waits for.
	Ready func() error
	// Status describes the daemon.
	Status func() api.Status
	Events Events
}

// answer returns the answer to any request but ADD. file is the descriptor that
// came with it, or nil; it stays the caller's.
func (h Handler) answer(req api.Envelope, file *os.File) (any, error) {
	switch req.Verb {
	case api.VerbReady:
		return nil, h.Ready()
	case api.VerbStatus:
		return h.Status(), nil
	case api.VerbPods:
		return h.Keeper.Pods(), nil
	case api.VerbPolicies:
		return h.Keeper.Policies(), nil
	case api.VerbCheck:
		return with(req, func(a api.Attachment) (any, error) { return nil, h.Keeper.Check(a.Key, file) })
	case api.VerbDel:
		return with(req, func(key api.Key) (any, error) { return nil, h.Keeper.Delete(key) })
	case api.VerbGC:
		return with(req, func(gc api.GC) (any, error) { return nil, h.collect(gc) })
	case api.VerbInspect:
		return with(req, func(r api.InspectRequest) (any, error) { return h.Keeper.Inspect(r) })
	case api.VerbExplain:
		return with(req, func(r api.ExplainRequest) (any, error) { return h.Keeper.Explain(r) })
	case api.VerbFlows:
		return with(req, func(r api.FlowsRequest) (any, error) { return h.Events.Flows(r), nil })
	case api.VerbEvidence:
		return with(req, func(r api.EvidenceRequest) (any, error) {
			return h.Keeper.Evidence(h.Events.Flows(api.FlowsRequest{Since: r.Since}), r.Policies)
		})
	case api.VerbTop:
		return h.Keeper.Top(), nil
	case api.VerbMatrix:
		return with(req, func(r api.MatrixRequest) (any, error) { return h.Keeper.Matrix(r) })
	}
	return nil, api.Errorf(api.CodeInvalid, "verb %q: unknown to this podwalld", req.Verb)
}

// collect forgets what gc does not name.
func (h Handler) collect(gc api.GC) error {
	switch {
	case gc.Network == "":
		return api.Errorf(api.CodeInvalid, "gc: network is empty")
	case gc.Valid == nil:
		return api.Errorf(api.CodeInvalid, "gc of network %s: valid is missing: want the attachments that exist", gc.Network)
	}
	return h.Keeper.Keep(gc.Network, gc.Valid)
}

// with decodes the body of req and gives it to f.
func with[T any](req api.Envelope, f func(T) (any, error)) (any, error) {
	var body T
	if err := req.Decode(&body); err != nil {
		return nil, err
	}
	return f(body)
}
