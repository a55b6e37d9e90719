// Package clustertest runs a real etcd and kube-apiserver for tests.
package clustertest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// Cluster is an etcd and a kube-apiserver. It has no node, and neither controllers nor a scheduler.
type Cluster struct {
	Address string // of the API server, host:port
	t       *testing.T
	options Options
	dir     string
	etcd    string // URL
	stop    func() // ends the API server
	admin   *http.Client
	key     *ecdsa.PrivateKey
}

// Options say where a cluster runs. The zero value is right for loopback.
type Options struct {
	// Servers is the directory that holds kube-apiserver. It must be named.
	Servers string
	// Address of the API server; "" for a free port of loopback.
	Address string
	// Start starts a process where the cluster is to run, and Dial connects from there.
	Start func(*exec.Cmd) error
	Dial  func(ctx context.Context, network, address string) (net.Conn, error)
}

// Object is JSON.
type Object map[string]any

// Metadata is what is read of an object that was made.
type Metadata struct{ Name, UID string }

// Start runs a cluster till the end of the test.
func Start(t *testing.T, o Options) *Cluster {
	t.Helper()
	if o.Servers == "" {
		t.Fatal("where are the servers of Kubernetes? make test-kubernetes builds them")
	}
	if o.Start == nil {
		o.Start = (*exec.Cmd).Start
	}
	if o.Address == "" {
		o.Address = freePort(t)
	}
	c := &Cluster{t: t, options: o, dir: t.TempDir(), Address: o.Address}
	client, peer := freePort(t), "http://"+freePort(t)
	c.etcd = "http://" + client
	c.Run("etcd", "--data-dir", c.File("etcd"), "--listen-client-urls", c.etcd, "--advertise-client-urls", c.etcd,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer)
	transport := &http.Transport{TLSClientConfig: c.makeKeys(), DialContext: o.Dial}
	c.admin = &http.Client{Transport: transport, Timeout: 30 * time.Second}
	t.Cleanup(transport.CloseIdleConnections)
	c.Write("tokens.csv", []byte(`admin,admin,1,"system:masters"`))
	c.StartServer()
	return c
}

// StartServer starts the API server, and returns when it answers.
func (c *Cluster) StartServer() {
	c.t.Helper()
	host, port, err := net.SplitHostPort(c.Address)
	if err != nil {
		c.t.Fatal(err)
	}
	c.stop = c.Run(filepath.Join(c.options.Servers, "kube-apiserver"), "--etcd-servers", c.etcd, "--bind-address", host, "--secure-port", port,
		"--advertise-address", "192.0.2.1", "--endpoint-reconciler-type", "none",
		"--tls-cert-file", c.CAFile(), "--tls-private-key-file", c.File("key.pem"), "--cert-dir", c.dir,
		"--service-account-key-file", c.File("key.pem"), "--service-account-signing-key-file", c.File("key.pem"),
		"--service-account-issuer", "https://kubernetes.default.svc", "--service-cluster-ip-range", "10.0.0.0/24",
		"--allow-privileged", "--authorization-mode", "RBAC", "--token-auth-file", c.File("tokens.csv"))
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(200 * time.Millisecond) {
		answer, err := c.admin.Do(c.request(http.MethodGet, "/readyz", "application/json", nil))
		if err == nil {
			answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return
			}
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("the API server is not ready: %v\n%s", err, c.Log("kube-apiserver"))
		}
	}
}

// StopServer kills the API server.
func (c *Cluster) StopServer() { c.stop() }

