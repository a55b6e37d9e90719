package telemetry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
)

const (
	oldToken     = "AQAAAK_1234567890abcdefghijklmnopqrstuvwxyzABCDEFGHIJK=="
	sessionToken = "IQoJb3JpZ2luX2VjEXAMPLE/+abcdefghijklmnopqrstuvwxyz0123456789=="
	secretKey    = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
	jwt          = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
)

func TestRedact(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		secretToken:                           "[redacted]",
		oldToken:                              "[redacted]",
		secretToken[:30]:                      "[redacted]", // cut by a length limit
		"a " + secretToken + " b " + oldToken: "a [redacted] b [redacted]",
		"curl -H X-aws-ec2-metadata-token:abc -s":                                   "curl -H X-aws-ec2-metadata-token:[redacted] -s",
		`curl -H "x-aws-EC2-metadata-token: abc" http://host/`:                      `curl -H "x-aws-EC2-metadata-token: [redacted]" http://host/`,
		"X-aws-ec2-metadata-token-ttl-seconds: 21600":                               "X-aws-ec2-metadata-token-ttl-seconds: 21600",
		"no x-aws-ec2-metadata-token given":                                         "no x-aws-ec2-metadata-token given",
		"x-aws-ec2-metadata-token:":                                                 "x-aws-ec2-metadata-token:",
		"Authorization: Bearer abc def\r\nHost: x":                                  "Authorization: [redacted]\r\nHost: x",
		`{"authorization":"Basic dXNlcg=="}`:                                        `{"authorization":"[redacted]"}`,
		`{\"authorization\":\"Basic dXNlcg==\"}`:                                    `{\"authorization\":\"[redacted]\"}`,
		"authorization failed":                                                      "authorization failed",
		"proxy-authorization=x":                                                     "proxy-authorization=[redacted]",
		"got " + jwt + " back":                                                      "got [redacted] back",
		"eyJ is not a token, eyJhbGciOiJIUzI1NiJ9 alone neither":                    "eyJ is not a token, eyJhbGciOiJIUzI1NiJ9 alone neither",
		"key AKIAIOSFODNN7EXAMPLE used":                                             "key [redacted] used",
		"ASIAIOSFODNN7EXAMPLE":                                                      "[redacted]",
		"AKIA short, AKIAlowercasexxxxxxxx":                                         "AKIA short, AKIAlowercasexxxxxxxx",
		`"SecretAccessKey" : "` + secretKey + `", "Token" : "` + sessionToken + `"`: `"SecretAccessKey" : "[redacted]", "Token" : "[redacted]"`,
		"AWS_SECRET_ACCESS_KEY=" + secretKey + " AWS_SESSION_TOKEN=abc cmd":         "AWS_SECRET_ACCESS_KEY=[redacted] AWS_SESSION_TOKEN=[redacted] cmd",
		"aws_secret_access_key = " + secretKey:                                      "aws_secret_access_key = [redacted]",
		"":                                                                          "",
		"/usr/bin/python3 -m awscli s3 ls":                                          "/usr/bin/python3 -m awscli s3 ls",
		"/latest/meta-data/iam/security-credentials/role":                           "/latest/meta-data/iam/security-credentials/role",
		"AQAEA": "AQAEA",
	} {
		if got := Redact(in); got != want {
			t.Errorf("Redact(%q)\n = %q\nwant %q", in, got, want)
		}
	}
}

type valuer struct{ v slog.Value }

func (v valuer) LogValue() slog.Value { return v.v }

type pair struct{ Name, Value string }

func TestLogsAreRedacted(t *testing.T) {
	t.Parallel()
	for name, log := range map[string]func(*slog.Logger){
		"message":       func(l *slog.Logger) { l.Info("got " + secretToken) },
		"string":        func(l *slog.Logger) { l.Info("x", "a", secretToken) },
		"strings":       func(l *slog.Logger) { l.Info("x", "a", []string{"-H", secretToken}) },
		"bytes":         func(l *slog.Logger) { l.Info("x", "a", []byte(secretToken)) },
		"error":         func(l *slog.Logger) { l.Info("x", "a", fmt.Errorf("call: %w", errors.New(secretToken))) },
		"structure":     func(l *slog.Logger) { l.Info("x", "a", pair{"token", secretToken}) },
		"pointer":       func(l *slog.Logger) { l.Info("x", "a", &pair{"token", secretToken}) },
		"map":           func(l *slog.Logger) { l.Info("x", "a", map[string][]string{"h": {secretToken}}) },
		"valuer":        func(l *slog.Logger) { l.Info("x", "a", valuer{slog.StringValue(secretToken)}) },
		"group":         func(l *slog.Logger) { l.Info("x", slog.Group("g", slog.Group("h", "a", secretToken))) },
		"valuer, group": func(l *slog.Logger) { l.Info("x", "a", valuer{slog.GroupValue(slog.String("b", secretToken))}) },
		"many":          func(l *slog.Logger) { l.Info("x", "1", 1, "2", 2, "3", 3, "4", 4, "5", 5, "6", 6, "a", secretToken) },
		"with":          func(l *slog.Logger) { l.With("a", secretToken).Info("x") },
		"with group":    func(l *slog.Logger) { l.WithGroup("g").With("a", secretToken).Info("x", "b", secretToken) },
		"telling name":  func(l *slog.Logger) { l.Info("x", "http.request.header.authorization", []string{"tiny"}) },
	} {
		logs := &logBuffer{}
		log(slog.New(redactor{slog.NewJSONHandler(logs, nil)}))
		text := logs.String()
		if strings.Contains(text, secretToken) || strings.Contains(text, "tiny") || !strings.Contains(text, mask) {
			t.Errorf("%s: %s", name, text)
		}
	}
}

