package apiserver

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// serve starts an API server over TLS, which h answers for, and returns a client
// with the account of a pod.
func serve(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	s := httptest.NewTLSServer(h)
	t.Cleanup(s.Close)
	c := &Client{Address: strings.TrimPrefix(s.URL, "https://"), Account: t.TempDir()}
	put(t, c, "token", "secret\n")
	put(t, c, "ca.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})))
	return c
}

func put(t *testing.T, c *Client, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(c.Account, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// answer is a server that says the same to everybody.
func answer(code int, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		_, _ = io.WriteString(w, text) // the client may have gone
	}
}

const tainted = `{"metadata": {"resourceVersion": "7", "labels": {"zone": "a"}}, "status": {"nodeInfo": {"containerRuntimeVersion": "containerd://2.3.7"}},
	"spec": {"taints": [{"key": "theirs", "effect": "NoExecute", "timeAdded": "2026-11-20T12:00:00Z"}, {"key": "ours", "value": "x", "effect": "NoSchedule"}]}}`

func TestNode(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != "GET" || r.URL.Path != "/api/v1/nodes/n 1" || r.Header.Get("Authorization") != "Bearer secret" {
			t.Errorf("%s %s %q", r.Method, r.URL, r.Header)
		}
		answer(200, tainted)(w, r)
	})
	n, err := c.Node(t.Context(), "n 1")
	if err != nil || n.Runtime != "containerd://2.3.7" || n.Labels["zone"] != "a" || !slices.Equal(n.Taints, []string{"theirs", "ours"}) {
		t.Errorf("%+v, %v", n, err)
	}
}

// The other taints stay, with fields that are not known here, and a change by
// somebody else in between is taken into account.
func TestTaint(t *testing.T) {
	tests := []struct {
		name      string
		node      string
		want      bool
		conflicts int
		patch     string // empty for none
	}{
		{"taken away", tainted, false, 0, `{"metadata":{"resourceVersion":"7"},"spec":{"taints":[{"key":"theirs","effect":"NoExecute","timeAdded":"2026-11-20T12:00:00Z"}]}}`},
		{"taken away while others write", tainted, false, 3, `{"metadata":{"resourceVersion":"7"},"spec":{"taints":[{"key":"theirs","effect":"NoExecute","timeAdded":"2026-11-20T12:00:00Z"}]}}`},
		{"is not there", `{"metadata": {"resourceVersion": "8"}}`, false, 0, ""},
		{"set", `{"metadata": {"resourceVersion": "8"}}`, true, 0, `{"metadata":{"resourceVersion":"8"},"spec":{"taints":[{"key":"ours","effect":"NoSchedule"}]}}`},
		{"is there", tainted, true, 0, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var patch string
			conflicts := tt.conflicts
			c := serve(t, func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				switch {
				case r.Method == "GET":
					answer(200, tt.node)(w, r)
				case conflicts > 0:
					conflicts--
					answer(409, `{"message": "the object has been modified"}`)(w, r)
				default:
					patch = string(body)
					if got := r.Header.Get("Content-Type"); got != "application/merge-patch+json" {
						t.Errorf("content type %q", got)
					}
					answer(200, tt.node)(w, r)
				}
			})
			changed, err := c.Taint(t.Context(), "n", "ours", tt.want)
			if err != nil || changed != (tt.patch != "") || patch != tt.patch {
				t.Errorf("changed %v, error %v, patch\n%s\nwant\n%s", changed, err, patch, tt.patch)
			}
		})
	}
}

// Whoever reads an error knows what to do, and no server can fill a log.
func TestRefusals(t *testing.T) {
	tests := []struct {
		name   string
		answer http.HandlerFunc
		want   string
	}{
		{"verb that RBAC does not give", answer(403, `{"kind": "Status", "message": "nodes \"n\" is forbidden: User \"x\" cannot get resource \"nodes\""}`),
			`get nodes n: forbidden: give podwall's role the verb "get" on nodes (nodes "n" is forbidden: User "x" cannot get resource "nodes")`},
		{"no such node", answer(404, `{"message": "nodes \"n\" not found"}`), `get nodes n: not found (nodes "n" not found)`},
		{"token that does not count", answer(401, `{"message": "Unauthorized"}`), "get nodes n: unauthorized (Unauthorized)"},
		{"page of a proxy", answer(502, "<html>\n<h1>no</h1>"+strings.Repeat("!", 1<<20)), "get nodes n: bad gateway (<html> <h1>no</h1>!!"},
		{"answer that is no JSON", answer(200, "ok"), "get nodes n: read the answer: invalid character"},
		{"answer that ends early", answer(200, `{"metadata": {`), "get nodes n: read the answer: unexpected EOF"},
		{"answer of another type", answer(200, `{"metadata": []}`), "get nodes n: read the answer: json: cannot unmarshal"},
		{"leads elsewhere", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://evil.example/", http.StatusFound)
		}, "get nodes n: found"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := serve(t, tt.answer).Node(t.Context(), "n")
			if err == nil || !strings.HasPrefix(err.Error(), tt.want) || len(err.Error()) > 500 || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %.600v, want %s", err, tt.want)
			}
		})
	}
	if err := (&Error{Code: 404}); !errors.Is(err, ErrNotFound) || errors.Is(err, errConflict) {
		t.Error("answers are not told apart by their code")
	}
}

