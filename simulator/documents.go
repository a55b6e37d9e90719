package simulator

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"
)

// The example keys of the AWS documentation, in the shape of temporary credentials.
const (
	exampleAccessKeyID     = "ASIAIOSFODNN7EXAMPLE"
	exampleSecretAccessKey = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
)

// exampleSessionToken has the length of a real one: captures show credential documents of 1310 to 1582 bytes.
var exampleSessionToken = "IQoJb3JpZ2luX2VjE" + strings.Repeat("EXAMPLE", 145)

// Role credentials are renewed long before they end: a capture of 2023-06-30 has LastUpdated 19:06:42
// and Expiration 01:25:35. Rotating on the full hour keeps all answers of a test run alike.
const (
	rotation = time.Hour
	lifetime = 6*time.Hour + 19*time.Minute
)

// generators makes the leaves that a tree may leave without a value, by pattern of path.Match.
var generators = []struct {
	pattern string
	content func(t *Tree, now time.Time) []byte
}{
	{"dynamic/instance-identity/document", (*Tree).identityDocument},
	{"dynamic/instance-identity/pkcs7", func(t *Tree, now time.Time) []byte { return t.pkcs7(now, 1100) }},
	{"dynamic/instance-identity/rsa2048", func(t *Tree, now time.Time) []byte { return t.pkcs7(now, 1300) }},
	{"dynamic/instance-identity/signature", (*Tree).signature},
	{"meta-data/iam/info", (*Tree).profileInfo},
	{"meta-data/iam/security-credentials/*", credentials},
	{"meta-data/identity-credentials/ec2/info", (*Tree).identityInfo},
	{"meta-data/identity-credentials/ec2/security-credentials/ec2-instance", credentials},
}

// generated returns what makes the leaf at a path, or nil if nothing does.
func (t *Tree) generated(segments []string) func(time.Time) []byte {
	name := strings.Join(segments, "/")
	for _, g := range generators {
		if ok, _ := path.Match(g.pattern, name); ok {
			return func(now time.Time) []byte { return g.content(t, now) }
		}
	}
	return nil
}

// identityDocument is laid out as the EC2 User Guide shows it, spaces before the colons included.
func (t *Tree) identityDocument(time.Time) []byte {
	return object(
		"accountId", quote(t.account()),
		"architecture", quote("x86_64"),
		"availabilityZone", quote(t.value("meta-data/placement/availability-zone")),
		"billingProducts", "null",
		"devpayProductCodes", "null",
		"marketplaceProductCodes", "null",
		"imageId", quote(t.value("meta-data/ami-id")),
		"instanceId", quote(t.value("meta-data/instance-id")),
		"instanceType", quote(t.value("meta-data/instance-type")),
		"kernelId", "null",
		"pendingTime", quote("2026-01-15T08:30:00Z"),
		"privateIp", quote(t.value("meta-data/local-ipv4")),
		"ramdiskId", "null",
		"region", quote(t.value("meta-data/placement/region")),
		"version", quote("2017-09-30"),
	)
}

// pkcs7 has the outer bytes of a detached PKCS#7 signature and nothing that verifies.
func (t *Tree) pkcs7(now time.Time, size int) []byte {
	signedData := []byte("\x30\x80\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02\xa0\x80\x30\x80\x02\x01\x01")
	return wrap(append(signedData, filler(t.identityDocument(now), size-len(signedData))...))
}

// signature has the length of an RSA-1024 signature in base64: three lines.
func (t *Tree) signature(now time.Time) []byte { return wrap(filler(t.identityDocument(now), 128)) }

func (t *Tree) profileInfo(now time.Time) []byte {
	return object(
		"Code", quote("Success"),
		"LastUpdated", timestamp(now.Truncate(rotation)),
		"InstanceProfileArn", quote("arn:aws:iam::"+t.account()+":instance-profile/example-profile"),
		"InstanceProfileId", quote("AIPAIOSFODNN7EXAMPLE1"),
	)
}

func (t *Tree) identityInfo(now time.Time) []byte {
	return object(
		"Code", quote("Success"),
		"LastUpdated", timestamp(now.Truncate(rotation)),
		"AccountId", quote(t.account()),
	)
}

func credentials(_ *Tree, now time.Time) []byte {
	updated := now.Truncate(rotation)
	return object(
		"Code", quote("Success"),
		"LastUpdated", timestamp(updated),
		"Type", quote("AWS-HMAC"),
		"AccessKeyId", quote(exampleAccessKeyID),
		"SecretAccessKey", quote(exampleSecretAccessKey),
		"Token", quote(exampleSessionToken),
		"Expiration", timestamp(updated.Add(lifetime)),
	)
}

// account is the owner of the first network interface.
func (t *Tree) account() string {
	return t.value("meta-data/network/interfaces/macs/" + t.value("meta-data/mac") + "/owner-id")
}

// object lays out names and values as the service's own JSON writer does.
func object(pairs ...string) []byte {
	var lines []string
	for pair := range slices.Chunk(pairs, 2) {
		lines = append(lines, fmt.Sprintf("  %q : %s", pair[0], pair[1]))
	}
	return []byte("{\n" + strings.Join(lines, ",\n") + "\n}")
}

func quote(text string) string { return fmt.Sprintf("%q", text) }

func timestamp(t time.Time) string { return quote(t.UTC().Format("2006-01-02T15:04:05Z")) }

// filler returns size bytes that look random and depend on the seed alone.
func filler(seed []byte, size int) []byte {
	var out []byte
	for sum := sha256.Sum256(seed); len(out) < size; sum = sha256.Sum256(sum[:]) {
		out = append(out, sum[:]...)
	}
	return out[:size]
}

// wrap is base64 in lines of 64, without a newline at the end.
func wrap(data []byte) []byte {
	var lines []string
	for line := range slices.Chunk([]byte(base64.StdEncoding.EncodeToString(data)), 64) {
		lines = append(lines, string(line))
	}
	return []byte(strings.Join(lines, "\n"))
}
