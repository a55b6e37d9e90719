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
	// has no such number in its paths, the container's name. An id of another form is not told from
	// any other name and left out, also below a pod.
	ContainerID string
	// Runtime is docker, containerd, cri-o, podman or lxc; "" where the path does not tell.
	Runtime string
	// Place is what else the path tells.
	Place Place
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
func ParseCgroup(text string) Cgroup { return parsePath(choosePath(text)) }

// choosePath returns the path of the line that tells most.
func choosePath(text string) string {
	best, bestRank := "", -1
	for line := range strings.Lines(text) {
		// hierarchy:controllers:path; the path may hold further colons
		hierarchy, rest, _ := strings.Cut(strings.TrimRight(line, "\n"), ":")
		controllers, path, ok := strings.Cut(rest, ":")
		if !ok || !strings.HasPrefix(path, "/") {
			continue
		}
		path = strings.TrimSuffix(path, " (deleted)")
		if rank := rankOf(hierarchy, controllers, path); rank > bestRank {
			best, bestRank = path, rank
		}
	}
	return best
}

// rankOf orders the lines of one process. A container beats all, since a hybrid host may keep it in
// v1 alone and leave "0::/" in v2; any place beats the root.
func rankOf(hierarchy, controllers, path string) int {
	rank := 0
	if hierarchy == "0" && controllers == "" {
		rank = 5
	} else {
		preferred := []string{"devices", "pids", "memory", "name=systemd"}
		for controller := range strings.SplitSeq(controllers, ",") {
			rank = max(rank, 1+slices.Index(preferred, controller))
		}
	}
	if strings.Trim(path, "/.") == "" { // a private cgroup namespace shows what is above as /..
		return rank
	}
	rank += 10
	if _, found := container(strings.Split(path, "/")); found.id != "" {
		rank += 20
	}
	return rank
}

func parsePath(path string) Cgroup {
	segments := strings.Split(path, "/")
	at, found := container(segments)
	return Cgroup{
		Path:        printable(path, maxCgroup),
		ContainerID: printable(found.id, maxContainerID),
		Runtime:     found.runtime,
		Place:       placeOf(segments, at),
	}
}

// cgroupOwner is what a segment of a path says that the cgroup is of.
type cgroupOwner struct {
	id, runtime string
	monitor     bool // of the process that watches over a container, outside of it
}

// container finds the innermost container of a cgroup path, and the segment that names it; -1 if
// there is none. Below it may be the container's own cgroups, "container" of crun or a whole systemd.
func container(segments []string) (at int, found cgroupOwner) {
	for i, segment := range slices.Backward(segments) {
		if owner := ownerOf(segments[:i], segment); owner.id != "" {
			return i, owner
		}
	}
	return -1, cgroupOwner{}
}

func ownerOf(above []string, segment string) cgroupOwner {
	if name := lxcName(above, segment); name != "" {
		return cgroupOwner{id: name, runtime: "lxc"}
	}
	// <runtime>-<id>.scope, and <slice>:<runtime>:<id> where a runtime that knows no systemd was
	// given a path for it.
	name := strings.TrimSuffix(segment, ".scope")
	at := strings.LastIndexAny(name, "-:")
	id := name[at+1:]
	if !isContainerID(id) {
		return cgroupOwner{}
	}
	if at < 0 {
		return cgroupOwner{id: id, runtime: runtimeAbove(above)}
	}
	kind := name[:at]
	kind = kind[strings.LastIndexByte(kind, ':')+1:]
	if strings.HasSuffix(kind, "conmon") {
		return cgroupOwner{monitor: true}
	}
	return cgroupOwner{id: id, runtime: runtimes[kind]}
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
func lxcName(above []string, segment string) string {
	if name, ok := strings.CutPrefix(segment, "lxc.payload."); ok {
		return name
	}
	if n := len(above); n > 0 && (above[n-1] == "lxc" || above[n-1] == "lxc.payload") {
		return segment
	}
	return ""
}

func isContainerID(s string) bool { return len(s) == 64 && isHex(s) }

func isHex(s string) bool {
	for i := range len(s) {
		if (s[i] < '0' || s[i] > '9') && (s[i] < 'a' || s[i] > 'f') {
			return false
		}
	}
	return true
}
