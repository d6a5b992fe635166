package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// A DaemonSet is what says whether a node should have podwall.
type DaemonSet struct {
	// Gone says that it was deleted, or is being deleted.
	Gone bool
	// NodeSelector are the labels of the nodes that it is for.
	NodeSelector map[string]string
}

// daemonSet is as much of the object as is read.
type daemonSet struct {
	Metadata struct {
		DeletionTimestamp string `json:"deletionTimestamp"`
	} `json:"metadata"`
	Spec struct {
		Template struct {
			Spec struct {
				NodeSelector map[string]string `json:"nodeSelector"`
			} `json:"spec"`
		} `json:"template"`
	} `json:"spec"`
}

func (d daemonSet) plain() DaemonSet {
	return DaemonSet{Gone: d.Metadata.DeletionTimestamp != "", NodeSelector: d.Spec.Template.Spec.NodeSelector}
}

// DaemonSet reads one. That it does not exist is an answer too.
func (c *Client) DaemonSet(ctx context.Context, namespace, name string) (DaemonSet, error) {
	var d daemonSet
	err := c.get(ctx, question{"get", "daemonsets", namespace + "/" + name, http.MethodGet, path(namespace) + "/" + url.PathEscape(name), nil}, &d)
	if errors.Is(err, ErrNotFound) {
		return DaemonSet{Gone: true}, nil
	}
	return d.plain(), err
}

func path(namespace string) string {
	return "/apis/apps/v1/namespaces/" + url.PathEscape(namespace) + "/daemonsets"
}

// listen is how long one watch lasts.
const listen = 5 * time.Minute

// WatchDaemonSet tells what becomes of one until the server ends the watch, which
// is no error. The server asks for permission only when a watch begins, so that
// the end of a DaemonSet is heard although all that was permitted ends with it.
func (c *Client) WatchDaemonSet(ctx context.Context, namespace, name string, tell func(DaemonSet)) error {
	ctx, cancel := context.WithTimeout(ctx, listen+listen/10) // longer than the server's: one that died says nothing
	defer cancel()
	query := url.Values{"watch": {"true"}, "fieldSelector": {"metadata.name=" + name}, "timeoutSeconds": {fmt.Sprint(int(listen.Seconds()))}}
	body, err := c.ask(ctx, question{"watch", "daemonsets", namespace + "/" + name, http.MethodGet, path(namespace) + "?" + query.Encode(), nil})
	if err != nil {
		return err
	}
	defer body.Close()
	for events := json.NewDecoder(body); ; {
		var e struct {
			Type   string
			Object daemonSet
		}
		if err := events.Decode(&e); err != nil {
			return nil // the server ended it, or the connection broke: watch again
		}
		d := e.Object.plain()
		switch e.Type {
		case "ADDED", "MODIFIED":
			tell(d)
		case "DELETED":
			d.Gone = true
			tell(d)
		case "ERROR":
			return fmt.Errorf("watch daemonsets %s/%s: the server ends the watch", namespace, name)
		}
	}
}
