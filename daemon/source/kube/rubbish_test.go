package kube

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/podwall/podwall/daemon/source"
)

// Whatever answers in the API server's place: nothing is known by it, it is said
// what came, and the source goes on asking and ends when it is told to.
func TestRubbish(t *testing.T) {
	say := func(contentType, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", contentType)
			_, _ = io.WriteString(w, body)
		}
	}
	const kube, json = "application/vnd.kubernetes.protobuf", "application/json"
	tests := []struct {
		name   string
		answer http.HandlerFunc
		want   string // in what is said
	}{
		{"a web page", say("text/html", "<html>"+strings.Repeat("<p>Welcome!</p>\n", 1000)), "API server: "},
		{"nothing", say(json, ""), "API server: "},
		{"an empty object", say(json, "{}"), "API server: "},
		{"null", say(json, "null"), "API server: "},
		{"half an object", say(json, `{"kind":"PodList","apiVersion":"v1","items":[{"meta`), "API server: "},
		{"a list without a version", say(json, `{"kind":"PodList","apiVersion":"v1","items":[]}`), "API server: "},
		{"protobuf that is none", say(kube, "k8s\x00\xff\xff\xff\xff\xff"), "API server: "},
		{"a kind that is not known", say(json, `{"kind":"Teapot","apiVersion":"v9"}`), "API server: "},
		{"an error without a body", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }, "error on the server"},
		{"a redirect to itself", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.String(), http.StatusFound) }, "redirect"},
		{"a broken connection", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "EOF"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(tt.answer)
			defer server.Close()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			updates := make(chan source.Update)
			ended := make(chan error, 1)
			s := &Source{Kubeconfig: kubeconfig(t, server.URL), Node: "here", Log: slog.New(slog.DiscardHandler)}
			go func() {
				ended <- s.Run(ctx, func(u source.Update) {
					select {
					case updates <- u:
					case <-ctx.Done():
					}
				})
			}()
			u := <-updates
			if u.Unknown == "" || !u.Whole || len(u.Objects) > 0 || !strings.Contains(u.Unknown, tt.want) || strings.Count(u.Unknown, "\n") > 0 || len(u.Unknown) > 600 {
				t.Errorf("published %+v, want that nothing is known: %s", u, tt.want)
			}
			if st := s.Status(); st.Lag <= 0 {
				t.Errorf("status %+v", st)
			}
			cancel()
			select {
			case err := <-ended:
				if err != nil {
					t.Errorf("Run: %v", err)
				}
			case <-time.After(3 * time.Second):
				t.Error("Run goes on")
			}
		})
	}
}

// An API server that says who it is and is overloaded else is not asked the more.
func TestOverload(t *testing.T) {
	var asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if strings.HasSuffix(r.URL.Path, "/kube-system") {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"kube-system","uid":"u"}}`)
			return
		}
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer server.Close()
	s := &Source{Kubeconfig: kubeconfig(t, server.URL), Node: "here", Log: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := s.Run(ctx, func(source.Update) {}); err != nil {
		t.Fatal(err)
	}
	// Each of seven streams comes at most at 0, 0.1, 0.3, 0.7 and 1.5 seconds.
	if n := asked.Load(); n < 7 || n > 7*2*5 {
		t.Errorf("%d requests in two seconds, want at most %d", n, 7*2*5)
	}
}

// kubeconfig writes one for an API server that asks for no credentials.
func kubeconfig(t *testing.T, url string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	content := `{"apiVersion":"v1","kind":"Config","current-context":"it","clusters":[{"name":"it","cluster":{"server":"` + url +
		`"}}],"contexts":[{"name":"it","context":{"cluster":"it"}}]}`
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
