package config

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"
)

func TestBadFiles(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		content string
		want    []string // the problems, less the file's name
	}{
		"unknown key":         {"log:\n  level: info\nmodee: x\n", []string{`line 3: unknown key "modee"; did you mean "mode"?`}},
		"unknown nested key":  {"redirect:\n  lisen: x\n", []string{`line 2: unknown key "redirect.lisen"; did you mean "redirect.listen"?`}},
		"unknown section":     {"\nlimit:\n  callers: 1\n", []string{`line 2: unknown key "limit"; did you mean "limits"?`}},
		"unlike anything":     {"zzzzzzzz: 1\n", []string{`line 1: unknown key "zzzzzzzz"`}},
		"duplicate":           {"mode: observe\nlog:\n  level: info\nmode: upgrade\n", []string{`line 4: key "mode" stands on line 1 already`}},
		"duplicate in dots":   {"log:\n  level: info\nlog.level: warn\n", []string{`line 3: key "log.level" stands on line 2 already`}},
		"duplicate unknown":   {"a: 1\na: 2\n", []string{`line 1: unknown key "a"`, `line 2: key "a" stands on line 1 already`}},
		"number":              {"limits:\n  callers: many\n", []string{`line 2: limits.callers "many" must be a whole number`}},
		"float":               {"limits.callers: 1.5\n", []string{`line 1: limits.callers "1.5" must be a whole number`}},
		"duration, no unit":   {"redirect:\n  heartbeat: 5\n", []string{`line 2: redirect.heartbeat "5" must be a duration with a unit, like 900ms or 5s`}},
		"address":             {"redirect:\n  listen: localhost:80\n", []string{`line 2: redirect.listen "localhost:80" must be an address and a port`}},
		"mark":                {"redirect:\n  mark: 0x123456789\n", []string{`line 2: redirect.mark "0x123456789" must be a number of 32 bits`}},
		"enumeration":         {"mode: Upgrade\n", []string{`line 1: mode "Upgrade" must be observe, upgrade or enforce`}},
		"boolean":             {"mode: true\n", []string{`line 1: mode "true" must be observe`}},
		"level":               {"log.level: INFO+2\n", []string{`line 1: log.level "INFO+2" must be debug, info, warn or error`}},
		"out of range":        {"\nredirect:\n  heartbeat: 10m\n", []string{`line 3: redirect.heartbeat "10m" must be from 100ms to 1m`}},
		"nothing":             {"mode:\n", []string{`line 1: mode takes one value (for none, write "")`}},
		"list":                {"mode: [a]\n", []string{"line 1: mode takes one value"}},
		"mapping for a value": {"mode:\n  a: b\n", []string{"line 1: mode takes one value"}},
		"value for a section": {"log: info\n", []string{"line 1: must be a list of keys with values"}},
		"a list at the top":   {"- mode\n", []string{"line 1: must be a list of keys with values"}},
		"a word at the top":   {"mode\n", []string{"line 1: must be a list of keys with values"}},
		"two documents":       {"mode: observe\n---\nmode: upgrade\n", []string{"begins a second document"}},
		"and an empty one":    {"mode: observe\n---\n# nothing\n---\nmode: upgrade\n", []string{"begins a second document"}},
		"alias":               {"mode: &m observe\ncontainers:\n  v1: *m\n", []string{"line 1: mode takes one value", "line 3: containers.v1 takes one value"}},
		"merge":               {"<<: {mode: observe}\n", []string{`line 1: unknown key "<<"`}},
		"no YAML":             {"mode: upgrade\nlog: {\n", []string{"line 2: "}},
		"tab":                 {"log:\n\tlevel: info\n", []string{"line 2: "}},
		"several": {"modee: x\nlimits:\n  callers: x\n  connections: 0\nadmin.listen: 0.0.0.0:1\n", []string{
			`line 1: unknown key "modee"`, `line 3: limits.callers "x"`, `line 4: limits.connections "0" must be from 1 to 1048576`, `line 5: admin.listen "0.0.0.0:1" must be`,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := write(t, test.content)
			_, err := Load(nil, flags(t, "--config="+file))
			checkProblems(t, err, file+" ", test.want)
		})
	}
}

// checkProblems compares the lines of err with the beginnings that are wanted.
func checkProblems(t *testing.T, err error, prefix string, want []string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	got := strings.Split(err.Error(), "\n")
	if len(got) != len(want) {
		t.Errorf("%d problems, want %d:\n%v", len(got), len(want), err)
		return
	}
	for i, line := range got {
		if !strings.HasPrefix(line, prefix) || !strings.Contains(line, want[i]) {
			t.Errorf("problem %q, want %q", line, prefix+want[i])
		}
	}
}

