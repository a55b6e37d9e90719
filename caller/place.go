package caller

import (
	"slices"
	"strings"
)

// maxUnit is as long as systemd lets the name of a unit be.
const maxUnit = 255

// Place is what a cgroup's path tells of where a process runs, besides its container. What it does
// not tell is "".
type Place struct {
	// PodUID is the uid of the Kubernetes pod that the process is in, with its dashes. That of a
	// static pod has 32 hex digits: the API server knows it as the annotation
	// kubernetes.io/config.hash of the pod's mirror.
	PodUID string
	// TaskID is the last part of the ARN of an ECS task. ECS gives tasks a cgroup only where it may
	// limit them; elsewhere the container's labels tell.
	TaskID string
	// LXC is the name of the innermost LXC container that the process is in.
	LXC string
	// Outer is the container that the innermost one runs in, named as [Cgroup.ContainerID] is: the
	// node of a kind cluster, Docker in Docker.
	Outer string

	// Unit is the innermost systemd service or scope. In a container it is that of the container's own
	// systemd, or the one that is the container's whole purpose (a Podman Quadlet); the unit of the
	// runtime, and the scopes that containers and login sessions are, do not count.
	Unit string
	// UserUnit says that Unit is of a user's own manager.
	UserUnit bool
	// Slice is the innermost slice that the unit, or else the container or the process, is in.
	Slice string
	// Session is the login session's id as loginctl shows it, LoginUID whose sessions and units
	// these are.
	Session, LoginUID string
	// Snap is the name of the snap whose app or hook the unit is.
	Snap string

	// Delegated says that the container's cgroup lies below a unit or another container. Whoever owns
	// that may make cgroups of any name there, so container and pod are only its word.
	Delegated bool
}

// placeOf reads the segments of a path, of which the one at at names the innermost container; -1
// if there is none.
func placeOf(segments []string, at int) Place {
	var p Place
	outside := segments[:max(at, 0)]
	_, outer := container(outside)
	p.Outer = outer.id
	p.Delegated = outer.id != "" || slices.ContainsFunc(outside, isUnit)

	upTo := segments[:at+1]
	if at < 0 && !slices.ContainsFunc(segments, isMonitor) {
		upTo = segments // in the cgroup of a pod or task, and in none of its containers that is known
		if i := slices.IndexFunc(segments, isUnit); i >= 0 {
			upTo = segments[:i]
		}
	}
	p.PodUID, p.TaskID = last(upTo, podUID), last(upTo, taskID)
	p.LXC = last(segments, lxcName)

	p.Session, p.LoginUID = last(segments, session), last(segments, loginUID)
	p.unit(segments, at)
	for _, s := range []*string{&p.LXC, &p.Outer, &p.Unit, &p.Slice, &p.Session, &p.LoginUID, &p.Snap} {
		*s = printable(*s, maxUnit)
	}
	return p
}

// unit finds unit and slice.
func (p *Place) unit(segments []string, at int) {
	from, found := at+1, -1
	for i := len(segments) - 1; i >= from && found < 0; i-- {
		if isUnit(segments[i]) && (segments[i] != "init.scope" || i == 1) { // that of a manager is part of its unit
			found = i
		}
	}
	if found < 0 && at > 0 && isPurpose(segments[at-1], segments[at]) {
		from, found = 0, at-1
	}
	end := len(segments)
	switch {
	case found >= 0:
		end = found
		p.Unit, p.Snap = segments[found], snap(segments[found])
		p.UserUnit = slices.ContainsFunc(segments[from:found], isUserManager)
	case at >= 0:
		end = at
	}
	p.Slice = last(segments[:end], slice)
}

// last returns the innermost of what tell finds in segments.
func last(segments []string, tell func(above []string, segment string) string) string {
	for i, segment := range slices.Backward(segments) {
		if told := tell(segments[:i], segment); told != "" {
			return told
		}
	}
	return ""
}

