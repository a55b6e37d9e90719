package e2e

import (
	"encoding/json"
	"encoding/pem"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// recordings are the answers of a real kube-apiserver. The tests of the package they belong to say how they
// were made.
const recordings = "../caller/container/kubernetes/testdata/"

// apiServer is an API server on the host of an instance. It answers as a real one was recorded to.
type apiServer struct {
	account string // directory: a service account's files
	env     []string
	server  *httptest.Server

	mu     sync.Mutex
	pods   string // the list
	token  string
	denies bool
}

func (i *instance) startAPIServer(t *testing.T) *apiServer {
	t.Helper()
	s := &apiServer{account: t.TempDir(), pods: recorded(t, "list.json"), token: "first"}
	listener, err := i.Host().Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.server = &httptest.Server{Listener: listener, Config: &http.Server{Handler: s.handler(t)}}
	s.server.StartTLS()
	t.Cleanup(func() {
		s.server.CloseClientConnections()
		s.server.Close()
	})
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.server.Certificate().Raw})
	if err := os.WriteFile(filepath.Join(s.account, "ca.crt"), certificate, 0o600); err != nil {
		t.Fatal(err)
	}
	s.writeToken(t)
	host, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s.env = []string{"KUBERNETES_SERVICE_HOST=" + host, "KUBERNETES_SERVICE_PORT=" + port}
	return s
}

func recorded(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(recordings + file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func (s *apiServer) handler(t *testing.T) http.Handler {
	const shop = "/namespaces/shop/"
	answers := make(map[string]string)
	for path, file := range map[string]string{
		"/apis/apps/v1" + shop + "replicasets/web-6d4cf56db6": "replicaset-web.json",
		"/apis/apps/v1" + shop + "replicasets/canary-77f9":    "replicaset-canary.json",
		"/apis/batch/v1" + shop + "jobs/report-29384010":      "job-report.json",
		"/apis/batch/v1" + shop + "jobs/import":               "job-import.json",
		"forbidden":                                           "forbidden.json", "unauthorized": "unauthorized.json",
	} {
		answers[path] = recorded(t, file)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		token, denies, pods := s.token, s.denies, s.pods
		s.mu.Unlock()
		say := func(status int, text string) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_, _ = w.Write([]byte(text))
		}
		text, known := answers[r.URL.Path]
		switch {
		case r.Header.Get("Authorization") != "Bearer "+token:
			say(http.StatusUnauthorized, answers["unauthorized"])
		case denies:
			say(http.StatusForbidden, answers["forbidden"])
		case known:
			say(http.StatusOK, text)
		case r.Method != http.MethodGet || r.URL.Path != "/api/v1/pods" || r.URL.Query().Get("fieldSelector") != "spec.nodeName=node-1":
			t.Errorf("the API server is asked for %s %s", r.Method, r.URL)
		case r.URL.Query().Has("watch"):
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		default:
			say(http.StatusOK, pods)
		}
	})
}

// deny has the server refuse all that the account asks for.
func (s *apiServer) deny(denies bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.denies = denies
}

// rotate makes the token one that the server does not know, and ends the watch.
func (s *apiServer) rotate(t *testing.T) {
	t.Helper()
	s.mu.Lock()
	s.token += " and another"
	s.mu.Unlock()
	s.server.CloseClientConnections()
}

// writeToken gives the account the token that the server knows, as the kubelet does: nobody sees half of it.
func (s *apiServer) writeToken(t *testing.T) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	file := filepath.Join(s.account, "token")
	if err := os.WriteFile(file+".new", []byte(s.token), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

// pod is one of the list.
func (s *apiServer) pod(t *testing.T, name string) (uid string, containers map[string]string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	var list struct {
		Items []struct {
			Metadata struct{ Name, UID string }
			Status   struct {
				ContainerStatuses []struct{ Name, ContainerID string }
			}
		}
	}
	if err := json.Unmarshal([]byte(s.pods), &list); err != nil {
		t.Fatal(err)
	}
	for _, p := range list.Items {
		if p.Metadata.Name != name {
			continue
		}
		containers = make(map[string]string)
		for _, c := range p.Status.ContainerStatuses {
			containers[c.Name] = c.ContainerID
		}
		return p.Metadata.UID, containers
	}
	t.Fatalf("no pod %s was recorded", name)
	return "", nil
}

func (s *apiServer) uid(t *testing.T, pod string) string {
	t.Helper()
	uid, _ := s.pod(t, pod)
	return uid
}

// runs puts the id of a container of Docker's into the recorded status of a pod.
func (s *apiServer) runs(t *testing.T, pod, container, id string) {
	t.Helper()
	_, containers := s.pod(t, pod)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !strings.Contains(s.pods, containers[container]) {
		t.Fatalf("no container %s of pod %s was recorded", container, pod)
	}
	s.pods = strings.ReplaceAll(s.pods, containers[container], "docker://"+id)
}