func TestGoodFiles(t *testing.T) {
	t.Parallel()
	for name, content := range map[string]string{
		"empty":             "",
		"comments":          "# nothing\n",
		"empty section":     "redirect:\n  # listen: x\n",
		"quotes":            "mode: \"observe\"\nlimits: {'callers': '5'}\n",
		"document mark":     "---\nmode: observe\n...\n",
		"an empty document": "---\n# nothing\n---\nmode: observe\n",
		"dots":              "limits.callers: 5\nlimits:\n  connections: 5\n",
		"carriage returns":  "mode: observe\r\nlog:\r\n  level: warn\r\n",
		"decimal mark":      "redirect.mark: 8297\n",
		"byte order mark":   "\ufeffmode: observe\n",
		"off":               "redirect.listen6: \"\"\nadmin.listen: ''\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := Load(nil, flags(t, "--config="+write(t, content))); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestFileNames(t *testing.T) {
	t.Parallel()
	missing := t.TempDir() + "/100%s.yaml"
	if _, err := load(missing, nil, nil); err != nil {
		t.Errorf("missing default file: %v", err)
	}
	if c, err := load(write(t, "mode: observe"), nil, flags(t)); err != nil || c.Mode != "observe" {
		t.Errorf("default file: mode %q, %v", c.Mode, err)
	}
	if _, err := load(t.TempDir(), nil, nil); err == nil {
		t.Error("a default file that cannot be read is taken for a missing one")
	}
	_, err := Load([]string{"IMDS_BRIDGE_CONFIG=" + missing}, nil)
	checkProblems(t, err, "IMDS_BRIDGE_CONFIG: open ", []string{missing + ": no such file or directory"})
	_, err = Load(nil, flags(t, "--config="+missing))
	checkProblems(t, err, "--config: open ", []string{missing + ": no such file or directory"})
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v is not fs.ErrNotExist", err)
	}
	odd := t.TempDir() + "/100%s.yaml"
	if err := os.WriteFile(odd, []byte("a: 1"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = load(odd, nil, nil)
	checkProblems(t, err, odd+" line 1: ", []string{"unknown key"})
}

func TestBadEnvironment(t *testing.T) {
	t.Parallel()
	_, err := Load([]string{"IMDS_BRIDGE_MOD=observe", "IMDS_BRIDGE_LOG_LEVEL=loud", "IMDS_BRIDGE_ADMIN_LISTEN=:80", "IMDS_BRIDGE_MODE=", "IMDS_BRIDGE_CONFI=x"},
		flags(t, "--limits.callers=x", "--redirect.listen=169.254.169.254:81"))
	checkProblems(t, err, "", []string{
		"IMDS_BRIDGE_MOD: unknown variable; did you mean \"IMDS_BRIDGE_MODE\"?",
		`IMDS_BRIDGE_LOG_LEVEL: log.level "loud" must be debug, info, warn or error`,
		`IMDS_BRIDGE_MODE: mode "" must be`,
		`IMDS_BRIDGE_CONFI: unknown variable; did you mean "IMDS_BRIDGE_CONFIG"?`,
		`--limits.callers: limits.callers "x" must be a whole number`,
		`--redirect.listen: redirect.listen "169.254.169.254:81" must be a port on`,
		`IMDS_BRIDGE_ADMIN_LISTEN: admin.listen ":80" must be`,
	})
}

// A Service named imds-bridge puts these into each pod of its namespace, ours among them.
func TestServiceLinksArePassedOver(t *testing.T) {
	t.Parallel()
	if _, err := Load(strings.Fields(`
		IMDS_BRIDGE_SERVICE_HOST=10.0.0.1 IMDS_BRIDGE_SERVICE_PORT=80 IMDS_BRIDGE_SERVICE_PORT_METRICS=80
		IMDS_BRIDGE_PORT=tcp://10.0.0.1:80 IMDS_BRIDGE_PORT_80_TCP=tcp://10.0.0.1:80 IMDS_BRIDGE_PORT_80_TCP_PROTO=tcp
		IMDS_BRIDGE_PORT_80_TCP_PORT=80 IMDS_BRIDGE_PORT_80_TCP_ADDR=10.0.0.1
		IMDS_BRIDGE_METRICS_SERVICE_HOST=10.0.0.1 IMDS_BRIDGE_METRICS_PORT_80_TCP=x`), nil); err != nil {
		t.Error(err)
	}
	if _, err := Load([]string{"IMDS_BRIDGE_REPORT=1"}, nil); err == nil {
		t.Error("IMDS_BRIDGE_REPORT passes for a service link")
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	for path, values := range map[string]struct{ good, bad string }{
		"redirect.cgroup": {"/sys/fs/cgroup /x", "x ./x"},
		"redirect.listen": {"127.0.0.1:8254 127.9.9.9:1 169.254.20.254:65535 169.254.169.252:1",
			"0.0.0.0:1 10.0.0.1:1 169.254.169.254:80 169.254.169.254:8254 169.254.169.253:1 169.254.169.123:1 169.254.170.2:1 169.254.170.23:1 127.0.0.1:0 [::1]:1 [::ffff:127.0.0.1]:1"},
		"redirect.listen6": {"[::1]:8254 [fd69::1]:1",
			"[::]:1 [fd00:ec2::254]:80 [fd00:ec2::23]:1 [fd00:ec2:0:1::]:1 [fc00::1]:1 [fe80::1]:1 [fe80::1%lo]:1 [fd69::1%lo]:1 [2001:db8::1]:1 [::1]:0 127.0.0.1:1 [::ffff:127.0.0.1]:1"},
		"redirector":           {"auto ebpf iptables none", "bpf"},
		"fail":                 {"open closed", "shut"},
		"redirect.mark":        {"1 0xffff", "0 0x0 0x10000"},
		"redirect.heartbeat":   {"100ms 1m", "99ms 61s 0s -1s"},
		"redirect.connections": {"1 1048576", "0 -1 1048577"},
		"upstream.ipv4":        {"127.0.0.1:8080 10.0.0.1:80", "0.0.0.0:80 127.0.0.1:0 [::1]:80 169.254.20.254:8254"},
		"upstream.ipv6":        {"[::1]:80", "[::]:80 127.0.0.1:80 [::1]:0 [fd69:6d64:7362::254]:8254 [::ffff:127.0.0.1]:80"},
		"upstream.timeout":     {"1ms 900ms 1h", "0s -1s 2h"},
		"limits.header_bytes":  {"1024", "0 1023 -1"},
		"limits.body_bytes":    {"1", "0"},
		"limits.connections":   {"1", "0"},
		"limits.callers":       {"1", "0"},
		"limits.read_timeout":  {"1s", "0s"},
		"limits.write_timeout": {"1s", "0s"},
		"limits.idle_timeout":  {"1s", "0s"},
		"admin.listen": {"127.0.0.1:1 [::1]:1 localhost:8255 unix:/run/a.sock",
			"0.0.0.0:1 :8255 10.0.0.1:1 127.0.0.1:0 127.0.0.1 127.0.0.1:http 127.0.0.1:65536 unix:a.sock unix: example.com:1 [::]:1"},
		"limits.connections_per_caller": {"1", "0"},
	} {
		check := func(value string, good bool) {
			_, err := Load(nil, flags(t, "--"+path+"="+value))
			if good && err != nil {
				t.Errorf("%s %s: %v", path, value, err)
			}
			if !good && (err == nil || !strings.Contains(err.Error(), path+` "`)) {
				t.Errorf("%s %s: error %v", path, value, err)
			}
		}
		for _, value := range strings.Fields(values.good) {
			check(value, true)
		}
		for _, value := range strings.Fields(values.bad) {
			check(value, false)
		}
	}
}

func TestValidateWithoutSource(t *testing.T) {
	t.Parallel()
	c := Default()
	c.Mode, c.Log.Level, c.Limits.Callers = "x", 3, 0
	checkProblems(t, c.Validate(), "", []string{
		`mode "x" must be observe, upgrade or enforce`, `log.level "info+3" must be debug`, `limits.callers "0" must be from 1 to 1048576`,
	})
}

func TestDidYouMean(t *testing.T) {
	t.Parallel()
	known := map[string]int{"mode": 0, "redirect.listen": 0, "redirect.listen6": 0}
	for name, want := range map[string]string{
		"modee": "mode", "mod": "mode", "Mode": "mode", "redirect.listen7": "redirect.listen", "": "", "x": "", "verbose": "",
	} {
		got := didYouMean(name, known)
		if (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("didYouMean(%q) = %q, want %q", name, got, want)
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte("mode: observe\nlog: {level: warn}\n---\n"))
	f.Add([]byte("redirect:\n  listen: \"127.0.0.1:1\"\n  mark: 0x1\n? a\n: b\n<<: *x\n"))
	f.Add([]byte("a: &a [*a, |\n x\n, >-\n y]\n!!map {a: b}: {c}\n%YAML 1.2\n"))
	f.Add(Default().YAML())
	file := f.TempDir() + "/config.yaml"
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := load(file, nil, nil)
		if err != nil {
			return
		}
		// What was accepted is valid, and stays the same through its printed form.
		if err := c.Validate(); err != nil {
			t.Errorf("accepted, yet %v", err)
		}
		if err := os.WriteFile(file, c.YAML(), 0o600); err != nil {
			t.Fatal(err)
		}
		again, err := load(file, nil, nil)
		c.from, again.from = nil, nil
		if err != nil || string(again.YAML()) != string(c.YAML()) {
			t.Errorf("read again (%v):\n%s\nwas\n%s", err, again.YAML(), c.YAML())
		}
	})
}
