package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/podwall/podwall/conf/daemonconf"
	"github.com/podwall/podwall/internal/logtest"
)

func write(t testing.TB, path, content string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// A value for each field that is neither its default nor the file's.
func valuesOf(f daemonconf.Field) (inFile, asFlag string) {
	switch f.Flag {
	case "log-level":
		return "warn", "debug"
	case "log-format":
		return "text", "json"
	case "node-egress":
		return "allow", "policy"
	case "tamper-protection":
		return "off", "on"
	case "pod-annotations":
		return "[raw-sockets]", "raw-sockets,raw-sockets"
	case "events":
		return "[accepts]", "accepts,drops"
	case "event-rate", "event-burst":
		return "5", "6"
	case "sandboxed-runtimes":
		return "[a,b]", "c,d-*"
	case "sandboxed-pods":
		return "report", "refuse"
	case "metrics-address":
		return "127.0.0.1:1", "127.0.0.1:2"
	case "node-name":
		return "from-file", "from-flag"
	case "metrics-pods":
		return "3", "4"
	}
	return "/from/file/" + f.Flag, "/from/flag/" + f.Flag
}

// Each flag has its field, and wins over it.
func TestFlagsWinOverTheFile(t *testing.T) {
	for _, f := range daemonconf.Fields() {
		t.Run(f.Flag, func(t *testing.T) {
			inFile, asFlag := valuesOf(f)
			file := write(t, filepath.Join(t.TempDir(), "c.yaml"), f.Name+": "+inFile+"\n")
			config := func(args ...string) daemonconf.Config {
				t.Helper()
				read, err := commandLine(args, &bytes.Buffer{})
				if err != nil {
					t.Fatal(err)
				}
				cfg, err := read()
				if err != nil {
					t.Fatal(err)
				}
				return cfg
			}
			want := daemonconf.Default()
			if err := want.Set(f.Flag, asFlag); err != nil {
				t.Fatal(err)
			}
			for _, args := range [][]string{{"--" + f.Flag, asFlag}, {"--config", file, "--" + f.Flag + "=" + asFlag}, {"--" + f.Flag, asFlag, "--config", file}} {
				if got := config(args...); !reflect.DeepEqual(got, want) {
					t.Errorf("%v gives %+v, want %+v", args, got, want)
				}
			}
			if err := want.Set(f.Flag, strings.Trim(inFile, "[]")); err != nil {
				t.Fatal(err)
			}
			if got := config("--config", file); !reflect.DeepEqual(got, want) {
				t.Errorf("the file gives %+v, want %+v", got, want)
			}
		})
	}
}

func TestExitStatusAndMessages(t *testing.T) {
	p := newPlace(t)
	shared := filepath.Join(p.dir, "shared")
	if err := os.Mkdir(shared, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(shared, 0o777); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(p.dir, "link")
	if err := os.Symlink(shared, link); err != nil {
		t.Fatal(err)
	}
	file := write(t, filepath.Join(p.dir, "file"), "precious")
	bad := write(t, filepath.Join(p.dir, "bad.yaml"), "socketPath: /x\n")
	tests := []struct {
		name   string
		args   []string
		status int
		want   []string // in what is printed
	}{
		{"help", []string{"-h"}, 0, []string{"Usage: podwalld", "--policy-dir", "(default /run/podwall/podwalld.sock)"}},
		{"version", []string{"--version"}, 0, []string{"podwalld "}},
		{"an unknown flag", []string{"--sokcet", "/x"}, 2, []string{"sokcet"}},
		{"an argument", []string{"start"}, 2, []string{`argument "start"`}},
		{"a flag's wrong value", []string{"--log-level", "loud"}, 2, []string{"--log-level", "loud"}},
		{"a flag without a value", []string{"--socket"}, 2, []string{"socket"}},
		{"no file", []string{"--config", "/none"}, 1, []string{"/none", "no such file"}},
		{"a field that does not exist", []string{"--config", bad}, 1, []string{bad, "socketPath"}},
		{"no source", []string{}, 1, []string{"policyDir and kubeconfig are empty", "--policy-dir", "--kubeconfig"}},
		{"two sources", p.args("--kubeconfig", "/x"), 1, []string{"kubeconfig", "one source"}},
		{"a socket in a directory of everybody's", p.args("--socket", shared+"/s"), 1, []string{"socket: ", shared, "chmod go-w"}},
		{"a socket in a directory behind a link", p.args("--socket", link+"/s"), 1, []string{"socket: ", link, "symbolic link"}},
		{"a socket below a file", p.args("--socket", file+"/s"), 1, []string{"socket: ", "not a directory"}},
		{"a socket that is a file", p.args("--socket", file), 1, []string{"listen at " + file, "something else"}},
		{"a state directory that is a file", p.args("--state-dir", file), 1, []string{"stateDir: ", file}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out logtest.Buffer
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if status := run(ctx, tt.args, &out, &out); status != tt.status {
				t.Errorf("status %d, want %d", status, tt.status)
			}
			for _, want := range tt.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("output lacks %q:\n%s", want, out.String())
				}
			}
			if tt.status != 0 && strings.Count(strings.TrimSpace(out.String()), "\n") > 0 && !strings.Contains(out.String(), "level=") {
				t.Errorf("the error is more than a line:\n%s", out.String())
			}
		})
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "precious" {
		t.Errorf("the file in the socket's place is %q, %v", b, err)
	}
}

func TestNodeName(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for configured, want := range map[string]string{"worker-1": "worker-1", "": strings.ToLower(host)} {
		if got, err := nodeName(configured); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("nodeName(%q) = %q, %v; want %q", configured, got, err, want)
		}
	}
}
