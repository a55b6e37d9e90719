package imds

import (
	"net/http"
	"strings"
	"testing"
)

func TestClassify(t *testing.T) {
	t.Parallel()
	header := func(kv ...string) http.Header {
		h := http.Header{}
		for i := 0; i < len(kv); i += 2 {
			h.Add(kv[i], kv[i+1])
		}
		return h
	}
	for _, c := range []struct {
		name, method, target string
		header               http.Header
		want                 Kind
	}{
		{"plain get", "GET", "/latest/meta-data/instance-id", nil, V1},
		{"head", "HEAD", "/latest/meta-data/", nil, V1},
		{"version list", "GET", "/", nil, V1},
		{"token", "GET", "/latest/meta-data/", header("x-aws-ec2-metadata-token", "t"), V2},
		{"empty token", "GET", "/latest/meta-data/", header("x-aws-ec2-metadata-token", ""), V2},
		{"token request", "PUT", "/latest/api/token", header("x-aws-ec2-metadata-token-ttl-seconds", "60"), TokenRequest},
		{"token request, spelled otherwise", "PUT", "//latest//api/token/", nil, TokenRequest},
		{"post", "POST", "/latest/api/token", nil, Other},
		{"trace", "TRACE", "/", nil, Other},
		{"google header", "GET", "/", header("Metadata-Flavor", "Google"), NotAWS},
		{"google path", "GET", "/computeMetadata/v1/instance/id", nil, NotAWS},
		{"azure", "GET", "/metadata/instance?api-version=2021-02-01", header("Metadata", "true"), NotAWS},
		{"oracle", "GET", "/opc/v2/instance/", header("Authorization", "Bearer Oracle"), NotAWS},
		{"ibm", "PUT", "/instance_identity/v1/token?version=2022-03-01", header("Metadata-Flavor", "ibm"), NotAWS},
		{"azure header alone", "GET", "/instance", header("Metadata", "true"), NotAWS},
		{"azure header, other case", "GET", "/instance", header("Metadata", "True"), NotAWS},
		{"azure header, off", "GET", "/instance", header("Metadata", "false"), V1},
		{"azure path alone", "GET", "/metadata/instance?api-version=2021-02-01", nil, NotAWS},
		{"oracle header alone", "GET", "/instance", header("Authorization", "Bearer Oracle"), NotAWS},
		{"another bearer", "GET", "/instance", header("Authorization", "Bearer x"), V1},
		{"oracle path alone", "GET", "/opc/v2/instance/", nil, NotAWS},
		{"ibm header alone", "PUT", "/v1/token", header("Metadata-Flavor", "ibm"), NotAWS},
		{"ibm path alone", "PUT", "/instance_identity/v1/token?version=2022-03-01", nil, NotAWS},
		{"openstack path", "GET", "/openstack/latest/meta_data.json", nil, NotAWS},
		{"hetzner path", "GET", "/hetzner/v1/metadata", nil, NotAWS},
		{"google header on an EC2 path", "GET", "/latest/user-data", header("Metadata-Flavor", "Google"), V1},
		{"azure header on a dated EC2 path", "GET", "/2021-03-23/meta-data/", header("Metadata", "true"), V1},
		{"azure header on an escaped EC2 path", "GET", "/%6catest/user-data", header("Metadata", "true"), V1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			path, err := Canonical(c.target)
			if err != nil {
				t.Fatal(err)
			}
			if got := Classify(c.method, path, c.header); got != c.want {
				t.Errorf("Classify(%s %s %v) = %s, want %s", c.method, c.target, c.header, got, c.want)
			}
		})
	}
}

func TestCanonical(t *testing.T) {
	t.Parallel()
	for target, want := range map[string]string{
		"/":                          "/",
		"//":                         "/",
		"/latest/":                   "/latest",
		"//latest//user-data":        "/latest/user-data",
		"/latest/user-data?x=/../":   "/latest/user-data",
		"/latest/user%2Ddata":        "/latest/user-data",
		"/latest%2Fuser-data":        "/latest/user-data",
		"/m/0a:1b/":                  "/m/0a:1b",
		"/m/0a%3a1b":                 "/m/0a:1b",
		"/latest/.hidden":            "/latest/.hidden",
		"/tags/instance/a%25b":       "/tags/instance/a%b",
		"/latest/tags/Größe":         "/latest/tags/Größe",
		"/latest/meta-data/iam%20x/": "/latest/meta-data/iam x",
	} {
		if got, err := Canonical(target); got != want || err != nil {
			t.Errorf("Canonical(%q) = %q, %v, want %q", target, got, err, want)
		}
	}
	for _, target := range []string{
		"", "*", "latest", "http://169.254.169.254/", "/latest/../user-data", "/latest/./x", "/%2e%2e/x",
		"/latest/%zz", "/latest/%", "/latest/\x00", "/latest/%0a", "/latest\\user-data", "/latest/..", "/latest/user-data#x", "/latest/user-data;x",
	} {
		if got, err := Canonical(target); err == nil {
			t.Errorf("Canonical(%q) = %q, want a refusal", target, got)
		}
	}
}

