package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/podwall/podwall/daemon/doctor"
	"github.com/podwall/podwall/internal/api"
)

// secrets are what must never be in a bundle.
var secrets = []string{
	"hunter2", "s3cr3t-value", "TOPSECRET0", "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC", "abcdef.0123456789abcdef",
	"eyJhbGciOiJSUzI1NiIsImtpZCI6IiJ9", "c2VydmljZWFjY291bnQ", "deadbeefcafe",
}

const key = "-----BEGIN RSA PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\n-----END RSA PRIVATE KEY-----"

const jwt = "eyJhbGciOiJSUzI1NiIsImtpZCI6IiJ9.eyJpc3MiOiJrdWJlcm5ldGVzL3NlcnZpY2VhY2NvdW50.c2VydmljZWFjY291bnQ"

func TestClean(t *testing.T) {
	tests := []struct{ name, in, keeps string }{
		{"a kubeconfig", "users:\n- name: admin\n  user:\n    token: hunter2\n    client-key-data: " + "TUlJRXZR" + "TOPSECRET0\n    password: 'hunter2'\n", "name: admin"},
		{"a key as a block", "name: x\nprivate-key: |\n  " + strings.ReplaceAll(key, "\n", "\n  ") + "\nnext: kept\n", "next: kept"},
		{"a secret map", "secrets:\n  a: hunter2\n  b:\n  - s3cr3t-value\nother: kept", "other: kept"},
		{"a secret map in one line", "secret: {a: hunter2, b: s3cr3t-value}\nother: kept", "other: kept"},
		{"a secret list", "tokens: [hunter2, s3cr3t-value]\nother: kept", "other: kept"},
		{"JSON however deep", `{"plugins": [{"type": "calico", "policy": {"k8s_auth_token": "hunter2", "secret": {"value": ["s3cr3t-value"]}}}], "kept": true}`, `"kept": true`},
		{"JSON in a line of a log", `level=info msg="request" body={"password":"hun\"ter2s3cr3t-value","name":"kept"}`, `"name":"kept"`},
		{"a key of PEM in a line", `key=` + strings.ReplaceAll(key, "\n", `\n`) + " kept", "kept"},
		{"a key that is cut off", key[:60] + "\n", "removed"},
		{"a header", "GET / HTTP/1.1\nAuthorization: Bearer hunter2hunter2\nHost: kept\n", "Host: kept"},
		{"a header in other words", "sent Basic aHVudGVyMg==deadbeefcafe to kept", "kept"},
		{"a web token", "401 for " + jwt + " at kept", "at kept"},
		{"a password in a URL", "get https://admin:hunter2@kept.example/x", "@kept.example/x"},
		{"a bootstrap token", "kubeadm join --token abcdef.0123456789abcdef kept", "kept"},
		{"a list over several lines", "tokens: [hunter2,\n  s3cr3t-value,\n]\nother: kept", "other: kept"},
		{"a flag", "--kubelet-token=hunter2 --kept", "--kept"},
		{"no text", "\xff\xfe token=hunter2 kept", "kept"},
		{"what is no secret stays", "ct original ip saddr 10.0.0.1 tcp dport 443 accept comment \"NetworkPolicy shop/keyboard\"", "ct original ip saddr 10.0.0.1 tcp dport 443 accept comment \"NetworkPolicy shop/keyboard\""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := clean(tt.in)
			leaks(t, "the text", got)
			if !strings.Contains(got, tt.keeps) {
				t.Errorf("lacks %q:\n%s", tt.keeps, got)
			}
			if again := clean(got); again != got {
				t.Errorf("cleaned again it is\n%s\nnot\n%s", again, got)
			}
		})
	}
}

func leaks(t *testing.T, where, text string) {
	t.Helper()
	for _, s := range secrets {
		if strings.Contains(text, s) {
			t.Errorf("%s has %q in it:\n%s", where, s, text)
		}
	}
}

// opened is the files of a bundle.
func opened(t *testing.T, b []byte) map[string]string {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if h.Mode != 0o600 || !strings.HasPrefix(h.Name, folder) || strings.Contains(h.Name, "..") {
			t.Errorf("%s has mode %o", h.Name, h.Mode)
		}
		files[strings.TrimPrefix(h.Name, folder)] = string(text)
	}
}

