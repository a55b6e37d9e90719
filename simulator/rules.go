package simulator

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/imds-bridge/imds-bridge/imds"
)

// Verbs that a path takes. The token path's are seen in a capture of 2020-04-07; those of the data paths
// are not known beyond GET and HEAD.
const (
	allowToken = "OPTIONS, PUT"
	allowData  = "GET, HEAD, OPTIONS"
)

// kind is what a request is to the service.
type kind string

const (
	kindToken kind = "token" // PUT to the token path
	kindV1    kind = "v1"    // GET or HEAD without a token
	kindV2    kind = "v2"    // GET or HEAD with a token, valid or not
	kindOther kind = "other" // other verbs, the token path with another verb, what cannot be read
)

// kindOf tells v1 from v2 by the presence of the token header alone: "If these headers are present, the
// request is intended for IMDSv2. If no headers are present, it is assumed IMDSv1" (EC2 User Guide).
func kindOf(req *http.Request) kind {
	_, token := req.Header[imds.HeaderToken]
	switch {
	case req.Method == http.MethodPut && req.URL.Path == imds.TokenPath:
		return kindToken
	case req.URL.Path == imds.TokenPath, req.Method != http.MethodGet && req.Method != http.MethodHead:
		return kindOther
	case token:
		return kindV2
	default:
		return kindV1
	}
}

// service is the instance's metadata service at one moment; it answers without side effects.
type service struct {
	tree    *Tree
	tokens  *tokens
	options MetadataOptions
	older   bool
	started time.Time // Last-Modified of everything
}

// answer applies the service's rules to one request, the most general refusals first.
func (s service) answer(req *http.Request, now time.Time) answer {
	switch {
	case s.options.HTTPEndpoint == Disabled:
		return empty(http.StatusForbidden)
	case req.Header.Get("Expect") != "":
		// s3fs-fuse/s3fs-fuse issue 1765: a PUT with "Expect: 100-continue" gets 417.
		return empty(http.StatusExpectationFailed)
	case req.URL.Path == imds.TokenPath:
		return s.answerToken(req, now)
	case isTokenAlias(req.URL.Path):
		return empty(http.StatusForbidden)
	case req.Method != http.MethodGet && req.Method != http.MethodHead:
		return notAllowed(allowData)
	default:
		return s.answerData(req, now)
	}
}

// isTokenAlias tells whether a path is the token path of a dated version or with more slashes: 403 in
// the EC2 User Guide and in aws-beam/aws_credentials issue 47.
func isTokenAlias(path string) bool {
	parts := segments(path)
	return len(parts) == 3 && parts[1] == "api" && parts[2] == "token" && slices.Contains(versions, parts[0])
}

// segments are the names in a path; empty ones do not count, since the service tolerates double slashes.
func segments(path string) []string {
	return strings.FieldsFunc(path, func(c rune) bool { return c == '/' })
}

func (s service) answerToken(req *http.Request, now time.Time) answer {
	switch req.Method {
	case http.MethodPut:
	case http.MethodOptions: // not captured; offered by the Allow header of the 405
		a := empty(http.StatusOK)
		a.header["Allow"] = allowToken
		return a
	default:
		return notAllowed(allowToken)
	}
	if _, forwarded := req.Header[imds.HeaderForwardedFor]; forwarded {
		return empty(http.StatusForbidden)
	}
	ttl, ok := parseTTL(req.Header.Get(imds.HeaderTokenTTL))
	if !ok {
		return empty(http.StatusBadRequest)
	}
	prefix := tokenPrefix
	if s.older {
		prefix = tokenPrefixOlder
	}
	a := empty(http.StatusOK)
	a.header[imds.HeaderTokenTTL] = strconv.Itoa(ttl)
	a.body = []byte(s.tokens.issue(now, ttl, prefix))
	return a
}

func (s service) answerData(req *http.Request, now time.Time) answer {
	token, v2 := req.Header[imds.HeaderToken]
	if !v2 {
		if s.options.HTTPTokens == TokensRequired {
			return empty(http.StatusUnauthorized)
		}
		return s.read(req, now)
	}
	if _, forwarded := req.Header[imds.HeaderForwardedFor]; forwarded {
		// jtblin/kube2iam pull request 279. Without a token the header is taken.
		return empty(http.StatusForbidden)
	}
	left := s.tokens.remaining(now, token[0])
	if left == 0 {
		return empty(http.StatusUnauthorized)
	}
	a := s.read(req, now)
	a.header[imds.HeaderTokenTTL] = strconv.Itoa(left)
	return a
}

// read answers from the tree; who asks has been settled.
func (s service) read(req *http.Request, now time.Time) answer {
	parts := segments(req.URL.Path)
	if len(parts) == 0 {
		return s.text([]byte(strings.Join(versions, "\n")))
	}
	if !slices.Contains(versions, parts[0]) {
		return page(http.StatusNotFound)
	}
	tags := s.options.InstanceMetadataTags == Enabled
	n := s.tree.lookup(parts[1:], tags)
	switch {
	case n == nil:
		return page(http.StatusNotFound)
	case n.directory() && s.older && !strings.HasSuffix(req.URL.Path, "/"):
		return redirectToDirectory(req)
	case n.directory():
		return s.text(n.list(tags))
	case n.userData:
		return data(octetStream, "bytes", s.started, n.content(now)).inRange(req)
	default:
		return s.text(n.content(now)).inRange(req)
	}
}

// text is a 200 of text/plain, which is what everything but user data is, JSON too.
func (s service) text(body []byte) answer {
	ranges := "none"
	if s.older {
		ranges = "bytes"
	}
	return data(textPlain, ranges, s.started, body)
}

// redirectToDirectory is the older backend's 301 to an absolute URL (jtblin/kube2iam issue 119).
func redirectToDirectory(req *http.Request) answer {
	host := req.Host
	if host == "" {
		host = imds.IPv4.String()
	}
	a := empty(http.StatusMovedPermanently)
	a.header["Location"] = "http://" + host + req.URL.EscapedPath() + "/"
	return a
}
