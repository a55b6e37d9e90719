package caller

import (
	"slices"
	"strings"
)

const (
	maxCgroup      = 1024
	maxContainerID = 64
)

// Cgroup is where a process is in the cgroup hierarchies.
type Cgroup struct {
	// Path is that of the line the container was found in, else of the first hierarchy of v2,
	// name=systemd, memory, pids and devices where the process is not at the root.
	Path string
	// ContainerID is "" outside containers, the 64 hex digits that runtimes use, or for LXC, which
	// has no such number in its paths, the container's name.
	ContainerID string
	// Runtime is docker, containerd, cri-o, podman or lxc; "" where the path does not tell.
	Runtime string
}

// runtimes by what they put before the id.
var runtimes = map[string]string{
	"docker":         "docker",
	"cri-containerd": "containerd",
	"nerdctl":        "containerd",
	"containerd":     "containerd",
	"crio":           "cri-o",
	"libpod":         "podman",
	"libpod-payload": "podman",
}

// parents name the runtime of an id that stands alone: containerd's are its well-known namespaces.
var parents = map[string]string{
	"docker":     "docker",
	"containerd": "containerd",
	"default":    "containerd",
	"k8s.io":     "containerd",
}

// ParseCgroup reads the text of /proc/<pid>/cgroup, of either version or both side by side. Nested
// containers are named by the innermost.
func ParseCgroup(text string) Cgroup {
	var best Cgroup
	bestRank := -1
	for line := range strings.Lines(text) {
		// hierarchy:controllers:path; the path may hold further colons
		fields := strings.SplitN(strings.TrimRight(line, "\n"), ":", 3)
		if len(fields) != 3 || !strings.HasPrefix(fields[2], "/") {
			continue
		}
		path := strings.TrimSuffix(fields[2], " (deleted)")
		id, runtime := container(path)
		if rank := rankOf(fields[0], fields[1], path, id); rank > bestRank {
			best, bestRank = Cgroup{path, id, runtime}, rank
		}
	}
	best.Path = strings.Clone(printable(best.Path, maxCgroup)) // text goes
	best.ContainerID = strings.Clone(printable(best.ContainerID, maxContainerID))
	return best
}

// rankOf orders the lines of one process. A container beats all, since a hybrid host may keep it in
// v1 alone and leave "0::/" in v2; any place beats the root.
func rankOf(hierarchy, controllers, path, id string) int {
	rank := 0
	if hierarchy == "0" && controllers == "" {
		rank = 5
	} else {
		preferred := []string{"devices", "pids", "memory", "name=systemd"}
		for controller := range strings.SplitSeq(controllers, ",") {
			rank = max(rank, 1+slices.Index(preferred, controller))
		}
	}
	if strings.Trim(path, "/.") != "" { // a private cgroup namespace shows what is above as /..
		rank += 10
	}
	if id != "" {
		rank += 20
	}
	return rank
}

// container finds the innermost container of a cgroup path. Below it may be the container's own
// cgroups, "container" of crun or a whole systemd.
func container(path string) (id, runtime string) {
	segments := strings.Split(path, "/")
	for i, segment := range slices.Backward(segments) {
		if id, runtime := segmentContainer(segments[:i], segment); id != "" {
			return id, runtime
		}
	}
	return "", ""
}

func segmentContainer(above []string, segment string) (id, runtime string) {
	if name, ok := lxcName(above, segment); ok {
		return name, "lxc"
	}
	// <runtime>-<id>.scope, and <slice>:<runtime>:<id> where a runtime that knows no systemd was
	// given a path for it.
	name := strings.TrimSuffix(segment, ".scope")
	at := strings.LastIndexAny(name, "-:")
	id = name[at+1:]
	if !isContainerID(id) {
		return "", ""
	}
	if at < 0 {
		return id, runtimeAbove(above)
	}
	kind := name[:at]
	if slice := strings.LastIndexByte(kind, ':'); slice >= 0 {
		kind = kind[slice+1:]
	}
	if strings.HasSuffix(kind, "conmon") {
		return "", "" // the monitor of that container, outside of it
	}
	return id, runtimes[kind]
}

// runtimeAbove tells the runtime of an id that stands alone from the path above it. ECS runs Docker
// in /ecs/<task>/<id>; under a pod of Kubernetes it could be any.
func runtimeAbove(above []string) string {
	n := len(above)
	if n >= 2 && above[n-2] == "ecs" {
		return "docker"
	}
	if n >= 1 {
		return parents[above[n-1]]
	}
	return ""
}

// lxcName knows lxc/<name>, lxc.payload/<name> and lxc.payload.<name>. lxc.monitor is outside.
func lxcName(above []string, segment string) (string, bool) {
	if name, ok := strings.CutPrefix(segment, "lxc.payload."); ok {
		return name, name != ""
	}
	if len(above) == 0 || segment == "" {
		return "", false
	}
	parent := above[len(above)-1]
	return segment, parent == "lxc" || parent == "lxc.payload"
}

func isContainerID(s string) bool {
	if len(s) != 64 {
		return false
	}
	for i := range len(s) {
		if (s[i] < '0' || s[i] > '9') && (s[i] < 'a' || s[i] > 'f') {
			return false
		}
	}
	return true
}