// The token goes to nobody but the server whose certificate the cluster signed.
func TestWrongServer(t *testing.T) {
	asked := false
	c := serve(t, func(http.ResponseWriter, *http.Request) { asked = true })
	other := httptest.NewUnstartedServer(nil)
	other.StartTLS()
	defer other.Close()
	const nobody = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
	put(t, c, "ca.crt", nobody)
	if _, err := c.Node(t.Context(), "n"); err == nil || !strings.Contains(err.Error(), "no certificate") || asked {
		t.Errorf("%v, asked %v", err, asked)
	}
	good := serve(t, answer(200, "{}"))
	good.Address = strings.Replace(good.Address, "127.0.0.1", "localhost", 1) // not in its certificate
	if _, err := good.Node(t.Context(), "n"); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("%v", err)
	}
}

func TestAccountIsReadEachTime(t *testing.T) {
	var token string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		token = r.Header.Get("Authorization")
		answer(200, "{}")(w, r)
	})
	put(t, c, "token", "newer")
	if _, err := c.Node(t.Context(), "n"); err != nil || token != "Bearer newer" {
		t.Errorf("%q, %v", token, err)
	}
	if err := os.Remove(filepath.Join(c.Account, "token")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Node(t.Context(), "n"); err == nil || !strings.Contains(err.Error(), "read service account") {
		t.Errorf("%v", err)
	}
}

func TestDaemonSet(t *testing.T) {
	tests := []struct {
		name   string
		answer http.HandlerFunc
		gone   bool
	}{
		{"there", answer(200, `{"metadata": {}, "spec": {"template": {"spec": {"nodeSelector": {"os": "linux"}}}}}`), false},
		{"being deleted", answer(200, `{"metadata": {"deletionTimestamp": "2026-11-20T12:00:00Z"}}`), true},
		{"deleted", answer(404, `{}`), true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d, err := serve(t, tt.answer).DaemonSet(t.Context(), "podwall", "agent")
			if err != nil || d.Gone != tt.gone || (!tt.gone && d.NodeSelector["os"] != "linux") {
				t.Errorf("%+v, %v", d, err)
			}
		})
	}
	if _, err := serve(t, answer(403, "{}")).DaemonSet(t.Context(), "podwall", "agent"); err == nil {
		t.Error("one that must not be read is taken for gone or there")
	}
}

// A watch tells each change, ends when the server ends it, and does not believe
// rubbish.
func TestWatchDaemonSet(t *testing.T) {
	event := func(kind, metadata string) string {
		return fmt.Sprintf(`{"type": %q, "object": {"metadata": {%s}}}`+"\n", kind, metadata)
	}
	tests := []struct {
		name   string
		answer http.HandlerFunc
		gone   []bool
		fails  bool
	}{
		{"there, and deleted", answer(200, event("ADDED", "")+event("DELETED", "")), []bool{false, true}, false},
		{"deleted in the foreground", answer(200, event("ADDED", "")+event("MODIFIED", `"deletionTimestamp": "x"`)), []bool{false, true}, false},
		{"deleted and made again", answer(200, event("DELETED", "")+event("ADDED", "")), []bool{true, false}, false},
		{"bookmarks say nothing", answer(200, event("BOOKMARK", "")), nil, false},
		{"expired", answer(200, event("ADDED", "")+`{"type": "ERROR", "object": {"code": 410}}`), []bool{false}, true},
		{"rubbish", answer(200, event("ADDED", "")+"<html>"), []bool{false}, false},
		{"not permitted", answer(403, `{"message": "no"}`), nil, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var gone []bool
			err := serve(t, tt.answer).WatchDaemonSet(t.Context(), "podwall", "agent", func(d DaemonSet) { gone = append(gone, d.Gone) })
			if !slices.Equal(gone, tt.gone) || (err != nil) != tt.fails {
				t.Errorf("told %v, error %v", gone, err)
			}
		})
	}
}

// A watch is told while it lasts, and ends with its context.
func TestWatchIsALongAnswer(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if got := r.URL.Query().Get("fieldSelector"); got != "metadata.name=agent" {
			t.Errorf("field selector %q", got)
		}
		_, _ = io.WriteString(w, `{"type": "ADDED", "object": {}}`)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := c.WatchDaemonSet(ctx, "podwall", "agent", func(DaemonSet) { cancel() }); err != nil || ctx.Err() != context.Canceled {
		t.Errorf("%v, context %v", err, ctx.Err())
	}
}

func FuzzTaints(f *testing.F) {
	f.Add(tainted)
	f.Add(`{"spec": {"taints": [null, 1, {"key": 2}]}}`)
	f.Fuzz(func(t *testing.T, text string) {
		var n node
		if json.Unmarshal([]byte(text), &n) != nil {
			return
		}
		for _, want := range []bool{true, false} {
			taints, _ := with(n.Spec.Taints, "ours", want)
			again, differ := with(taints, "ours", want)
			if differ || len(again) != len(taints) {
				t.Errorf("%s: %s is changed again", text, taints)
			}
			if _, err := json.Marshal(taints); err != nil {
				t.Errorf("%s: %v", text, err)
			}
		}
	})
}
