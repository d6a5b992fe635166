package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/podwall/podwall/daemon/doctor"
	"github.com/podwall/podwall/daemon/probe"
	"github.com/podwall/podwall/daemon/source/manifest"
	"github.com/podwall/podwall/internal/api"
)

var update = flag.Bool("update", false, "rewrite what the scripts expect")

// TestScripts runs testdata. A script's folder answers holds what the daemon
// says: VERB.json, VERB.error.json for a refusal, or VERB.events.json for a stream
// of one message; what it was asked lies in asked/VERB.json. Without that folder nobody listens. It is 12:00:00 UTC.
//
//	policyctl ARG...            exits 0
//	exits STATUS policyctl …    exits STATUS
//	on-terminal policyctl …     with stdout a terminal, escape codes written as ^[; also on-terminal exits STATUS …
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           "testdata",
		UpdateScripts: *update,
		Setup:         serveAnswers,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"policyctl": func(ts *testscript.TestScript, _ bool, args []string) { run(ts, exitDone, false, args) },
			"exits": func(ts *testscript.TestScript, _ bool, args []string) {
				status, err := strconv.Atoi(args[0])
				ts.Check(err)
				run(ts, status, false, args[2:])
			},
			"on-terminal": func(ts *testscript.TestScript, _ bool, args []string) {
				want := exitDone
				if args[0] == "exits" {
					status, err := strconv.Atoi(args[1])
					ts.Check(err)
					want, args = status, args[2:]
				}
				run(ts, want, true, args[1:])
			},
		},
	})
}

func run(ts *testscript.TestScript, want int, terminal bool, args []string) {
	var stdout bytes.Buffer
	p := program{
		stdout: &stdout, stderr: ts.Stderr(),
		now:      func() time.Time { return time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC) },
		read:     manifest.Read,
		terminal: terminal,
		noColor:  ts.Getenv("NO_COLOR") != "",
		node:     patient(),
	}
	for i, a := range args {
		args[i] = strings.ReplaceAll(a, "DIR/", ts.MkAbs("")+"/")
	}
	got := p.run(context.Background(), append([]string{"--socket", ts.MkAbs("podwalld.sock")}, args...))
	_, err := ts.Stdout().Write(bytes.ReplaceAll(stdout.Bytes(), []byte("\x1b"), []byte("^[")))
	ts.Check(err)
	if got != want {
		ts.Fatalf("policyctl %q: exit status %d, want %d", args, got, want)
	}
}

// patient is the machine that doctor examines: its files are below --host-root.
func patient() doctor.Node {
	n := doctor.ThisMachine()
	n.Privileged = true
	n.Probe = func() (probe.Lacks, error) { return probe.Lacks{Owner: "operation not supported"}, nil }
	n.Synchronised = func() (bool, error) { return true, nil }
	n.Free = func(string) (uint64, error) { return 1 << 30, nil }
	n.Run = func(context.Context, string, ...string) (string, error) { return "", fs.ErrNotExist }
	return n
}

// serveAnswers starts a daemon that says what the script's folder answers says.
func serveAnswers(env *testscript.Env) error {
	if _, err := os.Stat(filepath.Join(env.WorkDir, "answers")); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := os.Mkdir(filepath.Join(env.WorkDir, "asked"), 0o700); err != nil {
		return err
	}
	l, err := net.Listen("unix", filepath.Join(env.WorkDir, "podwalld.sock"))
	if err != nil {
		return err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			answer(env.WorkDir, api.NewConn(c.(*net.UnixConn), api.MaxRequest))
		}
	}()
	env.Defer(func() { _ = l.Close(); <-done })
	return nil
}

// answer answers one request; a verb without an answer breaks the connection.
func answer(dir string, c *api.Conn) {
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	e, _, err := c.Receive(ctx)
	if err != nil {
		return
	}
	if err := os.WriteFile(filepath.Join(dir, "asked", string(e.Verb)+".json"), append(e.Body, '\n'), 0o600); err != nil {
		return
	}
	if b, err := os.ReadFile(filepath.Join(dir, "answers", string(e.Verb)+".events.json")); err == nil {
		_ = c.Send(ctx, api.VerbEvents, json.RawMessage(b), -1)
		_ = c.Send(ctx, api.VerbDone, nil, -1)
		return
	}
	for suffix, verb := range map[string]api.Verb{".json": api.VerbDone, ".error.json": api.VerbError} {
		if b, err := os.ReadFile(filepath.Join(dir, "answers", string(e.Verb)+suffix)); err == nil {
			_ = c.Send(ctx, verb, json.RawMessage(b), -1) // the client reports what is missing
			return
		}
	}
}
