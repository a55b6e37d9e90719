package simulator

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// Whatever a list names can be fetched, on both backends, following redirects by hand.
func TestEverythingListedIsThere(t *testing.T) {
	t.Parallel()
	for name, behaviour := range map[string]Behaviour{"today": {}, "older": {OlderBackend: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, address := start(t, Options{Behaviour: behaviour, Metadata: MetadataOptions{InstanceMetadataTags: Enabled}})
			leaves := 0
			var walk func(path string)
			walk = func(path string) {
				list := call(t, address, "GET", path)
				if list.status != 200 || list.body == "" {
					t.Errorf("%s: status %d, body %q", path, list.status, list.body)
				}
				for line := range strings.Lines(list.body) {
					line = strings.TrimSuffix(line, "\n")
					index, _, isKey := strings.Cut(line, "=")
					switch {
					case isKey:
						walk(path + index + "/")
					case strings.HasSuffix(line, "/"):
						walk(path + line)
					default:
						leaves++
						if r := call(t, address, "GET", path+line); r.status != 200 || r.body == "" {
							t.Errorf("%s%s: status %d", path, line, r.status)
						}
					}
				}
			}
			walk("/latest/meta-data/")
			walk("/latest/dynamic/")
			if leaves < 55 {
				t.Errorf("%d leaves", leaves)
			}
		})
	}
}

func TestCredentialsHaveTheShapeOfRealOnesAndMove(t *testing.T) {
	t.Parallel()
	tree, err := BuiltInTree()
	if err != nil {
		t.Fatal(err)
	}
	type document struct{ Code, LastUpdated, Type, AccessKeyID, SecretAccessKey, Token, Expiration string }
	at := func(path string, now time.Time) (d document) {
		raw := tree.lookup(segments(path), false).content(now)
		decoder := json.NewDecoder(strings.NewReader(string(raw)))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&d); err != nil {
			t.Fatalf("%v in %s", err, raw)
		}
		return d
	}
	now := time.Now()
	for _, path := range []string{
		"meta-data/iam/security-credentials/example-role",
		"meta-data/identity-credentials/ec2/security-credentials/ec2-instance",
	} {
		d := at(path, now)
		if d.Code != "Success" || d.Type != "AWS-HMAC" {
			t.Errorf("%s: %+v", path, d)
		}
		if !regexp.MustCompile(`^ASIA[A-Z0-9]{16}$`).MatchString(d.AccessKeyID) || len(d.SecretAccessKey) != 40 {
			t.Errorf("%s: keys %q, %q", path, d.AccessKeyID, d.SecretAccessKey)
		}
		if raw, err := base64.StdEncoding.DecodeString(d.Token); err != nil || len(raw) < 500 {
			t.Errorf("%s: token of %d bytes, %v", path, len(raw), err)
		}
		updated, err1 := time.Parse(time.RFC3339, d.LastUpdated)
		expiry, err2 := time.Parse(time.RFC3339, d.Expiration)
		if err1 != nil || err2 != nil || updated.After(now) || now.Sub(updated) > time.Hour || expiry.Sub(now) < 5*time.Hour {
			t.Errorf("%s: %s to %s", path, d.LastUpdated, d.Expiration)
		}
		if later := at(path, now.Add(time.Hour)); later.Expiration == d.Expiration || later.LastUpdated == d.LastUpdated {
			t.Errorf("%s: an hour later still %+v", path, later)
		}
	}
}

func TestIdentityDocumentAgreesWithTheTree(t *testing.T) {
	t.Parallel()
	tree, err := BuiltInTree()
	if err != nil {
		t.Fatal(err)
	}
	leaf := func(path string) string {
		return string(tree.lookup(segments(path), false).content(time.Now()))
	}
	var document map[string]any
	if err := json.Unmarshal([]byte(leaf("dynamic/instance-identity/document")), &document); err != nil {
		t.Fatal(err)
	}
	for key, path := range map[string]string{
		"instanceId":       "meta-data/instance-id",
		"imageId":          "meta-data/ami-id",
		"instanceType":     "meta-data/instance-type",
		"privateIp":        "meta-data/local-ipv4",
		"region":           "meta-data/placement/region",
		"availabilityZone": "meta-data/placement/availability-zone",
		"accountId":        "meta-data/network/interfaces/macs/02:29:96:8f:6a:2d/owner-id",
	} {
		if document[key] != leaf(path) {
			t.Errorf("%s: %v, want %s", key, document[key], leaf(path))
		}
	}
	for name, size := range map[string]int{"pkcs7": 1100, "rsa2048": 1300, "signature": 128} {
		text := leaf("dynamic/instance-identity/" + name)
		raw, err := base64.StdEncoding.DecodeString(text)
		if err != nil || len(raw) != size {
			t.Errorf("%s: %d bytes, %v", name, len(raw), err)
		}
		if first, _, _ := strings.Cut(text, "\n"); len(first) != 64 {
			t.Errorf("%s: line of %d", name, len(first))
		}
		if name != "signature" && !strings.HasPrefix(text, "MIAGCSqGSIb3DQEHAqCAMIACAQEx"[:24]) {
			t.Errorf("%s starts with %s", name, text[:24])
		}
	}
}