// Run starts a program, which is killed with the end of the test, or when what is returned is called.
func (c *Cluster) Run(arguments ...string) (stop func()) {
	c.t.Helper()
	log, err := os.OpenFile(c.File(filepath.Base(arguments[0])+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		c.t.Fatal(err)
	}
	defer log.Close()
	command := exec.Command(arguments[0], arguments[1:]...)
	command.Stdout, command.Stderr = log, log
	if err := c.options.Start(command); err != nil {
		c.t.Fatal(err)
	}
	stop = func() {
		_ = command.Process.Kill()
		_ = command.Wait()
	}
	c.t.Cleanup(stop)
	return stop
}

// Log is the end of what a program wrote.
func (c *Cluster) Log(program string) []byte {
	text, _ := os.ReadFile(c.File(program + ".log"))
	return text[max(0, len(text)-20_000):]
}

// File is the path of one that belongs to the cluster.
func (c *Cluster) File(name string) string { return filepath.Join(c.dir, name) }

// Write makes such a file. Nobody sees half of it.
func (c *Cluster) Write(name string, text []byte) string {
	c.t.Helper()
	if err := os.WriteFile(c.File(name+".new"), text, 0o600); err != nil {
		c.t.Fatal(err)
	}
	if err := os.Rename(c.File(name+".new"), c.File(name)); err != nil {
		c.t.Fatal(err)
	}
	return c.File(name)
}

// CAFile has the certificate of the API server.
func (c *Cluster) CAFile() string { return c.File("ca.crt") }

// Kubeconfig has all that is needed to be the administrator.
func (c *Cluster) Kubeconfig() (file string) {
	c.t.Helper()
	return c.WriteJSON("kubeconfig", Object{
		"apiVersion": "v1", "kind": "Config", "current-context": "x",
		"clusters": []Object{{"name": "x", "cluster": Object{"server": "https://" + c.Address, "certificate-authority": c.CAFile()}}},
		"users":    []Object{{"name": "x", "user": Object{"token": "admin"}}},
		"contexts": []Object{{"name": "x", "context": Object{"cluster": "x", "user": "x"}}},
	})
}

// WriteJSON makes a file of an object.
func (c *Cluster) WriteJSON(name string, o Object) (file string) {
	c.t.Helper()
	return c.Write(name, c.marshal(o))
}

func (c *Cluster) marshal(o Object) []byte {
	c.t.Helper()
	text, err := json.Marshal(o)
	if err != nil {
		c.t.Fatal(err)
	}
	return text
}

// request is the administrator's.
func (c *Cluster) request(method, path, contentType string, body []byte) *http.Request {
	request, err := http.NewRequest(method, "https://"+c.Address+path, bytes.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer admin")
	request.Header.Set("User-Agent", "test")
	request.Header.Set("Content-Type", contentType)
	return request
}

// Do does what an administrator, a controller or a kubelet would. A nil body is none.
func (c *Cluster) Do(method, path string, body Object) (made Metadata, answer []byte) {
	c.t.Helper()
	var text []byte
	if body != nil {
		text = c.marshal(body)
	}
	contentType := "application/json"
	if method == http.MethodPatch {
		contentType = "application/merge-patch+json"
	}
	return c.do(c.request(method, path, contentType, text))
}

// Create makes an object of YAML.
func (c *Cluster) Create(path, yaml string) {
	c.t.Helper()
	c.do(c.request(http.MethodPost, path, "application/yaml", []byte(yaml)))
}

func (c *Cluster) do(request *http.Request) (made Metadata, text []byte) {
	c.t.Helper()
	answer, err := c.admin.Do(request)
	if err != nil {
		c.t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err = io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode >= 300 {
		c.t.Fatalf("%s %s: %s: %v: %s", request.Method, request.URL, answer.Status, err, text)
	}
	var object struct{ Metadata Metadata }
	if json.Unmarshal(text, &object) != nil && request.Header.Get("Content-Type") != "application/yaml" {
		c.t.Fatalf("%s %s: %s", request.Method, request.URL, text)
	}
	return object.Metadata, text
}

// Token is a new one of a service account.
func (c *Cluster) Token(namespace, account string) string {
	c.t.Helper()
	_, text := c.Do(http.MethodPost, "/api/v1/namespaces/"+namespace+"/serviceaccounts/"+account+"/token", Object{"spec": Object{"expirationSeconds": 3600}})
	var answer struct{ Status struct{ Token string } }
	if err := json.Unmarshal(text, &answer); err != nil || answer.Status.Token == "" {
		c.t.Fatalf("%v: no token", err)
	}
	return answer.Status.Token
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
