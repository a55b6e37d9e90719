//go:build record

package kubernetes

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"debug/buildinfo"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// cluster is an etcd and a kube-apiserver on loopback. There are no controllers, no scheduler and no
// kubelet: the test does what they would.
type cluster struct {
	t           *testing.T
	dir, server string
	arguments   []string // of the API server
	stop        func()   // ends it
	admin       *http.Client
}

// startCluster runs etcd from $PATH, and the API server that $KUBE_APISERVER names.
func startCluster(t *testing.T) *cluster {
	t.Helper()
	binary := os.Getenv("KUBE_APISERVER")
	if binary == "" {
		t.Fatal("set KUBE_APISERVER to the path of a kube-apiserver")
	}
	c := &cluster{t: t, dir: t.TempDir()}
	client, peer, secure := freePort(t), freePort(t), freePort(t)
	etcd := "http://" + client
	c.run("etcd", "--data-dir", c.file("etcd"), "--listen-client-urls", etcd, "--advertise-client-urls", etcd,
		"--listen-peer-urls", "http://"+peer, "--initial-advertise-peer-urls", "http://"+peer, "--initial-cluster", "default=http://"+peer)
	certificate := c.makeKeys()
	c.write("tokens.csv", []byte(`admin,admin,1,"system:masters"`))
	c.server = "https://" + secure
	_, port, _ := net.SplitHostPort(secure)
	c.arguments = []string{
		binary, "--etcd-servers", etcd, "--bind-address", "127.0.0.1", "--secure-port", port,
		"--advertise-address", "192.0.2.1", "--endpoint-reconciler-type", "none",
		"--tls-cert-file", c.file("tls.crt"), "--tls-private-key-file", c.file("key.pem"), "--cert-dir", c.dir,
		"--service-account-key-file", c.file("key.pem"), "--service-account-signing-key-file", c.file("key.pem"),
		"--service-account-issuer", "https://kubernetes.default.svc", "--service-cluster-ip-range", "10.0.0.0/24",
		"--authorization-mode", "RBAC", "--token-auth-file", c.file("tokens.csv"),
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(certificate)
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig.RootCAs = pool
	transport.Proxy = nil
	c.admin = &http.Client{Transport: transport, Timeout: 30 * time.Second}
	t.Cleanup(transport.CloseIdleConnections)
	c.startServer()
	return c
}

// startServer starts the API server, and returns when it answers.
func (c *cluster) startServer() {
	c.t.Helper()
	c.stop = c.run(c.arguments...)
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(200 * time.Millisecond) {
		answer, err := c.admin.Do(c.request(http.MethodGet, "/readyz", nil))
		if err == nil {
			answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return
			}
		}
		if time.Now().After(deadline) {
			log, _ := os.ReadFile(c.file("kube-apiserver.log"))
			c.t.Fatalf("the API server is not ready: %v\n%s", err, log)
		}
	}
}

// run starts a program, which ends with the test or when what is returned is called.
func (c *cluster) run(arguments ...string) (stop func()) {
	c.t.Helper()
	log, err := os.OpenFile(c.file(filepath.Base(arguments[0])+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		c.t.Fatal(err)
	}
	defer log.Close()
	ctx, cancel := context.WithCancel(context.Background())
	command := exec.CommandContext(ctx, arguments[0], arguments[1:]...)
	command.Stdout, command.Stderr = log, log
	if err := command.Start(); err != nil {
		cancel()
		c.t.Fatal(err)
	}
	stop = func() {
		cancel()
		_ = command.Wait()
	}
	c.t.Cleanup(stop)
	return stop
}

func (c *cluster) file(name string) string { return filepath.Join(c.dir, name) }

func (c *cluster) write(name string, text []byte) string {
	c.t.Helper()
	if err := os.WriteFile(c.file(name), text, 0o600); err != nil {
		c.t.Fatal(err)
	}
	return c.file(name)
}

// makeKeys makes one key, for TLS and for the tokens of service accounts.
func (c *cluster) makeKeys() (certificate []byte) {
	c.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		c.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	signed, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		c.t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		c.t.Fatal(err)
	}
	certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: signed})
	c.write("tls.crt", certificate)
	c.write("key.pem", pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private}))
	return certificate
}

func (c *cluster) request(method, path string, body any) *http.Request {
	text, err := json.Marshal(body)
	if err != nil {
		c.t.Fatal(err)
	}
	if body == nil {
		text = nil
	}
	request, err := http.NewRequest(method, c.server+path, bytes.NewReader(text))
	if err != nil {
		c.t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer admin")
	request.Header.Set("User-Agent", "recorder")
	request.Header.Set("Content-Type", "application/json")
	if method == http.MethodPatch {
		request.Header.Set("Content-Type", "application/merge-patch+json")
	}
	return request
}

// do does what an administrator, a controller or a kubelet would.
func (c *cluster) do(method, path string, body any) (made metadata, text []byte) {
	c.t.Helper()
	answer, err := c.admin.Do(c.request(method, path, body))
	if err != nil {
		c.t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err = io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode >= 300 {
		c.t.Fatalf("%s %s: %s: %v: %s", method, path, answer.Status, err, text)
	}
	var object struct{ Metadata metadata }
	if err := json.Unmarshal(text, &object); err != nil {
		c.t.Fatal(err)
	}
	return object.Metadata, text
}

// token writes a new token of a service account to a file.
func (c *cluster) token(account string) (file string) {
	c.t.Helper()
	_, text := c.do(http.MethodPost, "/api/v1/namespaces/imds-bridge/serviceaccounts/"+account+"/token",
		object{"spec": object{"expirationSeconds": 3600}})
	var answer struct{ Status struct{ Token string } }
	if err := json.Unmarshal(text, &answer); err != nil || answer.Status.Token == "" {
		c.t.Fatalf("%v: no token", err)
	}
	return c.write(account+".token", []byte(answer.Status.Token+"\n"))
}

// source is for a service account.
func (c *cluster) source(account string, log io.Writer) *Source {
	c.t.Helper()
	s, err := New(Options{
		Server: c.server, Node: "node-1", TokenFile: c.token(account), CAFile: c.file("tls.crt"),
		Log: slog.New(slog.NewTextHandler(log, nil)),
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return s
}

// version is that of the module that the API server was built from: what it says itself is set by its
// makers' own build.
func (c *cluster) version() string {
	c.t.Helper()
	built, err := buildinfo.ReadFile(c.arguments[0])
	if err != nil {
		c.t.Fatal(err)
	}
	for _, module := range append(built.Deps, &built.Main) {
		if module.Path == "k8s.io/kubernetes" {
			return module.Version
		}
	}
	c.t.Fatal("no k8s.io/kubernetes in it")
	return ""
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return fmt.Sprint(l.Addr())
}

// object is JSON.
type object map[string]any
