// Package hub is a Kubernetes API server, as far as somebody who watches can tell.
//
//	objects that exist from the start ──┐
//	                                    ├──▶ watch, in protobuf ──▶ podwalld
//	Tell: what changes                ──┘
//
// Clusters of 100,000 pods are measured with it: a real API server would need an
// hour and etcd to hold them.
//
// # Contract
//
// What is sent is what API servers since Kubernetes 1.34 send to a watch that asks
// for initial events: every object, a bookmark, and then changes in their order.
// The objects of the start are made while they are sent, and none is kept; changes
// are not either, so a watch that begins anew sees the start again.
//
// Only what podwalld asks for is there. Nobody is authenticated: it is for
// a network namespace of one's own.
package hub

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	netv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/runtime/serializer/streaming"
	"k8s.io/apimachinery/pkg/watch"
	clientwatch "k8s.io/client-go/rest/watch"
)

// Objects are what a cluster has at the start, by resource: pods, namespaces,
// networkpolicies, nodes, services, endpointslices.
type Objects map[string]iter.Seq[runtime.Object]

// resources are the watched ones, each with an example.
var resources = map[string]runtime.Object{
	"/api/v1/pods":       &corev1.Pod{},
	"/api/v1/namespaces": &corev1.Namespace{},
	"/api/v1/nodes":      &corev1.Node{},
	"/api/v1/services":   &corev1.Service{},
	"/apis/networking.k8s.io/v1/networkpolicies": &netv1.NetworkPolicy{},
	"/apis/discovery.k8s.io/v1/endpointslices":   &discoveryv1.EndpointSlice{},
}

// A Hub answers. Its methods may be called from any goroutine.
type Hub struct {
	server  http.Server
	start   Objects
	pod     func(namespace, name string) runtime.Object
	info    runtime.SerializerInfo
	encoder func(schema.GroupVersion) runtime.Encoder
	sent    atomic.Int64
	version atomic.Int64

	mu        sync.Mutex
	watchers  map[*watcher]bool
	delivered map[string]time.Time // by path, when the initial events had been sent
}

// A watcher is one watch that has its initial events.
type watcher struct {
	path   string
	events chan watch.Event
}

// Serve answers at l until Close, with the objects of the start. Pod finds one of
// them by name, for whoever asks for it alone; nil if there is none.
func Serve(l net.Listener, start Objects, pod func(namespace, name string) runtime.Object) (*Hub, error) {
	scheme := runtime.NewScheme()
	groups := runtime.NewSchemeBuilder(corev1.AddToScheme, discoveryv1.AddToScheme, netv1.AddToScheme)
	if err := groups.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("make scheme: %w", err)
	}
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	codecs := serializer.NewCodecFactory(scheme)
	info, ok := runtime.SerializerInfoForMediaType(codecs.SupportedMediaTypes(), runtime.ContentTypeProtobuf)
	if !ok {
		return nil, errors.New("make scheme: it knows no protobuf")
	}
	h := &Hub{start: start, pod: pod, info: info, watchers: map[*watcher]bool{}, delivered: map[string]time.Time{}}
	h.encoder = func(gv schema.GroupVersion) runtime.Encoder { return codecs.EncoderForVersion(info.Serializer, gv) }
	h.version.Store(1)
	h.server.Handler = http.HandlerFunc(h.answer)
	go func() { _ = h.server.Serve(l) }() // ends with Close
	return h, nil
}

// Close ends all watches.
func (h *Hub) Close() { _ = h.server.Close() }

// Sent is how many bytes of objects were sent.
func (h *Hub) Sent() int64 { return h.sent.Load() }

// Delivered is when the last of all kinds' initial events had been sent; false
// until then.
func (h *Hub) Delivered() (time.Time, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var last time.Time
	for path := range resources {
		at, ok := h.delivered[path]
		if !ok {
			return time.Time{}, false
		}
		if at.After(last) {
			last = at
		}
	}
	return last, true
}

// Forget makes Delivered wait for further watches.
func (h *Hub) Forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	clear(h.delivered)
}