// isPurpose tells whether a container right below a unit is what the unit is for. Below the unit of
// the runtime are those in the form <slice>:<runtime>:<id>, below the manager of a user those of a
// runtime without root.
func isPurpose(unit, container string) bool {
	return isUnit(unit) && !isUserManager(unit) && !strings.Contains(container, ":")
}

// isUnit tells whether a segment is that of a systemd service or scope, and not of a container or
// a login session.
func isUnit(segment string) bool {
	name, isScope := strings.CutSuffix(segment, ".scope")
	if !isScope {
		return strings.HasSuffix(segment, ".service")
	}
	owner := ownerOf(nil, segment)
	prefix, _, _ := strings.Cut(strings.TrimPrefix(name, "cri-"), "-")
	return owner.id == "" && !owner.monitor && runtimes[prefix] == "" && session(nil, segment) == ""
}

func isMonitor(segment string) bool { return ownerOf(nil, segment).monitor }

// isUserManager tells whether a segment is that of a systemd run by a user.
func isUserManager(segment string) bool {
	name, ok := between(segment, "user@", ".service")
	return ok && isNumber(name)
}

// podUID knows pod<uid> below kubepods, and of systemd [<parent>-]kubepods[-<class>]-pod<uid>.slice,
// alone or before :<runtime>:<id>. systemd's names have _ for -, which means a slice within another.
func podUID(above []string, segment string) string {
	if uid, ok := strings.CutPrefix(segment, "pod"); ok && slices.Contains(above, "kubepods") {
		return uidOf(uid)
	}
	name, _, ok := strings.Cut(segment, ".slice")
	at := strings.LastIndex(name, "-pod")
	if !ok || at < 0 || !strings.Contains(name, "kubepods") {
		return ""
	}
	return uidOf(strings.ReplaceAll(name[at+len("-pod"):], "_", "-"))
}

// uidOf returns s if it is a uid of Kubernetes.
func uidOf(s string) string {
	if isUUID(s) || len(s) == 32 && isHex(s) {
		return s
	}
	return ""
}

// taskID knows ecs/<task>/<container>, and of systemd ecstasks.slice/ecstasks-<task>.slice. Tasks of
// before 2019 have a UUID.
func taskID(above []string, segment string) string {
	if len(above) > 0 && above[len(above)-1] == "ecs" {
		return uidOf(segment)
	}
	id, ok := between(segment, "ecstasks-", ".slice")
	if !ok || !slices.Contains(above, "ecstasks.slice") {
		return ""
	}
	return uidOf(id)
}

// isUUID tells whether s has the form 8-4-4-4-12.
func isUUID(s string) bool {
	const form = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"
	if len(s) != len(form) {
		return false
	}
	for i := range len(s) {
		if (form[i] == '-') != (s[i] == '-') {
			return false
		}
	}
	return isHex(strings.ReplaceAll(s, "-", ""))
}

func slice(_ []string, segment string) string {
	if strings.HasSuffix(segment, ".slice") {
		return segment
	}
	return ""
}

// session knows session-<id>.scope. An id is a number, with a c before it where audit gave none.
func session(_ []string, segment string) string {
	id, ok := between(segment, "session-", ".scope")
	if !ok || !isNumber(strings.TrimPrefix(id, "c")) {
		return ""
	}
	return id
}

func loginUID(_ []string, segment string) string {
	uid, ok := between(segment, "user-", ".slice")
	if !ok || !isNumber(uid) {
		return ""
	}
	return uid
}

// snap knows snap.<name>.<app>.service, and scopes that end in a dash or dot and a UUID. Where one is
// installed twice, the name has a key behind _; that of a component follows \x2b, which is +.
func snap(unit string) string {
	rest, ok := strings.CutPrefix(unit, "snap.")
	name, app, more := strings.Cut(rest, ".")
	name, _, _ = strings.Cut(name, `\x2b`)
	if !ok || !more || app == "service" || app == "scope" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
		return ""
	}
	return name
}

func between(s, before, after string) (string, bool) {
	s, ok := strings.CutPrefix(s, before)
	if !ok {
		return "", false
	}
	return strings.CutSuffix(s, after)
}

func isNumber(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}
