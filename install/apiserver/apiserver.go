// Package apiserver asks Kubernetes the few things that an installer has to know:
// whether its node is tainted, what runs the node's containers, and whether its
// DaemonSet is still wanted.
//
// It speaks plain HTTPS with a pod's service account. The installer has to be small
// and to start at once, and needs no cache and no watch of many objects.
//
// # Contract
//
// Every call ends with its context. Token and certificate are read for each call,
// so that new ones count at once. What the server refuses is an *Error, and one that
// RBAC is the reason of names the verb and the resource that are missing. Text that
// a server sends gets into no error without a bound.
package apiserver

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
)

// A Client speaks to the API server.
type Client struct {
	// Address is the server's host:port.
	Address string
	// Account is the directory that has the files token and ca.crt.
	Account string
}

// Account is where Kubernetes puts a pod's token and the server's certificate.
const Account = "/var/run/secrets/kubernetes.io/serviceaccount"

// An Error is an answer that is not what was asked for.
type Error struct {
	Verb, Resource, Name string
	Code                 int    // of HTTP
	Message              string // the server's
}

func (e *Error) Error() string {
	text := fmt.Sprintf("%s %s %s: ", e.Verb, e.Resource, e.Name)
	if e.Code == http.StatusForbidden {
		return text + fmt.Sprintf("forbidden: give podwall's role the verb %q on %s (%s)", e.Verb, e.Resource, e.Message)
	}
	return text + fmt.Sprintf("%s (%s)", strings.ToLower(http.StatusText(e.Code)), e.Message)
}

// Is reports whether target is the same answer to any question.
func (e *Error) Is(target error) bool {
	var t *Error
	return errors.As(target, &t) && t.Code == e.Code
}

// What a caller may have to tell apart.
var (
	ErrNotFound = &Error{Code: http.StatusNotFound}
	errConflict = &Error{Code: http.StatusConflict}
)

const (
	longest  = 16 << 20 // bytes in an answer: a node may name hundreds of images
	shown    = 300      // bytes of an answer in an error
	patching = "application/merge-patch+json"
)

// A question is one request.
type question struct {
	verb, resource, name string // as RBAC calls them, to say so in errors
	method, path         string
	body                 any // sent as a merge patch; nil sends nothing
}

// ask sends q and returns the body of a good answer, which the caller closes.
func (c *Client) ask(ctx context.Context, q question) (io.ReadCloser, error) {
	body, err := json.Marshal(q.body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, q.method, "https://"+c.Address+q.path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if q.body == nil {
		req.Body, req.ContentLength = http.NoBody, 0
	} else {
		req.Header.Set("Content-Type", patching)
	}
	req.Header.Set("Accept", "application/json")
	tlsConfig, err := c.credentials(req)
	if err != nil {
		return nil, err
	}
	client := http.Client{
		Transport:     &http.Transport{TLSClientConfig: tlsConfig, DisableKeepAlives: true, ForceAttemptHTTP2: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%s %s %s: %w", q.verb, q.resource, q.name, err)
	}
	if res.StatusCode != http.StatusOK {
		defer res.Body.Close()
		return nil, &Error{q.verb, q.resource, q.name, res.StatusCode, message(res.Body)}
	}
	return res.Body, nil
}

// get asks q and reads the answer into v.
func (c *Client) get(ctx context.Context, q question, v any) error {
	body, err := c.ask(ctx, q)
	if err != nil {
		return err
	}
	defer body.Close()
	if err := json.NewDecoder(io.LimitReader(body, longest)).Decode(v); err != nil {
		return fmt.Errorf("%s %s %s: read the answer: %w", q.verb, q.resource, q.name, err)
	}
	return nil
}

// credentials puts the account's token into req and returns whom to trust.
func (c *Client) credentials(req *http.Request) (*tls.Config, error) {
	token, err := os.ReadFile(filepath.Join(c.Account, "token"))
	if err != nil {
		return nil, fmt.Errorf("read service account: %w", err)
	}
	ca, err := os.ReadFile(filepath.Join(c.Account, "ca.crt"))
	if err != nil {
		return nil, fmt.Errorf("read service account: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("read service account: %s: no certificate in it", filepath.Join(c.Account, "ca.crt"))
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, nil
}

// message is what a refusal says: the message of a Status, or the beginning of
// whatever it is, on one line.
func message(r io.Reader) string {
	body, err := io.ReadAll(io.LimitReader(r, longest))
	if err != nil {
		return err.Error()
	}
	var status struct{ Message string }
	text := string(body)
	if json.Unmarshal(body, &status) == nil && status.Message != "" {
		text = status.Message
	}
	if len(text) > shown {
		text = text[:shown] + "…"
	}
	return strings.Join(strings.Fields(strings.ToValidUTF8(text, "?")), " ")
}