// A node full of secrets: each file that a bundle takes has some, and so has what
// the daemon and programs say.
func TestBundleHoldsNoSecret(t *testing.T) {
	root := t.TempDir()
	for path, content := range map[string]string{
		"podwalld.yaml": "kubeconfig: /etc/kubeconfig\ntoken: hunter2\n",
		"net.conflist":  `{"name": "k8s", "plugins": [{"type": "calico", "etcd_key": "x", "password": "hunter2"}, {"type": "podwall"}]}`,
		"kubeconfig":    "users: [{user: {token: hunter2}}]",
	} {
		if err := os.WriteFile(filepath.Join(root, path), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pod := api.PodSummary{Attachment: api.Attachment{Key: api.Key{ContainerID: "../../c1", Interface: "eth0"}, Netns: "/run/netns/one", Namespace: "shop", Name: "web/../.."}}
	var ran []string
	var out bytes.Buffer
	err := Write(t.Context(), &out, Sources{
		Root: root, Version: "v1", Now: time.Unix(1e9, 0),
		Results: []doctor.Result{{Check: "daemon", Verdict: doctor.Failed, Found: "dial: token=hunter2"}},
		Files:   map[string]string{"config/podwalld.yaml": "podwalld.yaml", "config/net.conflist": "net.conflist", "config/none": "none"},
		Ask: func(_ context.Context, verb api.Verb, _, answer any) error {
			switch answer := answer.(type) {
			case *[]api.PodSummary:
				*answer = []api.PodSummary{pod}
			case *any:
				if verb == api.VerbPolicies {
					return errors.New("policies: password=hunter2")
				}
				*answer = map[string]any{"labels": map[string]any{"app": "web", "api-key": "s3cr3t-value"}, "problems": []any{jwt}}
			}
			return nil
		},
		Run: func(_ context.Context, path string, args ...string) (string, error) {
			ran = append(ran, path+" "+strings.Join(args, " "))
			if path == "lsmod" {
				return "", errors.New("executable file not found")
			}
			return "line\nGET https://u:hunter2@api " + jwt + "\n" + key + "\n", nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	files := opened(t, out.Bytes())
	for name, text := range files {
		leaks(t, name, text)
	}
	const web = "shop_web_______-______c1_eth0"
	for _, want := range []string{"README", "doctor.json", "status.json", "pods.json", "config/podwalld.yaml", "config/net.conflist", "log", "kernel"} {
		if files[want] == "" {
			t.Errorf("the bundle lacks %s", want)
		}
	}
	var inspections, rules int
	for name := range files {
		if strings.HasPrefix(name, "inspect/") {
			inspections++
		}
		if strings.HasPrefix(name, "nft/") {
			rules++
		}
	}
	if inspections != 1 || rules != 2 {
		t.Errorf("%d inspections and %d rule sets, want 1 and 2, such as %s", inspections, rules, web)
	}
	if !json.Valid([]byte(files["doctor.json"])) || !json.Valid([]byte(files["status.json"])) || !json.Valid([]byte(files["config/net.conflist"])) {
		t.Error("what was JSON is none any more")
	}
	for _, want := range []string{"config/none: open", "policies.json: policies: password=", "modules: executable file not found", "  doctor.json\n"} {
		if !strings.Contains(files["README"], want) {
			t.Errorf("the README lacks %q:\n%s", want, files["README"])
		}
	}
	if want := "nsenter --net=" + root + "/run/netns/one nft list table inet podwall"; !strings.Contains(strings.Join(ran, "\n"), want) {
		t.Errorf("ran %q, want %q", ran, want)
	}
}

func TestLongFilesKeepTheirEnd(t *testing.T) {
	var out bytes.Buffer
	err := Write(t.Context(), &out, Sources{Root: t.TempDir(),
		Ask: func(context.Context, api.Verb, any, any) error { return errors.New("away") },
		Run: func(context.Context, string, ...string) (string, error) {
			return strings.Repeat("a line of a log\n", longest/16+1) + "the end", nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if log := opened(t, out.Bytes())["log"]; len(log) > longest+100 || !strings.HasSuffix(log, "the end") {
		t.Errorf("the log has %d bytes and ends %q", len(log), log[len(log)-10:])
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space left") }

func TestFullDisk(t *testing.T) {
	err := Write(t.Context(), full{}, Sources{
		Ask: func(context.Context, api.Verb, any, any) error { return errors.New("away") },
		Run: func(context.Context, string, ...string) (string, error) { return "x", nil },
	})
	if err == nil || !strings.Contains(err.Error(), "write bundle: no space left") {
		t.Errorf("error %v", err)
	}
}

func FuzzClean(f *testing.F) {
	f.Add("token: hunter2\n")
	f.Add(`{"password": {"a": 1}}`)
	f.Add("secret: |\n  a\n b\n")
	f.Fuzz(func(t *testing.T, text string) {
		if strings.ContainsAny(text, "\"'{}[]|>&!\\\n\r") {
			return // the value would not be one word
		}
		if got := clean(text + "\ntoken: s3cr3t-value\n" + text); strings.Contains(got, "s3cr3t-value") && !strings.Contains(text, "s3cr3t-value") {
			t.Errorf("clean(%q) keeps the token: %q", text, got)
		}
	})
}