// Tell sends a change to whoever watches the object's kind. The object must not
// be changed afterwards.
func (h *Hub) Tell(what watch.EventType, o metav1.Object) {
	o.SetResourceVersion(strconv.FormatInt(h.version.Add(1), 10))
	event := watch.Event{Type: what, Object: o.(runtime.Object)}
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.watchers {
		if fmt.Sprintf("%T", resources[w.path]) == fmt.Sprintf("%T", o) {
			w.events <- event
		}
	}
}

// answer is an http.HandlerFunc.
func (h *Hub) answer(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	example, known := resources[r.URL.Path]
	if known && query.Get("watch") != "" {
		h.watch(w, r, example)
		return
	}
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/") // api v1 namespaces NS pods NAME
	if len(parts) == 6 && parts[4] == "pods" {
		if o := h.pod(parts[3], parts[5]); o != nil {
			w.Header().Set("Content-Type", runtime.ContentTypeProtobuf)
			_ = h.encoder(corev1.SchemeGroupVersion).Encode(o, w) // who hung up needs no answer
			return
		}
	}
	status := http.StatusNotFound
	reason := metav1.StatusReasonNotFound
	if known { // a list: the client is to watch
		status, reason = http.StatusMethodNotAllowed, metav1.StatusReasonMethodNotAllowed
	}
	w.Header().Set("Content-Type", runtime.ContentTypeJSON)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   metav1.StatusFailure, Code: int32(status), Reason: reason, Message: r.URL.Path,
	})
}

// watch sends the objects of the start if the client wants them, and then what
// changes.
func (h *Hub) watch(rw http.ResponseWriter, r *http.Request, example runtime.Object) {
	name := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
	// Of the node's own pods in its network, which have a watch of their own,
	// there are none.
	none := strings.Contains(r.URL.Query().Get("fieldSelector"), "spec.hostNetwork=true")
	rw.Header().Set("Content-Type", runtime.ContentTypeProtobuf+";stream=watch")
	rw.WriteHeader(http.StatusOK)
	out := &counted{ResponseWriter: rw, sent: &h.sent}
	frames := h.info.StreamSerializer.Framer.NewFrameWriter(out)
	gv := schema.GroupVersion{Version: "v1"}
	if p := strings.Split(r.URL.Path, "/"); p[1] == "apis" {
		gv.Group = p[2]
	}
	encoder := clientwatch.NewEncoder(streaming.NewEncoder(frames, h.info.StreamSerializer.Serializer), h.encoder(gv))
	w := &watcher{path: r.URL.Path, events: make(chan watch.Event, 1<<16)}
	if !none {
		h.register(w)
		defer h.leave(w)
	}
	if r.URL.Query().Get("sendInitialEvents") == "true" {
		if err := h.begin(encoder, name, none, example); err != nil {
			return // the client hung up
		}
		flush(rw)
		if !none {
			h.mu.Lock()
			h.delivered[r.URL.Path] = time.Now()
			h.mu.Unlock()
		}
	}
	for {
		select {
		case <-r.Context().Done():
			return
		case e := <-w.events:
			if encoder.Encode(&e) != nil {
				return
			}
			if len(w.events) == 0 {
				flush(rw)
			}
		}
	}
}

// begin sends the objects of the start, and the bookmark that ends them.
func (h *Hub) begin(encoder *clientwatch.Encoder, name string, none bool, example runtime.Object) error {
	if all := h.start[name]; all != nil && !none {
		for o := range all {
			o.(metav1.Object).SetResourceVersion("1")
			if err := encoder.Encode(&watch.Event{Type: watch.Added, Object: o}); err != nil {
				return err
			}
		}
	}
	mark := example.DeepCopyObject()
	mark.(metav1.Object).SetResourceVersion("1")
	mark.(metav1.Object).SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	return encoder.Encode(&watch.Event{Type: watch.Bookmark, Object: mark})
}

func (h *Hub) register(w *watcher) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.watchers[w] = true
}

func (h *Hub) leave(w *watcher) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.watchers, w)
}

func flush(w http.ResponseWriter) { _ = http.NewResponseController(w).Flush() } // who hung up is noticed elsewhere

// A counted writer counts.
type counted struct {
	http.ResponseWriter
	sent *atomic.Int64
}

// Write is io.Writer's.
func (c *counted) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.sent.Add(int64(n))
	return n, err
}