func TestHarmlessLogsStay(t *testing.T) {
	t.Parallel()
	logs := &logBuffer{}
	var nobody *pair
	slog.New(redactor{slog.NewJSONHandler(logs, nil)}).With("w", "x").WithGroup("g").Info("call",
		"s", "text", "n", 1, "list", []string{"a", "b"}, "err", errors.New("refused"), "nil", nil, "nobody", nobody,
		slog.Group("h", "p", pair{"a", "b"}))
	line := logs.lines(t)[0]
	delete(line, "time")
	want := `map[g:map[err:refused h:map[p:map[Name:a Value:b]] list:[a b] n:1 nil:<nil> nobody:<nil> s:text] level:INFO msg:call w:x]`
	if got := fmt.Sprint(line); got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
}

func TestAttributesAreRedacted(t *testing.T) {
	t.Parallel()
	in := []attribute.KeyValue{
		attribute.Int("n", 1),
		attribute.String("a", "x "+secretToken),
		attribute.StringSlice("l", []string{"a", jwt}),
		attribute.String("http.request.header.authorization", "tiny"),
	}
	got, changed := redactKeyValues(in)
	want := "[n=1 a=x [redacted] l=[\"a\",\"[redacted]\"] http.request.header.authorization=[redacted]]"
	var text []string
	for _, kv := range got {
		text = append(text, string(kv.Key)+"="+kv.Value.String())
	}
	if !changed || fmt.Sprint(text) != want {
		t.Errorf("\n got %v\nwant %v", text, want)
	}
	if in[1].Value.AsString() != "x "+secretToken {
		t.Error("the caller's attributes were changed")
	}
	if _, changed := redactKeyValues(in[:1]); changed {
		t.Error("harmless attributes reported as changed")
	}
}

func FuzzRedact(f *testing.F) {
	for _, s := range []string{secretToken, oldToken, jwt, secretKey, "Authorization: Bearer x\ny", "AWS_SECRET_ACCESS_KEY=x", "AKIAIOSFODNN7EXAMPLE", `x-aws-ec2-metadata-token":"a`} {
		f.Add(s)
		f.Add("a=" + s + "\n" + s)
	}
	left := regexp.MustCompile(`AQA[EA]A[\w-]{49}==|A[KS]IA[A-Z0-9]{16}|(?i:x-aws-ec2-metadata-token: [^ \t\r\n"'\\,;&}[=:])`)
	f.Fuzz(func(t *testing.T, s string) {
		once := Redact(s)
		if found := left.FindString(once); found != "" {
			t.Errorf("Redact(%q) leaves %q", s, found)
		}
		if twice := Redact(once); twice != once {
			t.Errorf("Redact(%q) = %q, and again %q", s, once, twice)
		}
	})
}

func BenchmarkRedactClean(b *testing.B) {
	s := "/usr/bin/python3 -m awscli --region us-east-1 s3 ls example-bucket --exclude Assets/*"
	b.ReportAllocs()
	b.SetBytes(int64(len(s)))
	for b.Loop() {
		Redact(s)
	}
}

func BenchmarkLogLine(b *testing.B) {
	w := newLineWriter(io.Discard, newDrops())
	defer w.Close(context.Background())
	log := slog.New(redactor{jsonHandler(w, slog.LevelInfo)})
	b.ReportAllocs()
	for b.Loop() {
		log.Info("v1 call", "route", "/latest/meta-data/iam/security-credentials/{role}", "exe", "/usr/bin/python3.11",
			"pid", 12345, "status", 200, "verdict", "upgrade", "unit", "legacy-app.service")
	}
}

func TestRedactDoesNotAllocate(t *testing.T) {
	s := strings.Repeat("/usr/bin/python3 eats Assets, FxIxSxXx ", 10)
	if n := testing.AllocsPerRun(100, func() { Redact(s) }); n != 0 {
		t.Errorf("%v allocations for a clean string", n)
	}
}

// A caller chooses its own arguments; they must not buy more time than their length.
func TestRedactIsLinear(t *testing.T) {
	t.Parallel()
	for _, part := range []string{"eyJ", "eyJ-", "AQAEA ", "AKIA", "session_token ", "authorization: ", "x-aws-ec2-metadata-token", " = ", "IQoJ"} {
		s := strings.Repeat(part, 1<<20/len(part))
		begin := time.Now()
		Redact(s)
		if took := time.Since(begin); took > 2*time.Second {
			t.Errorf("%v for 1 MiB of %q", took, part)
		}
	}
}
