package config

import (
	"bytes"
	"flag"
	"log/slog"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

var update = flag.Bool("update", false, "write docs/config.md anew")

func TestReference(t *testing.T) {
	const file = "../docs/config.md"
	if *update {
		if err := os.WriteFile(file, Reference(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, Reference()) {
		t.Errorf("%s is stale: run go generate ./config", file)
	}
}

// The keys and defaults are promised to users; this is their list, once more and by hand.
func TestDefaults(t *testing.T) {
	t.Parallel()
	want := `redirector=auto
fail=open
mode=upgrade
containers.v1=pass
containers.tokens=hop-limit
redirect.cgroup=
redirect.listen=169.254.20.254:8254
redirect.listen6=[fd69:6d64:7362::254]:8254
redirect.containers=true
redirect.mark=0x2069
redirect.heartbeat=500ms
redirect.connections=16384
redirect.close_connections=false
redirect.install=true
upstream.ipv4=169.254.169.254:80
upstream.ipv6=[fd00:ec2::254]:80
upstream.timeout=900ms
limits.connections=1024
limits.connections_per_caller=128
limits.header_bytes=16384
limits.body_bytes=16384
limits.read_timeout=5s
limits.write_timeout=5s
limits.idle_timeout=30s
limits.callers=16384
attribution.docker=auto
attribution.cri=auto
attribution.kubernetes=auto
attribution.node=
attribution.ecs=auto
attribution.owner=` + DefaultOwner + `
attribution.owner_file=
admin.listen=127.0.0.1:8255
log.level=info
`
	c := Default()
	list, sections := settings(&c)
	var got strings.Builder
	for _, s := range list {
		got.WriteString(s.path + "=" + s.String() + "\n")
		if s.doc == "" {
			t.Errorf("%s has no meaning", s.path)
		}
		if err := s.set(s.String()); err != nil {
			t.Errorf("%s does not read its own default: %v", s.path, err)
		}
	}
	for _, s := range sections {
		if s.doc == "" {
			t.Errorf("%s has no meaning", s.path)
		}
	}
	if got.String() != want {
		t.Errorf("got\n%s\nwant\n%s", got.String(), want)
	}
	if err := Default().Validate(); err != nil {
		t.Errorf("the defaults are not valid: %v", err)
	}
}

func TestPrecedence(t *testing.T) {
	t.Parallel()
	file := write(t, "log:\n  level: warn\nlimits:\n  callers: 1\n  connections: 2\n  header_bytes: 2048\n")
	environ := []string{
		"IMDS_BRIDGE_LIMITS_CALLERS=10", "IMDS_BRIDGE_LIMITS_CONNECTIONS=20", "IMDS_BRIDGE_REDIRECT_LISTEN6=",
		"IMDS_BRIDGE_CONFIG=" + file, "PATH=/bin",
	}
	c, err := Load(environ, flags(t, "--limits.callers=100", "--redirect.mark", "7"))
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Limits.Callers, want.Limits.Connections, want.Limits.HeaderBytes = 100, 20, 2048
	want.Log.Level, want.Redirect.Mark, want.Redirect.Listen6 = slog.LevelWarn, 7, netip.AddrPort{}
	want.from = map[string]string{
		"limits.callers":      "--limits.callers",
		"limits.connections":  "IMDS_BRIDGE_LIMITS_CONNECTIONS",
		"limits.header_bytes": file + " line 6",
		"log.level":           file + " line 2",
		"redirect.listen6":    "IMDS_BRIDGE_REDIRECT_LISTEN6",
		"redirect.mark":       "--redirect.mark",
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got\n%s\nwant\n%s", c.YAML(), want.YAML())
	}
}

func TestEverySettingByEverySource(t *testing.T) {
	t.Parallel()
	want := Config{
		Redirector: "iptables", Fail: "closed",
		Mode:       "enforce",
		Containers: Containers{V1: "deny", Tokens: "forward"},
		Redirect: Redirect{
			Cgroup: "/sys/fs/cgroup/a b", Listen: netip.MustParseAddrPort("127.0.0.1:1"), Listen6: netip.MustParseAddrPort("[::1]:2"),
			Mark: 0xffff, CloseConnections: true, Heartbeat: 1500 * time.Millisecond, Connections: 3,
		},
		Upstream: Upstream{IPv4: netip.MustParseAddrPort("10.0.0.1:4"), IPv6: netip.MustParseAddrPort("[2001:db8::1]:5"), Timeout: time.Minute},
		Limits: Limits{
			Connections: 6, ConnectionsPerCaller: 7, HeaderBytes: 8000, BodyBytes: 9,
			ReadTimeout: time.Second, WriteTimeout: 2 * time.Second, IdleTimeout: time.Hour, Callers: 10,
		},
		Attribution: Attribution{
			Docker: "/run/a.sock /run/b.sock", CRI: "/run/c.sock", Kubernetes: "on", Node: "node-1", ECS: "off",
			Owner: "pod.label:team unit", OwnerFile: "/etc/owners.csv",
		},
		Admin: Admin{Listen: "unix:/run/imds bridge/\"admin\".sock"},
		Log:   Log{Level: slog.LevelError},
	}
	var environ, args []string
	list, _ := settings(&want)
	for _, s := range list {
		environ = append(environ, s.environment()+"="+s.String())
		args = append(args, "--"+s.path+"="+s.String())
	}
	file := write(t, string(want.YAML()))
	for name, load := range map[string]func() (Config, error){
		"file":        func() (Config, error) { return Load([]string{"IMDS_BRIDGE_CONFIG=" + file}, nil) },
		"file flag":   func() (Config, error) { return Load([]string{"IMDS_BRIDGE_CONFIG=/no"}, flags(t, "--config="+file)) },
		"environment": func() (Config, error) { return Load(environ, nil) },
		"flags":       func() (Config, error) { return Load(nil, flags(t, args...)) },
	} {
		got, err := load()
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if len(got.from) != len(list) {
			t.Errorf("%s: %d of %d settings are marked with their source", name, len(got.from), len(list))
		}
		got.from = nil
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got\n%s\nwant\n%s", name, got.YAML(), want.YAML())
		}
	}
}

func TestYAML(t *testing.T) {
	t.Parallel()
	c, err := Load([]string{"IMDS_BRIDGE_MODE=observe"}, flags(t, "--admin.listen="))
	if err != nil {
		t.Fatal(err)
	}
	text := string(c.YAML())
	for _, want := range []string{
		"\nmode: observe  # IMDS_BRIDGE_MODE\n",
		"(observe | upgrade | enforce)\n",
		"\nredirect:\n",
		"\n  listen: 169.254.20.254:8254  # default\n",
		"\n  listen6: \"[fd69:6d64:7362::254]:8254\"  # default\n",
		"\n  mark: 0x2069  # default\n",
		"\n  listen: \"\"  # --admin.listen\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

func TestHelp(t *testing.T) {
	t.Parallel()
	help := flags(t).FlagUsages()
	for _, want := range []string{"--redirect.heartbeat duration", "(default 500ms)", "--config file", "--redirect.listen address", "--limits.callers number", "One of observe, upgrade, enforce."} {
		if !strings.Contains(help, want) {
			t.Errorf("no %q in\n%s", want, help)
		}
	}
}

func write(t *testing.T, content string) (file string) {
	t.Helper()
	file = t.TempDir() + "/config.yaml"
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func flags(t *testing.T, args ...string) *pflag.FlagSet {
	t.Helper()
	fs := pflag.NewFlagSet("run", pflag.ContinueOnError)
	Bind(fs)
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	return fs
}
