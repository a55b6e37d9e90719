package proxy

import (
	"bytes"
	"encoding/base64"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/imds-bridge/imds-bridge/imds"
	"github.com/imds-bridge/imds-bridge/policy"
	"github.com/imds-bridge/imds-bridge/simulator"
)

var watching = policy.Policy{Mode: policy.Observe, ContainersV1: policy.Pass, ContainersTokens: policy.HopLimit}

// treeWith serves user data, and beside it a leaf without content.
func treeWith(t *testing.T, userData []byte) *simulator.Tree {
	t.Helper()
	tree, err := simulator.ParseTree([]byte("user-data: !!binary " + base64.StdEncoding.EncodeToString(userData) +
		"\nmeta-data:\n  empty: \"\"\n  instance-id: i-0\n"))
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// randomBytes are the same in every run.
func randomBytes(n int) []byte {
	b := make([]byte, n)
	for i, r := 0, rand.New(rand.NewPCG(1, 2)); i < n; i++ {
		b[i] = byte(r.Uint32())
	}
	return b
}

// TestTransparentBodies compares the answers with the direct ones, byte for byte, for the largest
// body that IMDS has and for none at all. The policy upgrades v1 calls, the simulator takes them.
func TestTransparentBodies(t *testing.T) {
	t.Parallel()
	data := randomBytes(imds.MaxUserData)
	for name, s := range map[string]setup{
		"passed":        {policy: watching},
		"older backend": {policy: watching, behaviour: simulator.Behaviour{OlderBackend: true}},
		"upgraded":      {},
		"kept open":     {behaviour: simulator.Behaviour{KeepAlive: true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s.tree = treeWith(t, data)
			b := s.start(t)
			token := "X-aws-ec2-metadata-token: " + b.token(t)
			for _, c := range []struct {
				name, method, path, header string
				body                       []byte
			}{
				{"all", "GET", "/latest/user-data", "", data},
				{"head", "HEAD", "/latest/user-data", "", nil},
				{"first byte", "GET", "/latest/user-data", "Range: bytes=0-0", data[:1]},
				{"last bytes", "GET", "/latest/user-data", "Range: bytes=16000-", data[16000:]},
				{"nothing", "GET", "/latest/meta-data/empty", "", nil},
				{"head of nothing", "HEAD", "/latest/meta-data/empty", "", nil},
			} {
				for _, version := range []string{"", token} {
					headers := slices.DeleteFunc([]string{"Connection: close", c.header, version}, func(h string) bool { return h == "" })
					raw := ask(c.method, c.path, headers...)
					direct, bridged := send(t, b.imdsAddr, raw), send(t, b.addr, raw)
					if !slices.Equal(parseAnswers(t, direct, c.method), parseAnswers(t, bridged, c.method)) {
						t.Errorf("%s: direct answer %.400q, through the bridge %.400q", c.name, direct, bridged)
					}
					if s.behaviour.OlderBackend {
						continue // it takes no ranges
					}
					if _, body, _ := strings.Cut(bridged, "\r\n\r\n"); !bytes.Equal([]byte(body), c.body) || bridged[9] != '2' {
						t.Errorf("%s: a body of %d bytes, want %d: %.200q", c.name, len(body), len(c.body), bridged)
					}
				}
			}
		})
	}
}

// TestTransparentPipeline sends v1 and v2 requests at once on one connection.
func TestTransparentPipeline(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		setup
		answers int
	}{
		"passed":              {setup{policy: watching}, 1},
		"passed, kept open":   {setup{policy: watching, behaviour: simulator.Behaviour{KeepAlive: true}}, 7},
		"upgraded":            {setup{}, 1},
		"upgraded, kept open": {setup{behaviour: simulator.Behaviour{KeepAlive: true}}, 7},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := c.start(t)
			token := "X-aws-ec2-metadata-token: " + b.token(t)
			raw := get("/latest/meta-data/instance-id") +
				get("/latest/user-data", token) +
				ask("HEAD", "/latest/meta-data/ami-id") +
				ask("HEAD", "/latest/meta-data/ami-id", token) +
				get("/latest/meta-data/no-such-thing") +
				get("/latest/meta-data/", token) +
				get("/latest/meta-data/mac", "Connection: close")
			methods := []string{"GET", "GET", "HEAD", "HEAD", "GET"}
			direct := parseAnswers(t, send(t, b.imdsAddr, raw), methods...)
			bridged := parseAnswers(t, send(t, b.addr, raw), methods...)
			if len(direct) != c.answers || !slices.Equal(direct, bridged) {
				t.Errorf("%d direct answers, want %d:\n%s\n\nthrough the bridge:\n%s", len(direct), c.answers, strings.Join(direct, "\n---\n"), strings.Join(bridged, "\n---\n"))
			}
		})
	}
}

// TestTransparentKeepAlive compares every kind of request before a backend that keeps connections
// open. The request that follows shows whether they were, and ends them.
func TestTransparentKeepAlive(t *testing.T) {
	t.Parallel()
	b := setup{policy: watching, behaviour: simulator.Behaviour{KeepAlive: true}}.start(t)
	for _, r := range requests {
		raw := r.raw + get("/latest/meta-data/mac", "Connection: close")
		direct := parseAnswers(t, send(t, b.imdsAddr, raw), r.method, "GET")
		bridged := parseAnswers(t, send(t, b.addr, raw), r.method, "GET")
		if !slices.Equal(direct, bridged) {
			t.Errorf("%s: direct answer:\n%s\n\nthrough the bridge:\n%s", r.name, strings.Join(direct, "\n---\n"), strings.Join(bridged, "\n---\n"))
		}
	}
}
