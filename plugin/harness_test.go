package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/podwall/podwall/internal/api"
	"github.com/podwall/podwall/internal/netnstest"
	"github.com/podwall/podwall/internal/nft"
	"github.com/podwall/podwall/internal/queue"
	"github.com/podwall/podwall/internal/ruleset"
)

// The test binary is the plugin too: with this variable it is main, but for how
// rules are installed and how long it waits.
const asPlugin = "PODWALL_TEST_PLUGIN"

// An installation is how a plugin under test installs rules, in asPlugin.
type installation struct {
	Record   string        // the file in which they are recorded
	Fails    string        // the error, if there is one
	Patience time.Duration // of all calls
	Handover time.Duration // to another daemon
}

// An applied is a line of Record.
type applied struct {
	Netns uint64 // its inode
	Iface string
	Rules ruleset.RuleSet
	Known bool // the plugin claimed to know what was there
}

func TestMain(m *testing.M) {
	if how := os.Getenv(asPlugin); how != "" {
		var in installation
		if err := json.Unmarshal([]byte(how), &in); err != nil {
			panic(err)
		}
		p := &plugin{apply: in.apply, stdout: os.Stdout, stderr: os.Stderr, patience: in.Patience, handover: in.Handover, delPeriod: in.Patience}
		os.Exit(p.run())
	}
	os.Exit(m.Run())
}

func (in installation) apply(netns int, iface string, rs ruleset.RuleSet, last *nft.Known) (nft.Known, bool, error) {
	if in.Fails != "" {
		return nft.Known{}, false, errors.New(in.Fails)
	}
	var st syscall.Stat_t
	if err := syscall.Fstat(netns, &st); err != nil {
		return nft.Known{}, false, err
	}
	b, err := json.Marshal(applied{st.Ino, iface, rs, last != nil})
	if err == nil {
		err = os.WriteFile(in.Record, b, 0o600)
	}
	return nft.Known{Rules: rs, Epoch: 3, Generation: 7, Others: []ruleset.Epoch{2}}, true, err
}

// A fixture is one pod, one daemon and the plugin between them.
type fixture struct {
	*daemon
	pod     *netnstest.NS
	install installation
	env     map[string]string // of the plugin; an empty value is an unset variable
	conf    map[string]any    // on its standard input
}

func setup(t testing.TB) *fixture {
	t.Helper()
	d, pod := serve(t), netnstest.New(t)
	return &fixture{
		daemon:  d,
		pod:     pod,
		install: installation{Record: filepath.Join(t.TempDir(), "applied"), Patience: 10 * time.Second},
		env: map[string]string{
			"CNI_CONTAINERID": "4f8c0123456789",
			"CNI_NETNS":       pod.Path(),
			"CNI_IFNAME":      "eth0",
			"CNI_ARGS":        "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_UID=u1;K8S_POD_INFRA_CONTAINER_ID=4f8c",
			"CNI_PATH":        "/opt/cni/bin",
		},
		conf: map[string]any{
			"cniVersion": "1.1.0", "name": "k8s", "type": "podwall", "socket": d.socket,
			"prevResult": result1(pod.Path()),
		},
	}
}

// result1 is what a bridge plugin returns, with a field that nobody knows.
func result1(netns string) map[string]any {
	return map[string]any{
		"cniVersion": "1.1.0",
		"interfaces": []any{
			map[string]any{"name": "cni0", "mac": "02:00:00:00:00:01"},
			map[string]any{"name": "veth1"},
			map[string]any{"name": "eth0", "sandbox": netns, "mac": "02:00:00:00:00:02"},
		},
		"ips": []any{
			map[string]any{"address": "10.0.0.2/24", "gateway": "10.0.0.1", "interface": 2},
			map[string]any{"address": "fd00::2/64", "interface": 2},
		},
		"routes": []any{map[string]any{"dst": "0.0.0.0/0"}},
		"vendor": map[string]any{"x<y": true},
	}
}

// An outcome is what a plugin left.
type outcome struct {
	stdout, stderr string
	exit           int
	code           int    // in the error on stdout
	msg            string // in the error on stdout
}

// call runs the plugin for one verb.
func (f *fixture) call(t *testing.T, verb string) outcome {
	t.Helper()
	stdin, err := json.Marshal(f.conf)
	if err != nil {
		t.Fatal(err)
	}
	how, err := json.Marshal(f.install)
	if err != nil {
		t.Fatal(err)
	}
	return f.exec(t, os.Args[0], verb, string(stdin), asPlugin+"="+string(how))
}

// command is binary as the plugin, ready to start.
func (f *fixture) command(t testing.TB, binary, verb, stdin string, env ...string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), binary)
	cmd.Env = append([]string{"CNI_COMMAND=" + verb}, env...)
	for _, name := range slices.Sorted(maps.Keys(f.env)) {
		if v := f.env[name]; v != "" {
			cmd.Env = append(cmd.Env, name+"="+v)
		}
	}
	cmd.Stdin = strings.NewReader(stdin)
	return cmd
}

