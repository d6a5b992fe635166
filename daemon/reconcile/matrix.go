package reconcile

import (
	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/explain"
	"github.com/podwall/podwall/internal/matrix"
	"github.com/podwall/podwall/internal/policy"
	"github.com/podwall/podwall/internal/ruleset"
)

const (
	// widest is how many pods a matrix may have: more are too many to look at,
	// and too long a list of pairs to make on a node.
	widest = 250
	// beginnings is how often a matrix is begun anew because policy changed.
	beginnings = 5
)

// Matrix says who may reach whom among the cluster's pods, as this node sees them:
// all of it at one version. ADD and the rounds wait for one step of it at most: a
// pod's rules, or a few pairs.
func (k *Keeper) Matrix(req api.MatrixRequest) (matrix.Matrix, error) {
	for range beginnings {
		s, version, err := k.survey(req)
		for err == nil {
			var more, same bool
			if more, same, err = k.step(s, version); err != nil || !same {
				break
			}
			if !more {
				return s.Matrix(), nil
			}
		}
		if err != nil {
			return matrix.Matrix{}, err
		}
	}
	return matrix.Matrix{}, api.Errorf(api.CodeUnavailable, "policy or pods changed %d times while the matrix was made: name fewer namespaces, or try again", beginnings)
}

// survey begins a matrix of the present version.
func (k *Keeper) survey(req api.MatrixRequest) (*matrix.Survey, uint64, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.notSynced(); err != nil {
		return nil, 0, err
	}
	pods, err := matrix.Pods(k.policy(), req.Namespaces)
	switch {
	case err != nil:
		return nil, 0, api.Errorf(api.CodeNotFound, "%v", err)
	case len(pods) > widest:
		return nil, 0, api.Errorf(api.CodeInvalid, "a matrix of %d pods: at most %d; name namespaces, with -n", len(pods), widest)
	}
	return matrix.Begin(k.policy(), k.knowing(), pods, req.Ports), k.version, nil
}

// knowing is what this node knows beyond its World. Pods of other nodes are taken
// to be audited as they would be here. k.mu is held.
func (k *Keeper) knowing() explain.Options {
	return explain.Options{
		Node: k.Node, NodeAddresses: k.nodeAddrs, NodeEgressByPolicy: k.nodeEgressByPolicy,
		Audited: func(pod policy.Pod) bool { return k.logged(k.policy(), pod, ruleset.RuleSet{}).Audit },
	}
}

// step makes one more step of s, unless the version is another one now.
func (k *Keeper) step(s *matrix.Survey, version uint64) (more, same bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.version != version {
		return false, false, nil
	}
	more, err = s.Step()
	return more, true, err
}
