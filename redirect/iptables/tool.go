package iptables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	goiptables "github.com/coreos/go-iptables/iptables"
)

var (
	// ErrMissing is returned where no program of iptables is installed for the tables in use.
	ErrMissing = errors.New("iptables is missing")
	// ErrBackend is returned where the backend that was asked for is not the one in use.
	ErrBackend = errors.New("wrong backend of iptables")
)

// tool is a program of iptables, for one family and backend.
type tool struct {
	*goiptables.IPTables
	path    string
	backend string
	names   string // file in /proc that lists the legacy tables of the family
	wait    int    // seconds
}

// execPatience bounds a call of a program beyond its wait for the lock.
const execPatience = 10 * time.Second

// newTool runs the program once, for its version.
func newTool(path string, proto goiptables.Protocol, t Tools) (*tool, error) {
	out, err := run(path, 0, "--version")
	if err != nil {
		return nil, err
	}
	wait := t.LockTimeout
	if wait == 0 {
		wait = defaultLockTimeout
	}
	tl := &tool{path: path, backend: backendOf(out), names: "ip_tables_names", wait: max(int(wait.Seconds()), 1)}
	if proto == goiptables.ProtocolIPv6 {
		tl.names = "ip6_tables_names"
	}
	// Without a time-out go-iptables waits for the lock for ever.
	tl.IPTables, err = goiptables.New(goiptables.IPFamily(proto), goiptables.Path(path), goiptables.Timeout(tl.wait))
	if err != nil {
		return nil, fmt.Errorf("use %s: %w", path, err)
	}
	return tl, nil
}

var versionPattern = regexp.MustCompile(`v[0-9][0-9.]*(?: \((\w+)\))?`)

// backendOf reads what --version says: iptables v1.8.9 (nf_tables). Before 1.8 there was one backend.
func backendOf(version string) string {
	if m := versionPattern.FindStringSubmatch(version); m != nil && m[1] == "nf_tables" {
		return NFT
	}
	return Legacy
}

func run(path string, wait int, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), execPatience+time.Duration(wait)*time.Second)
	defer cancel()
	if wait > 0 {
		args = append(args, "--wait", strconv.Itoa(wait))
	}
	cmd := exec.CommandContext(ctx, path, args...)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", path, strings.Join(args, " "), err, strings.TrimSpace(complaint.String()))
	}
	return out.String(), nil
}

// dump lists the rules of a table, as iptables -S has them.
func (t *tool) dump(table string) ([]string, error) {
	out, err := run(t.path, t.wait, "-t", table, "-S")
	if err != nil {
		return nil, explain(err)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	return slices.DeleteFunc(lines, func(line string) bool { return !strings.HasPrefix(line, "-") }), nil
}

// explain adds to an error of iptables what to do about it. Its exit status 4 is for all of these.
func explain(err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	switch {
	case strings.Contains(text, "xtables lock"):
		return fmt.Errorf("another program holds the lock of the tables: %w", err)
	case strings.Contains(text, "Permission denied"), strings.Contains(text, "Operation not permitted"), strings.Contains(text, "open socket to ipset"):
		return fmt.Errorf("change rules of iptables (needs %s; the lock file of legacy tables is root's): %w", strings.Join(Capabilities, " "), err)
	}
	return err
}

// program is one of the names under which iptables is installed.
type program struct {
	name    string
	backend string // what the name says; "" is for what the host has chosen
}

// programs of a family, the host's choice first.
func programs(family string) []program {
	return []program{{family, ""}, {family + "-nft", NFT}, {family + "-legacy", Legacy}}
}

// installed are the tools of a family that this host has, by backend.
func installed(family string, proto goiptables.Protocol, t Tools) (tools []*tool, err error) {
	for _, p := range programs(family) {
		path, err := exec.LookPath(p.name)
		if err != nil {
			continue
		}
		tl, err := newTool(path, proto, t)
		if err != nil {
			return nil, err
		}
		known := slices.ContainsFunc(tools, func(other *tool) bool { return other.backend == tl.backend })
		if !known {
			tools = append(tools, tl)
		}
	}
	return tools, nil
}

// choose takes the tool for IPv4: that of the backend which is asked for, or in use.
func choose(t Tools) (*tool, error) {
	tools, err := installed("iptables", goiptables.ProtocolIPv4, t)
	if err != nil {
		return nil, err
	}
	if len(tools) == 0 {
		return nil, fmt.Errorf("%w: there is no iptables, iptables-nft or iptables-legacy in the PATH (install the package iptables)", ErrMissing)
	}
	used := make(map[string]int, len(tools))
	for _, tl := range tools {
		if used[tl.backend], err = tl.foreignRules(); err != nil {
			return nil, err
		}
	}
	if t.Backend == "" {
		// The host's choice, unless another one alone has rules.
		for _, tl := range tools[1:] {
			if used[tl.backend] > 0 && used[tools[0].backend] == 0 {
				return tl, nil
			}
		}
		return tools[0], nil
	}
	for _, tl := range tools {
		if tl.backend != t.Backend {
			continue
		}
		for other, n := range used {
			if other != t.Backend && n > 0 && used[t.Backend] == 0 {
				return nil, fmt.Errorf("%w: %s is asked for, and this host has its rules in %s (%d of them): leave the choice to the bridge", ErrBackend, t.Backend, other, n)
			}
		}
		return tl, nil
	}
	return nil, fmt.Errorf("%w: iptables-%s is asked for and not installed (there is %s)", ErrMissing, t.Backend, tools[0].path)
}

// foreignRules counts the rules that are not ours.
func (t *tool) foreignRules() (n int, err error) {
	for _, table := range []string{"nat", "filter"} {
		if !t.hasTable(table) {
			continue
		}
		lines, err := t.dump(table)
		if err != nil {
			return 0, err
		}
		for _, line := range lines {
			if r := parseRule(line); r.chain != "" && !r.ours() {
				n++
			}
		}
	}
	return n, nil
}

// hasTable is false for a legacy table that the kernel has not made in this network namespace. To list it
// would make it.
func (t *tool) hasTable(table string) bool {
	if t.backend != Legacy {
		return true
	}
	names, err := os.ReadFile("/proc/thread-self/net/" + t.names)
	if errors.Is(err, os.ErrPermission) { // it is root's, as is the lock: without that, we have made none
		_, err := t.dump(table)
		return err == nil
	}
	return slices.Contains(strings.Fields(string(names)), table)
}

// Check says which program and backend [Attach] and [Install] would use. It changes nothing.
func Check(t Tools) (Report, error) {
	tl, err := choose(t)
	if err != nil {
		return Report{}, err
	}
	return Report{Backend: tl.backend, Program: tl.path}, nil
}
