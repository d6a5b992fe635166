package faults

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// frame is a message as the socket carries it.
func frame(text string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...)
}

// A plugin of a later release meets this podwalld: it is told so, in words that
// say what to do, and podwalld serves the next one.
func TestPluginOfAnotherRelease(t *testing.T) {
	t.Parallel()
	n := newNode(t).start(t)
	for _, version := range []int{0, 2, 1 << 30} {
		c, err := net.Dial("unix", n.Socket())
		must(t, err)
		must(t, c.SetDeadline(time.Now().Add(settling)))
		_, err = c.Write(frame(fmt.Sprintf(`{"version": %d, "verb": "add", "body": {"something": "else"}}`, version)))
		must(t, err)
		b, err := io.ReadAll(c)
		must(t, err)
		_ = c.Close()
		for _, want := range []string{fmt.Sprintf("message of version %d", version), "speaks version 1", "install podwall and podwalld of one release"} {
			if !strings.Contains(string(b), want) {
				t.Errorf("version %d: answer is %q, want %q in it", version, b, want)
			}
		}
	}
	more := n.add(t, "shop", "more")
	n.knows(t, more)
}

// This plugin meets a podwalld of a later release. ADD, CHECK and STATUS fail and
// say what to do, failurePolicy or not; DEL works, and is kept for a podwalld that
// understands it.
func TestDaemonOfAnotherRelease(t *testing.T) {
	t.Parallel()
	n := newNode(t).start(t)
	late, gone := n.bare(t, "shop", "late"), n.add(t, "shop", "gone")
	must(t, n.Stop())
	_ = os.Remove(n.Socket())
	l, err := net.Listen("unix", n.Socket())
	must(t, err)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			head := make([]byte, 4)
			_, _ = io.ReadFull(c, head)
			_, _ = io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint32(head)))
			_, _ = c.Write(frame(`{"version": 2, "verb": "rules", "body": {"form": "new"}}`))
			_ = c.Close()
		}
	}()
	for _, verb := range []string{"ADD", "CHECK", "STATUS"} {
		refused(t, n.plugin(t.Context(), verb, late), "message of version 2", "speaks version 1", "install podwall and podwalld of one release")
	}
	must(t, n.Del(t.Context(), n.Network(), gone, "eth0"))
	must(t, l.Close())
	must(t, n.Start(t.Context()))
	n.knows(t)
	must(t, n.plugin(t.Context(), "ADD", late))
	n.knows(t, late)
}
