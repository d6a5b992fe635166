package faults

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podwall/podwall/integration/lab"
	"github.com/podwall/podwall/internal/api"
)

// widen lets one address of nobody's in to the pods of shop, in the i-th version.
func widen(i int) string {
	return fmt.Sprintf(`
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: wide}
spec: {podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{ipBlock: {cidr: 198.18.%d.%d/32}}]}]}
`, i/250%250, i%250)
}

// Each message to and from the kernel has its turn to fail, with each of
// netlink's own errors, in podwalld and in the plugin. ADD works, or says what
// failed; the next one works; and nothing is lost of a change of policy that met
// one.
//
// EINTR is not among them: the kernel gives it to blocking sockets only.
func TestEachNetlinkMessageFails(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	in := newInjector(t, n, "netlink.sock", unix.SYS_SENDMSG, unix.SYS_RECVMSG)
	n.Before = in.before(t)
	n.start(t)
	streams := n.streams(t)
	sb := n.bare(t, "shop", "more")
	plugin := newInjector(t, n, "plugin.sock", unix.SYS_SENDMSG, unix.SYS_RECVMSG)
	injected, failed := 0, 0
	for _, f := range []struct {
		nr, stride int
		errno      unix.Errno
	}{{unix.SYS_SENDMSG, 1, unix.ENOBUFS}, {unix.SYS_SENDMSG, 1, unix.EMSGSIZE}, {unix.SYS_RECVMSG, 3, unix.ENOBUFS}} {
		for _, who := range []*injector{in, plugin} {
			for k, hit := 1, 1; hit > 0; k += f.stride {
				who.obey(nth(f.nr, k, f.errno))
				err := n.plugin(t.Context(), "ADD", sb, plugin.before(t)...)
				hit = who.injected()
				who.obey(nil)
				injected += hit
				if err != nil {
					failed++
				}
				if err != nil && f.nr == unix.SYS_SENDMSG { // else it may have been an answer of podwalld's
					refused(t, err, f.errno.Error())
				}
				must(t, n.answer(t.Context(), "ADD", sb))
				must(t, n.exactly(t.Context(), []*lab.Sandbox{sb}))
				must(t, n.plugin(t.Context(), "DEL", sb))
			}
		}
	}
	t.Logf("%d faults injected into ADD, %d ADDs failed", injected, failed)
	if injected < 50 || failed == 0 {
		t.Error("too few to prove anything")
	}
	for i := range 30 {
		errno := []unix.Errno{unix.ENOBUFS, unix.EMSGSIZE, unix.ENOMEM}[i%3]
		in.obey(nth([]int{unix.SYS_SENDMSG, unix.SYS_RECVMSG}[i%2], 1+i/2, errno))
		must(t, n.WriteManifest("wide.yaml", widen(i)))
		time.Sleep(20 * time.Millisecond)
	}
	n.knows(t)
	for _, s := range streams {
		s.end(t)
	}
}

// The kernel has no memory left for the sets of a new policy. The rules that
// stand go on, attachment and log say what is wrong, ADD is refused; and as soon
// as there is memory the policy is in force.
func TestNoMemoryForSets(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	in := newInjector(t, n, "memory.sock", unix.SYS_SENDMSG)
	n.Before = in.before(t)
	n.start(t)
	late := n.bare(t, "shop", "late")
	streams := n.streams(t)
	in.obey(each(unix.SYS_SENDMSG, unix.ENOMEM))
	must(t, n.WriteManifest("open.yaml", openToAll))
	eventually(t, func() error {
		st, err := n.state(t.Context(), n.web)
		if err == nil && (st.State != api.StateError || !strings.Contains(st.Message, "cannot allocate memory")) {
			err = fmt.Errorf("state is %s: %s", st.State, st.Message)
		}
		return err
	})
	if !strings.Contains(n.LogTail(), "cannot allocate memory") {
		t.Errorf("the log does not say so:\n%s", n.LogTail())
	}
	refused(t, n.plugin(t.Context(), "ADD", late), "cannot allocate memory", `"code": 11`)
	time.Sleep(100 * time.Millisecond)
	for _, s := range streams {
		s.end(t)
	}
	in.obey(nil)
	expect(t, tcp(n.stranger, n.web, true))
	must(t, n.plugin(t.Context(), "ADD", late))
	n.knows(t, late)
}

// Namespaces vanish, some after DEL and some without, while a thousand changes of
// policy go on. podwalld stays, forgets them, and the others never notice.
func TestNamespacesVanishInAChange(t *testing.T) {
	t.Parallel()
	const changes, pods = 1000, 24
	n := newNode(t).start(t)
	var victims []*lab.Sandbox
	for i := range pods {
		victims = append(victims, n.bare(t, "shop", fmt.Sprintf("victim-%d", i)))
	}
	streams := n.streams(t)
	var all sync.WaitGroup
	var errs [2]error
	stop := make(chan struct{})
	all.Go(func() {
		for i := range changes {
			errs[0] = errors.Join(errs[0], n.WriteManifest("wide.yaml", widen(i)))
			time.Sleep(3 * time.Millisecond)
		}
		close(stop)
	})
	all.Go(func() {
		for i, sb := range victims {
			err := n.answer(t.Context(), "ADD", sb)
			time.Sleep(rand.N(50 * time.Millisecond))
			if i%2 == 0 {
				err = errors.Join(err, n.plugin(t.Context(), "DEL", sb))
			}
			errs[1] = errors.Join(errs[1], err, sb.Delete())
		}
		<-stop
	})
	all.Wait()
	must(t, errors.Join(errs[0], errs[1]))
	n.knows(t)
	if !n.Running() {
		t.Error("podwalld has ended")
	}
	for _, s := range streams {
		s.end(t)
	}
	t.Logf("%d changes, %d namespaces vanished", changes, pods)
}

// An answer of the kernel's that never comes is an error in the end: podwalld
// neither waits for it for ever nor takes a late one for the next. Here it is
// left in the socket, and the socket says that there is nothing.
func TestLostAnswer(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	in := newInjector(t, n, "lost.sock", unix.SYS_RECVMSG)
	n.Before = in.before(t)
	n.start(t)
	streams := []*stream{pour(t, n.friend, n.web, 1000, true), pour(t, n.web, n.stranger, 1003, false)}
	in.obey(func(_, n int) unix.Errno {
		if n <= 6 {
			return unix.EAGAIN
		}
		return 0
	})
	must(t, n.WriteManifest("open.yaml", openToAll))
	eventually(t, func() error {
		b, err := os.ReadFile(n.LogFile())
		if err == nil && !strings.Contains(string(b), "i/o timeout") {
			err = fmt.Errorf("%d answers were lost, and nobody missed one", in.injected())
		}
		return err
	})
	expect(t, tcp(n.stranger, n.web, true))
	n.knows(t)
	for _, s := range streams {
		s.end(t)
	}
}
