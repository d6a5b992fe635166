package cluster

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

// A pki is the cluster's certificate authority, and a directory with everybody's
// keys and certificates: NAME.key and NAME.crt.
type pki struct {
	dir  string
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pem  []byte
	next int64
}

// An identity is what a certificate says.
type identity struct {
	name, group string // O and CN: a Kubernetes group and user
	dns         []string
	ips         []netip.Addr
}

func newPKI(dir string) (*pki, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	p := &pki{dir: dir, key: key}
	t := p.template(identity{name: "test-ca"})
	t.IsCA, t.BasicConstraintsValid, t.KeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, err
	}
	if p.cert, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	p.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return p, errors.Join(os.MkdirAll(dir, 0o700), p.write("ca", key, p.pem))
}

func (p *pki) template(id identity) *x509.Certificate {
	p.next++
	t := &x509.Certificate{
		SerialNumber: big.NewInt(p.next),
		Subject:      pkix.Name{CommonName: id.name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().AddDate(0, 0, 7),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		DNSNames:     id.dns,
	}
	if id.group != "" {
		t.Subject.Organization = []string{id.group}
	}
	for _, ip := range id.ips {
		t.IPAddresses = append(t.IPAddresses, net.IP(ip.AsSlice()))
	}
	return t
}

// issue makes a key and a certificate for id, and writes both under file.
func (p *pki) issue(file string, id identity) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.CreateCertificate(rand.Reader, p.template(id), p.cert, key.Public(), p.key)
	if err != nil {
		return fmt.Errorf("certificate of %s: %w", file, err)
	}
	return p.write(file, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// signer writes a key of its own, with which tokens are signed, and its public
// half, NAME.pub.
func (p *pki) signer(file string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	return errors.Join(p.write(file, key, nil), os.WriteFile(p.path(file+".pub"), public, 0o600))
}

func (p *pki) write(file string, key crypto.Signer, cert []byte) error {
	der, err := x509.MarshalECPrivateKey(key.(*ecdsa.PrivateKey))
	if err != nil {
		return err
	}
	err = os.WriteFile(p.path(file+".key"), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600)
	if cert == nil {
		return err
	}
	return errors.Join(err, os.WriteFile(p.path(file+".crt"), cert, 0o600))
}

func (p *pki) path(file string) string { return filepath.Join(p.dir, file) }

// kubeconfig issues a certificate and writes FILE.kubeconfig with it, for the
// API server at the given URL.
func (p *pki) kubeconfig(file, server string, id identity) error {
	if err := p.issue(file, id); err != nil {
		return err
	}
	key, err1 := os.ReadFile(p.path(file + ".key"))
	cert, err2 := os.ReadFile(p.path(file + ".crt"))
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	type named map[string]any
	text, err := json.MarshalIndent(named{ // JSON is YAML
		"apiVersion": "v1", "kind": "Config", "current-context": "test",
		"clusters": []named{{"name": "test", "cluster": named{"server": server, "certificate-authority-data": p.pem}}},
		"users":    []named{{"name": "test", "user": named{"client-certificate-data": cert, "client-key-data": key}}},
		"contexts": []named{{"name": "test", "context": named{"cluster": "test", "user": "test"}}},
	}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(p.path(file+".kubeconfig"), text, 0o600)
}
