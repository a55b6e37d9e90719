package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/imds-bridge/imds-bridge/redirect"
)

// mount is a mounted hierarchy of cgroups.
type mount struct {
	point string
	v2    bool
}

// parseMounts reads the mounts of cgroups from a file /proc/<pid>/mountinfo.
func parseMounts(text string) (list []mount) {
	for line := range strings.Lines(text) {
		before, after, found := strings.Cut(line, " - ")
		fields, kind := strings.Fields(before), strings.Fields(after)
		if !found || len(fields) < 5 || len(kind) == 0 {
			continue
		}
		if kind[0] == "cgroup" || kind[0] == "cgroup2" {
			// Spaces and the like are written in octal.
			point := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\134`, `\`).Replace(fields[4])
			list = append(list, mount{point, kind[0] == "cgroup2"})
		}
	}
	return list
}

// layout names how a host's cgroups are set up.
func layout(mounts []mount) string {
	v1, v2 := false, false
	for _, m := range mounts {
		v1, v2 = v1 || !m.v2, v2 || m.v2
	}
	switch {
	case v1 && v2:
		return "hybrid"
	case v2:
		return "v2"
	case v1:
		return "v1"
	default:
		return "none mounted"
	}
}

func checkCgroup(_ context.Context, h *host) []Finding {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return []Finding{{Status: Unknown, Found: "mounts cannot be read: " + err.Error()}}
	}
	mounts := parseMounts(string(text))
	cgroup, err := h.cgroup()
	return judgeCgroup(layout(mounts), cgroup.Path, err, !isPart(cgroup.Path))
}

// isPart tells whether a directory is a cgroup below the root of the host's hierarchy: in version 2 all of those
// have a type, and in version 1 the root alone has an agent (cgroups(7)).
func isPart(path string) bool {
	has := func(name string) bool {
		_, err := os.Stat(filepath.Join(path, name))
		return err == nil
	}
	return path != "" && (has("cgroup.type") || has("notify_on_release") && !has("release_agent"))
}

func judgeCgroup(layout, path string, err error, root bool) []Finding {
	switch {
	case errors.Is(err, redirect.ErrNotCgroup2):
		return []Finding{{
			Status: Fail, Concerns: EBPF, Found: err.Error(),
			Means: "programs attach to a cgroup2 directory alone", Remedy: "set redirect.cgroup to one, or to \"\" to have it found",
		}}
	case err != nil:
		return []Finding{{
			Status: Fail, Concerns: EBPF, Found: fmt.Sprintf("cgroups %s; %s", layout, err),
			Means:  "there is nothing to attach the hook to that all processes are in",
			Remedy: "in a container: mount the host's /sys/fs/cgroup, or use the host's cgroup namespace (docker --cgroupns=host); else give CAP_SYS_ADMIN",
		}}
	case strings.HasPrefix(path, "/proc/self/fd/"):
		return []Finding{{
			Status: OK, Found: fmt.Sprintf("cgroups %s; no cgroup2 is mounted, and the bridge mounts one for itself alone", layout),
			Means: "all processes share one v2 cgroup; containers are told by their v1 cgroups",
		}}
	case !root:
		return []Finding{{
			Status: OK, Concerns: EBPF, Found: fmt.Sprintf("cgroups %s; %s is not the root", layout, path),
			Means: "as redirect.cgroup asks for, processes outside of it are not redirected",
		}}
	default:
		return []Finding{{Status: OK, Found: fmt.Sprintf("cgroups %s; the host's cgroup2 root is at %s", layout, path)}}
	}
}
