package cluster

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// issueAll makes the certificates and kubeconfigs of the control plane.
func (c *Cluster) issueAll() error {
	own := []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")}
	for _, f := range c.Families {
		own = append(own, f.control(), f.services().Addr().Next())
	}
	names := []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"}
	for file, id := range map[string]identity{
		"apiserver":      {name: "kube-apiserver", dns: names, ips: own},
		"kubelet-client": {name: "apiserver-kubelet-client", group: "system:masters"},
		"front-proxy":    {name: "front-proxy-client"},
	} {
		if err := c.pki.issue(file, id); err != nil {
			return err
		}
	}
	for file, id := range map[string]identity{
		"admin":              {name: "admin", group: "system:masters"},
		"controller-manager": {name: "system:kube-controller-manager"},
		"scheduler":          {name: "system:kube-scheduler"},
		"proxy":              {name: "system:kube-proxy"},
	} {
		if err := c.pki.kubeconfig(file, c.Server(), id); err != nil {
			return err
		}
	}
	return c.pki.signer("sa")
}

// Server is the API server's URL, as every machine of the cluster sees it.
func (c *Cluster) Server() string {
	return "https://" + net.JoinHostPort(c.Families[0].control().String(), "6443")
}

// Kubeconfig is the administrator's. It works inside the cluster's machines.
func (c *Cluster) Kubeconfig() string { return c.pki.path("admin.kubeconfig") }

// startControl starts the control plane and waits until it answers.
func (c *Cluster) startControl(ctx context.Context) error {
	if err := c.issueAll(); err != nil {
		return err
	}
	const etcd = "http://127.0.0.1:2379"
	const peer = "http://127.0.0.1:2380"
	if err := c.Control.Start("etcd", "etcd", "--data-dir=/var/lib/etcd", "--listen-client-urls="+etcd, "--advertise-client-urls="+etcd,
		"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=default="+peer,
		"--unsafe-no-fsync", "--log-level=warn"); err != nil {
		return err
	}
	if err := c.StartAPIServer(ctx); err != nil {
		return err
	}
	manager := c.pki.path("controller-manager.kubeconfig")
	if err := c.Control.Start("controller-manager", "kube-controller-manager",
		"--kubeconfig="+manager, "--authentication-kubeconfig="+manager, "--authorization-kubeconfig="+manager,
		"--root-ca-file="+c.pki.path("ca.crt"), "--service-account-private-key-file="+c.pki.path("sa.key"),
		"--use-service-account-credentials", "--leader-elect=false", "--allocate-node-cidrs=false", "--bind-address=127.0.0.1",
		"--node-monitor-grace-period=20s"); err != nil {
		return err
	}
	scheduler := c.pki.path("scheduler.kubeconfig")
	return c.Control.Start("scheduler", "kube-scheduler", "--kubeconfig="+scheduler,
		"--authentication-kubeconfig="+scheduler, "--authorization-kubeconfig="+scheduler, "--leader-elect=false", "--bind-address=127.0.0.1")
}

// StartAPIServer starts the API server, at first or after StopAPIServer, and
// waits until it is ready.
func (c *Cluster) StartAPIServer(ctx context.Context) error {
	flags := strings.Fields(`kube-apiserver --etcd-servers=http://127.0.0.1:2379 --bind-address=:: --secure-port=6443
		--service-account-issuer=https://kubernetes.default.svc.cluster.local --kubelet-preferred-address-types=InternalIP
		--requestheader-allowed-names=front-proxy-client --requestheader-username-headers=X-Remote-User
		--requestheader-group-headers=X-Remote-Group --requestheader-extra-headers-prefix=X-Remote-Extra-
		--authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged=true`)
	for flag, file := range map[string]string{
		"tls-cert-file": "apiserver.crt", "tls-private-key-file": "apiserver.key", "client-ca-file": "ca.crt",
		"service-account-key-file": "sa.pub", "service-account-signing-key-file": "sa.key",
		"kubelet-client-certificate": "kubelet-client.crt", "kubelet-client-key": "kubelet-client.key",
		"kubelet-certificate-authority": "ca.crt", "requestheader-client-ca-file": "ca.crt",
		"proxy-client-cert-file": "front-proxy.crt", "proxy-client-key-file": "front-proxy.key",
	} {
		flags = append(flags, "--"+flag+"="+c.pki.path(file))
	}
	flags = append(flags, fmt.Sprintf("--advertise-address=%s", c.Families[0].control()),
		"--service-cluster-ip-range="+each(c.Config, Family.services))
	if err := c.Control.Start("apiserver", flags...); err != nil {
		return err
	}
	return c.Until(ctx, "the API server is ready", func(ctx context.Context) error {
		_, err := c.Kubectl(ctx, "get", "--raw", "/readyz")
		return err
	})
}

// StopAPIServer stops the API server. Everything else goes on.
func (c *Cluster) StopAPIServer() error { return c.Control.Stop("apiserver") }