// exec runs binary as the plugin.
func (f *fixture) exec(t *testing.T, binary, verb, stdin string, env ...string) outcome {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := f.command(t, binary, verb, stdin, env...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	o := outcome{stdout: stdout.String(), stderr: stderr.String(), exit: cmd.ProcessState.ExitCode()}
	if o.exit != 0 {
		var e struct {
			Code int    `json:"code"`
			Msg  string `json:"msg"`
		}
		if err := json.Unmarshal(stdout.Bytes(), &e); err != nil {
			t.Fatalf("%s exited %d without an error on stdout: %v\n%s%s", verb, o.exit, err, o.stdout, o.stderr)
		}
		o.code, o.msg = e.Code, e.Msg
	}
	return o
}

// mustSucceed checks that nothing went wrong and nothing was said about it.
func (o outcome) mustSucceed(t *testing.T) {
	t.Helper()
	if o.exit != 0 || o.stderr != "" {
		t.Errorf("exit status %d, error %d %q, stderr %q; want success", o.exit, o.code, o.msg, o.stderr)
	}
}

// mustFail checks the error's code and that it says all of the words.
func (o outcome) mustFail(t *testing.T, code int, words ...string) {
	t.Helper()
	if o.exit == 0 || o.code != code {
		t.Errorf("exit status %d, error %d %q; want error %d", o.exit, o.code, o.msg, code)
	}
	for _, w := range words {
		if !strings.Contains(o.msg, w) {
			t.Errorf("error %q; want it to say %q", o.msg, w)
		}
	}
	if strings.Contains(o.msg, "\n") {
		t.Errorf("error %q is not one line", o.msg)
	}
}

// applied is what the plugin installed; ok says whether it did.
func (f *fixture) applied(t *testing.T) (a applied, ok bool) {
	t.Helper()
	b, err := os.ReadFile(f.install.Record)
	if errors.Is(err, os.ErrNotExist) {
		return a, false
	}
	if err == nil {
		err = json.Unmarshal(b, &a)
	}
	if err != nil {
		t.Fatal(err)
	}
	return a, true
}

// queued are the deletions that wait for the daemon. It takes them.
func (f *fixture) queued(t *testing.T) []api.Key {
	t.Helper()
	var keys []api.Key
	if err := queue.Drain(queue.Dir(f.socket), func(k api.Key) error { keys = append(keys, k); return nil }); err != nil {
		t.Fatal(err)
	}
	return keys
}

// A daemon stands in for podwalld: it remembers what it was told, and answers
// each verb with done, and add with rules, unless reply says otherwise.
type daemon struct {
	socket string
	stop   func()

	mu    sync.Mutex
	got   []message
	reply map[api.Verb]answer
}

// A message is one that the daemon received.
type message struct {
	verb  api.Verb
	body  json.RawMessage
	netns uint64 // inode of the descriptor that came with it
}

// An answer is a reply. The zero answer is none, and closes the connection.
type answer struct {
	verb api.Verb
	body any
	raw  string // sent instead
	hang bool   // send nothing and wait for the client to go
}

func refuse(code api.Code, text string) answer {
	return answer{verb: api.VerbError, body: api.Errorf(code, "%s", text)}
}

var rules = ruleset.RuleSet{Egress: ruleset.Chain{Default: ruleset.Accept}}

// serve starts a daemon that stops with the test.
func serve(t testing.TB) *daemon {
	t.Helper()
	dir, err := os.MkdirTemp(os.TempDir(), "podwall") // t.TempDir's may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{socket: filepath.Join(dir, "s"), reply: map[api.Verb]answer{}}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: d.socket})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	d.stop = sync.OnceFunc(func() {
		cancel()
		l.Close()
		all.Wait()
	})
	t.Cleanup(func() {
		d.stop()
		os.RemoveAll(dir)
	})
	all.Go(func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			all.Go(func() { d.talk(ctx, c) })
		}
	})
	return d
}

func (d *daemon) talk(ctx context.Context, c *net.UnixConn) {
	conn := api.NewConn(c, api.MaxRequest)
	defer conn.Close()
	for {
		e, file, err := conn.Receive(ctx)
		if err != nil {
			return
		}
		a := d.take(e, file)
		switch {
		case a.hang:
			_, _, _ = conn.Receive(ctx) // until the client goes
			return
		case a.raw != "":
			_, err = c.Write([]byte(a.raw))
		case a.verb == "":
			return
		default:
			err = conn.Send(ctx, a.verb, a.body, -1)
		}
		if err != nil {
			return // the client has gone
		}
	}
}

// take remembers a message and returns its answer.
func (d *daemon) take(e api.Envelope, file *os.File) answer {
	m := message{verb: e.Verb, body: e.Body}
	if file != nil {
		defer file.Close()
		if st, err := file.Stat(); err == nil {
			m.netns = st.Sys().(*syscall.Stat_t).Ino
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.got = append(d.got, m)
	if a, ok := d.reply[e.Verb]; ok {
		return a
	}
	if e.Verb == api.VerbAdd {
		return answer{verb: api.VerbRules, body: rules}
	}
	return answer{verb: api.VerbDone, body: struct{}{}}
}

// mustGet checks the verbs that the daemon has received, and decodes the body of
// the last into v unless that is nil. It forgets them all.
func (d *daemon) mustGet(t *testing.T, v any, verbs ...api.Verb) message {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	var got []api.Verb
	var last message
	for _, m := range d.got {
		got, last = append(got, m.verb), m
	}
	d.got = nil
	if !slices.Equal(got, verbs) {
		t.Fatalf("the daemon was told %v, want %v", got, verbs)
	}
	if v != nil {
		if err := json.Unmarshal(last.body, v); err != nil {
			t.Fatal(fmt.Errorf("%s: %w", last.verb, err))
		}
	}
	return last
}