func TestRouteOf(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]Route{
		"/":                                 {Pattern: "/"},
		"/latest":                           {Pattern: "/latest"},
		"/latest/api/token":                 {Pattern: "/latest/api/token"},
		"/latest/meta-data/instance-id":     {Pattern: "/latest/meta-data/instance-id"},
		"/2021-03-23/meta-data/instance-id": {Pattern: "/{version}/meta-data/instance-id"},
		"/latest/meta-data/iam":             {Pattern: "/latest/meta-data/iam"},
		"/latest/meta-data/iam/security-credentials":                                {Pattern: "/latest/meta-data/iam/security-credentials"},
		"/latest/meta-data/iam/security-credentials/admin":                          {"/latest/meta-data/iam/security-credentials/{role}", true},
		"/latest/meta-data/iam/security-credentials/admin/x":                        {"/latest/meta-data/iam/security-credentials/{role}/{unknown}", true},
		"/1.0/meta-data/identity-credentials/ec2/security-credentials/ec2-instance": {"/{version}/meta-data/identity-credentials/ec2/security-credentials/{identity}", true},
		"/latest/user-data": {"/latest/user-data", true},
		"/latest/meta-data/network/interfaces/macs/0a:1b/subnet-id": {Pattern: "/latest/meta-data/network/interfaces/macs/{mac}/{rest}"},
		"/latest/meta-data/tags/instance/Owner":                     {Pattern: "/latest/meta-data/tags/instance/{key}"},
		"/latest/meta-data/no-such-thing":                           {Pattern: "/latest/meta-data/{unknown}"},
		"/latest/meta-data/instance-id/x":                           {Pattern: "/latest/meta-data/instance-id/{unknown}"},
		"/favicon.ico":                                              Unknown,
	} {
		if got := RouteOf(path); got != want {
			t.Errorf("RouteOf(%q) = %+v, want %+v", path, got, want)
		}
	}
}

func TestRelaySign(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ host, header, want string }{
		{"169.254.169.254", "User-Agent", ""},
		{"169.254.169.254:80", "Accept", ""},
		{"[fd00:ec2::254]", "Accept", ""},
		{"[FD00:EC2:0::254]:80", "Accept", ""},
		{"", "Accept", ""},
		{"instance-data.ec2.internal", "Accept", ""},
		{"Instance-Data.", "Accept", ""},
		{"rebind.example.com", "Accept", "Host"},
		{"169.254.169.254:8080", "Accept", "Host"},
		{"2852039166", "Accept", "Host"},
		{"169.254.169.254.nip.io", "Accept", "Host"},
		{"169.254.169.254", "x-forwarded-for", "X-Forwarded-For"},
		{"169.254.169.254", "forwarded", "Forwarded"},
		{"169.254.169.254", "via", "Via"},
		{"169.254.169.254", "x-real-ip", "X-Real-Ip"},
		{"169.254.169.254", "origin", "Origin"},
		{"169.254.169.254", "referer", "Referer"},
		{"169.254.169.254", "sec-fetch-site", "Sec-Fetch-Site"},
		{"169.254.169.254", "cookie", "Cookie"},
		{"169.254.169.254", "x-forwarded", "X-Forwarded"},
		{"169.254.169.254", "x-forwarded-by", "X-Forwarded-By"},
		{"169.254.169.254", "sec-ch-ua", "Sec-Ch-Ua"},
		{"169.254.169.254", "upgrade-insecure-requests", "Upgrade-Insecure-Requests"},
		{"169.254.169.254", "x-amzn-trace-id", "X-Amzn-Trace-Id"},
		{"169.254.169.254", "x-amz-date", ""},
	} {
		h := http.Header{}
		h.Set(c.header, "x")
		if got := RelaySign(c.host, h); got != c.want {
			t.Errorf("RelaySign(%q, %s) = %q, want %q", c.host, c.header, got, c.want)
		}
	}
}

func FuzzCanonical(f *testing.F) {
	for _, s := range []string{"/", "//latest//user-data/", "/latest/%2e%2e/", "/latest/meta-data/iam/security-credentials/%61dmin?x", "*", "/%25%32%65"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, target string) {
		path, err := Canonical(target)
		if err != nil {
			return
		}
		if !strings.HasPrefix(path, "/") || path != "/" && strings.HasSuffix(path, "/") || strings.Contains(path, "//") {
			t.Fatalf("Canonical(%q) = %q", target, path)
		}
		for segment := range strings.SplitSeq(path, "/") {
			if segment == "." || segment == ".." {
				t.Fatalf("Canonical(%q) = %q has a dot segment", target, path)
			}
		}
		if r := RouteOf(path); r.Pattern == "" {
			t.Fatalf("RouteOf(%q) has no pattern", path)
		}
	})
}

func FuzzClassify(f *testing.F) {
	f.Add("GET", "/latest/user-data", "Metadata-Flavor", "Google")
	f.Add("PUT", "/latest/api/token", "X-Aws-Ec2-Metadata-Token", "")
	f.Fuzz(func(t *testing.T, method, target, name, value string) {
		path, err := Canonical(target)
		if err != nil {
			return
		}
		h := http.Header{}
		h.Add(name, value)
		kind := Classify(method, path, h)
		first, _, _ := strings.Cut(path[1:], "/")
		if kind == NotAWS && isVersion(first) {
			t.Fatalf("%s %q with %s: %q passes for another cloud's", method, target, name, value)
		}
		if kind == V1 && len(h[HeaderToken]) > 0 {
			t.Fatalf("a request with a token passes for v1")
		}
	})
}
