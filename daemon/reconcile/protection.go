package reconcile

import (
	"reflect"

	"github.com/podwall/podwall/conf/daemonconf"
	"github.com/podwall/podwall/internal/policy"
)

// A Protection says what pods may do about their own rules. The zero Protection
// lets them do least.
type Protection struct {
	Tamper daemonconf.TamperProtection
}

// SetProtection makes p hold, from the next round on.
func (k *Keeper) SetProtection(p Protection) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !reflect.DeepEqual(k.protection, p) {
		k.protection = p
		k.changed()
	}
}

// owns reports whether only podwalld may change pod's tables.
func (p Protection) owns(pod policy.Pod) bool {
	switch p.Tamper {
	case daemonconf.TamperOff:
		return false
	case daemonconf.TamperAuto:
		return pod.NetAdmin != policy.NotGranted
	}
	return true
}
