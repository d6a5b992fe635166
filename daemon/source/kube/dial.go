package kube

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/podwall/podwall/internal/version"
)

const (
	// protobuf takes half of the time and a third of the bytes of JSON.
	protobuf = runtime.ContentTypeProtobuf
	accepted = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
)

// InCluster reports whether this process runs in a pod that has a service account.
func InCluster() bool {
	return os.Getenv("KUBERNETES_SERVICE_HOST") != "" && os.Getenv("KUBERNETES_SERVICE_PORT") != ""
}

// newCodecs reads the kinds that are read, in every form.
func newCodecs() serializer.CodecFactory { return serializer.NewCodecFactory(newScheme()) }

// A dialer makes clients of the API server. A kubeconfig that has changed is read
// again.
type dialer struct {
	kubeconfig string // path; empty is the pod's own configuration

	mu      sync.Mutex
	content []byte // of the kubeconfig that the rest is made of
	config  *rest.Config
	http    *http.Client
	codecs  serializer.CodecFactory
	clients map[schema.GroupVersion]*rest.RESTClient
}

// client returns a client for a group and version. It does not talk to the API
// server yet.
func (d *dialer) client(gv schema.GroupVersion) (*rest.RESTClient, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.load(); err != nil {
		return nil, err
	}
	if c, ok := d.clients[gv]; ok {
		return c, nil
	}
	cfg := rest.CopyConfig(d.config)
	cfg.GroupVersion, cfg.NegotiatedSerializer = &gv, d.codecs.WithoutConversion()
	cfg.APIPath = "/apis"
	if gv.Group == "" {
		cfg.APIPath = "/api"
	}
	c, err := rest.RESTClientForConfigAndClient(cfg, d.http)
	if err != nil {
		return nil, fmt.Errorf("kubernetes client: %w", err)
	}
	d.clients[gv] = c
	return c, nil
}

// close ends the connections that nobody uses any more.
func (d *dialer) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.http != nil {
		d.http.CloseIdleConnections()
	}
}

// address is the API server's, as far as it is known.
func (d *dialer) address() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.load(); err != nil {
		return d.where()
	}
	return d.config.Host
}

func (d *dialer) where() string {
	if d.kubeconfig == "" {
		return "the pod's service account"
	}
	return d.kubeconfig
}

// load reads the configuration, if it is new. One that can't be read any more stays
// what it was. d.mu is held.
func (d *dialer) load() error {
	cfg, content, err := d.configuration()
	switch {
	case d.config != nil && (err != nil || bytes.Equal(content, d.content)):
		return nil
	case err != nil:
		return err
	}
	cfg.ContentType, cfg.AcceptContentTypes = protobuf, accepted
	cfg.UserAgent = "podwalld/" + version.Version
	cfg.QPS, cfg.Burst = 50, 100
	cfg.WarningHandler = rest.NoWarnings{}
	// An API server that vanished is noticed in 20 seconds, in either direction.
	dial := &net.Dialer{Timeout: 10 * time.Second, KeepAliveConfig: net.KeepAliveConfig{
		Enable: true, Idle: 5 * time.Second, Interval: 5 * time.Second, Count: 3}}
	cfg.Dial = dial.DialContext
	client, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return fmt.Errorf("%s: %w", d.where(), err)
	}
	d.config, d.http, d.content = cfg, client, content
	d.codecs = newCodecs()
	d.clients = map[schema.GroupVersion]*rest.RESTClient{}
	return nil
}

// configuration returns what the kubeconfig or the pod says, and the content that
// it was made of.
func (d *dialer) configuration() (*rest.Config, []byte, error) {
	if d.kubeconfig == "" {
		if d.config != nil {
			return d.config, d.content, nil // its token is read again by itself
		}
		cfg, err := rest.InClusterConfig()
		if err != nil {
			return nil, nil, fmt.Errorf("configuration of this pod: %w", err)
		}
		return cfg, nil, nil
	}
	content, err := os.ReadFile(d.kubeconfig)
	if err != nil {
		return nil, nil, fmt.Errorf("kubeconfig: %w", err)
	}
	if d.config != nil && bytes.Equal(content, d.content) {
		return d.config, content, nil
	}
	raw, err := clientcmd.LoadFromFile(d.kubeconfig) // with paths relative to the file
	if err != nil {
		return nil, nil, fmt.Errorf("kubeconfig %s: %w", d.kubeconfig, err)
	}
	if err := clientcmd.ResolveLocalPaths(raw); err != nil {
		return nil, nil, fmt.Errorf("kubeconfig %s: %w", d.kubeconfig, err)
	}
	cfg, err := clientcmd.NewDefaultClientConfig(*raw, nil).ClientConfig()
	switch {
	case errors.Is(err, context.Canceled):
		return nil, nil, err
	case err != nil:
		return nil, nil, fmt.Errorf("kubeconfig %s: %w", d.kubeconfig, err)
	}
	return cfg, content, nil
}