const ownTree = `
user-data: !!binary H4sA/wAB
dynamic:
  instance-identity:
    document:
meta-data:
  instance-id: i-0fedcba9876543210
  ami-launch-index: 007
  text: |
    two
    lines
  list: [a, 2, true]
  quoted: ""
  iam:
    security-credentials:
      first-role:
      second-role: '{"Code":"AssumeRoleUnauthorizedAccess"}'
  public-keys:
    "0=one": {openssh-key: ssh-ed25519 EXAMPLE}
    "1=two": {openssh-key: ssh-ed25519 EXAMPLE}
  tags:
    instance: {Name: !!str 12}
`

func TestTreeFromFileReplacesTheBuiltInOne(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "tree.yaml")
	if err := os.WriteFile(file, []byte(ownTree), 0o600); err != nil {
		t.Fatal(err)
	}
	tree, err := ReadTree(file)
	if err != nil {
		t.Fatal(err)
	}
	_, address := start(t, Options{Tree: tree, Metadata: MetadataOptions{InstanceMetadataTags: Enabled}})
	for target, want := range map[string]string{
		"/latest/":                      "dynamic\nmeta-data\nuser-data",
		"/latest/user-data":             "\x1f\x8b\x00\xff\x00\x01",
		idPath:                          "i-0fedcba9876543210",
		"/1.0/meta-data/text":           "two\nlines\n",
		"/latest/meta-data/list":        "a\n2\ntrue",
		"/latest/meta-data/quoted":      "",
		"/latest/meta-data/public-keys": "0=one\n1=two",
		"/latest/meta-data/public-keys/1/openssh-key":            "ssh-ed25519 EXAMPLE",
		"/latest/meta-data/ami-launch-index":                     "007",
		"/latest/meta-data/iam/security-credentials/":            "first-role\nsecond-role",
		"/latest/meta-data/iam/security-credentials/second-role": `{"Code":"AssumeRoleUnauthorizedAccess"}`,
		"/latest/meta-data/tags/instance/Name":                   "12",
	} {
		if r := call(t, address, "GET", target); r.status != 200 || r.body != want {
			t.Errorf("%s: status %d, body %q, want %q", target, r.status, r.body, want)
		}
	}
	if r := call(t, address, "GET", "/latest/meta-data/iam/security-credentials/first-role"); !strings.Contains(r.body, exampleAccessKeyID) {
		t.Errorf("generated credentials: %q", r.body)
	}
	if r := call(t, address, "GET", "/latest/dynamic/instance-identity/document"); !strings.Contains(r.body, "i-0fedcba9876543210") {
		t.Errorf("generated document: %q", r.body)
	}
	if r := call(t, address, "GET", "/latest/meta-data/hostname"); r.status != 404 {
		t.Errorf("leaf of the built-in tree: status %d", r.status)
	}
}

func TestUserDataThatIsNotSetIsNotFound(t *testing.T) {
	t.Parallel()
	tree, err := ParseTree([]byte("meta-data: {instance-id: i-0}"))
	if err != nil {
		t.Fatal(err)
	}
	_, address := start(t, Options{Tree: tree})
	if r := call(t, address, "GET", "/latest/user-data"); r.status != 404 {
		t.Errorf("status %d", r.status)
	}
}

func TestTreeErrorsNameLineAndThing(t *testing.T) {
	t.Parallel()
	for document, want := range map[string]string{
		"":                                          "want one YAML document with some of dynamic, meta-data, user-data",
		"just text":                                 "want a mapping with some of dynamic, meta-data, user-data",
		"meta-data: {a: b}\nmetadata: {a: b}":       `line 2: unknown top-level key "metadata": want one of dynamic, meta-data, user-data`,
		"meta-data:\n  a:\n":                        "line 2: meta-data/a has no value, and none can be generated for it",
		"meta-data:\n  a/b: c":                      `line 2: "a/b" cannot name a part of a path`,
		"meta-data:\n  a: !!binary not base64!":     "line 2: decode !!binary: illegal base64 data at input byte 9",
		"meta-data:\n  a: !!float 1":                "line 2: unknown tag !!float: want !!binary or !!str",
		"meta-data:\n  a: &x b\n":                   "line 2: Anchor cannot be served: want text, a number, a list or !!binary",
		"user-data: " + strings.Repeat("x", 16385):  "line 1: user-data has 16385 bytes, more than the 16384 that EC2 takes",
		"meta-data: [":                              "parse YAML:",
		"meta-data: {a: 1}\n---\nmeta-data: {a: 1}": "want one YAML document",
		"meta-data: {a: 1}\nmeta-data: {a: 1}\n":    "parse YAML:",
		"meta-data:\n  a: [{b: c}]":                 "line 2: Mapping cannot be served",
	} {
		if _, err := ParseTree([]byte(document)); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%.40q: %v\nwant %s", document, err, want)
		}
	}
	if _, err := ReadTree(filepath.Join(t.TempDir(), "none.yaml")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}
