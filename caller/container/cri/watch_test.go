package cri

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	criapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/imds-bridge/imds-bridge/caller/container"
)

var sleepImage = &criapi.Image{Id: "sha256:" + digits(9), RepoTags: []string{"registry:5000/shop/web:v7"}, RepoDigests: []string{"registry:5000/shop/web@sha256:" + digits(7)}}

func TestRunningContainersAreTold(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.has(digits(1), digits(100), "web")
	f.has(digits(2), digits(100), "sidecar")
	f.has(digits(3), digits(101), "job").State = criapi.ContainerState_CONTAINER_EXITED
	f.has("../x", digits(100), "liar")
	f.hasPod(digits(100), "web-1", "u-1", criapi.NamespaceMode_NODE)
	f.hasImage("sha256:"+digits(9), sleepImage)
	l, _ := watched(t, f.source())
	l.awaitReady(t)
	web, _ := l.of(digits(1))
	if web == nil || web.Runtime != "containerd" || web.Name != "web" || fmt.Sprint(web.From) != "[cri]" ||
		web.Image != (container.Image{Name: "registry:5000/shop/web", Tag: "v7", Digest: "sha256:" + digits(7), ID: "sha256:" + digits(9)}) {
		t.Fatalf("%+v", web)
	}
	if p := web.Pod; p.Name != "web-1" || p.Namespace != "shop" || p.UID != "u-1" || p.Container != "web" || !p.HostNetwork || fmt.Sprint(p.Labels) != "map[app:web]" {
		t.Errorf("%+v", p)
	}
	if c, _ := l.of(digits(2)); c.Pod.Container != "sidecar" || c.Pod.Name != "web-1" {
		t.Errorf("%+v", c.Pod)
	}
	if c, _ := l.of(digits(100)); c.Name != "POD" || c.Pod.UID != "u-1" || c.Pod.Container != "" {
		t.Errorf("%+v", c)
	}
	if n := l.count(); n != 3 {
		t.Errorf("%d containers", n)
	}
	if f.times("PodSandboxStatus") != 1 || f.times("ImageStatus") != 1 || f.times("GetContainerEvents") != 0 {
		t.Errorf("asked too much: %v", f.asked)
	}
}

func TestEventsTellWhatComesAndEnds(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	l, _ := watched(t, f.source())
	l.awaitReady(t)
	f.hasPod(digits(100), "web-1", "u-1", criapi.NamespaceMode_POD)
	f.has(digits(1), digits(100), "web")
	f.begins(digits(100))
	f.begins(digits(1))
	if c := l.await(t, digits(1), false); c.Pod.Container != "web" || c.Pod.HostNetwork || c.Image.Name != "" || c.Image.ID == "" {
		t.Errorf("%+v", c)
	}
	f.envelope <- task("/tasks/exit", digits(1), "probe") // an exec
	f.envelope <- task("/tasks/oom", digits(1), "")
	f.envelope <- task("/tasks/exit", "", "")
	f.begins(digits(2)) // nobody has it
	f.has(digits(3), digits(100), "short").State = criapi.ContainerState_CONTAINER_EXITED
	f.begins(digits(3))
	if c := l.await(t, digits(3), true); c.Name != "short" {
		t.Errorf("%+v", c)
	}
	if _, gone := l.of(digits(1)); gone {
		t.Error("ended by an exec")
	}
	f.ends(digits(1))
	l.await(t, digits(1), true)
	// The end alone tells of a container too.
	f.has(digits(4), digits(100), "shorter")
	f.ends(digits(4))
	l.await(t, digits(4), true)
}

// What no event told of is found by the list.
func TestListMakesUpForEventsThatWereMissed(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.has(digits(1), digits(100), "old")
	f.hasPod(digits(100), "web-1", "u-1", criapi.NamespaceMode_POD)
	s := f.source()
	s.pace.soon, s.pace.pulse = 20*time.Millisecond, 20*time.Millisecond
	l, _ := watched(t, s)
	l.awaitReady(t)
	f.hasNot(digits(1))
	f.has(digits(2), digits(101), "new")
	l.await(t, digits(1), true)
	l.await(t, digits(100), true)
	if c := l.await(t, digits(2), false); c.Pod.UID != "u-1" {
		t.Errorf("what the labels tell: %+v", c.Pod)
	}
	before := f.times("ListContainers")
	await(t, "three more lists", func() bool { return f.times("ListContainers") > before+3 })
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.times[digits(2)] != 1 {
		t.Errorf("told %d times", l.times[digits(2)])
	}
}

func TestCRIOTellsItsEvents(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.name, f.number = "cri-o", "1.30.2"
	l, _ := watched(t, f.source())
	l.awaitReady(t)
	c := f.has(digits(1), digits(100), "web")
	c.Image, c.ImageRef, c.ImageId = &criapi.ImageSpec{Image: digits(9), UserSpecifiedImage: "web:v7"}, "docker.io/library/web@sha256:"+digits(7), digits(9)
	f.hasPod(digits(100), "web-1", "u-1", criapi.NamespaceMode_POD)
	f.hasImage(digits(9), &criapi.Image{Id: digits(9)})
	happens := func(id string, kind criapi.ContainerEventType) {
		f.events <- &criapi.ContainerEventResponse{ContainerId: id, ContainerEventType: kind}
	}
	happens("../x", criapi.ContainerEventType_CONTAINER_CREATED_EVENT)
	happens(digits(100), criapi.ContainerEventType_CONTAINER_STARTED_EVENT)
	if c := l.await(t, digits(100), false); c.Name != "POD" {
		t.Errorf("%+v", c)
	}
	happens(digits(1), criapi.ContainerEventType_CONTAINER_CREATED_EVENT)
	if c := l.await(t, digits(1), false); c.Runtime != "cri-o" ||
		c.Image != (container.Image{Name: "web", Tag: "v7", Digest: "sha256:" + digits(7), ID: "sha256:" + digits(9)}) {
		t.Errorf("%+v", c)
	}
	happens(digits(1), criapi.ContainerEventType_CONTAINER_STOPPED_EVENT)
	l.await(t, digits(1), true)
	if f.times("Subscribe") != 0 {
		t.Error("it was asked for containerd's events")
	}
}

func TestRuntimesWithoutEventsAreListed(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		runtime, version string
		unimplemented    bool
		wantSubscribed   int
	}{
		"CRI-O without enable_pod_events":             {"cri-o", "1.30.2", false, 1},
		"CRI-O whose events are the kubelet's":        {"cri-o", "1.26.4", false, 0},
		"CRI-O of a strange version":                  {"cri-o", "next", false, 0},
		"another":                                     {"docker", "25.0.0", false, 0},
		"containerd whose events are not let through": {"containerd", "1.6.20", true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t)
			f.name, f.number = test.runtime, test.version
			f.events <- nil
			if test.unimplemented {
				f.do("Subscribe", func(context.Context) error { return status.Error(codes.Unimplemented, "no") })
			}
			s := f.source()
			s.pace.soon = 20 * time.Millisecond
			l, _ := watched(t, s)
			l.awaitReady(t)
			await(t, "it is said", func() bool { return strings.Contains(f.log.String(), "tells no events") })
			f.has(digits(1), digits(100), "web")
			l.await(t, digits(1), false)
			f.hasNot(digits(1))
			l.await(t, digits(1), true)
			if n := strings.Count(f.log.String(), "tells no events"); n != 1 {
				t.Errorf("said %d times", n)
			}
			if n := f.times("GetContainerEvents"); n != test.wantSubscribed {
				t.Errorf("subscribed %d times", n)
			}
		})
	}
}

func TestRuntimeThatHangsIsNoticed(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"Version", "ListContainers", "PodSandboxStatus", "ImageStatus"} {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			f := newFake(t)
			f.has(digits(1), digits(100), "web")
			f.do(method, hang)
			_, end := watched(t, f.impatient())
			if err := end(); err == nil || !strings.Contains(err.Error(), method+": no answer from "+f.socket+" in time") {
				t.Error(err)
			}
		})
	}
}

func TestRuntimeThatHangsLaterIsNoticed(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	l, end := watched(t, f.impatient())
	l.awaitReady(t)
	f.do("ListContainers", hang)
	if err := end(); err == nil || !strings.Contains(err.Error(), "no answer") {
		t.Error(err)
	}
}

func TestEndOfTheRuntimeEndsTheWatch(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	l, end := watched(t, f.source())
	l.awaitReady(t)
	f.end()
	if err := end(); err == nil || !strings.Contains(err.Error(), "Unavailable") {
		t.Error(err)
	}
	if _, err := f.source().Inspect(t.Context(), digits(1)); err == nil || !strings.Contains(err.Error(), "is the runtime running?") {
		t.Error(err)
	}
}

func TestMalformedEventEndsTheWatch(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"\x22\x05\x12\x03\x0a\x7f\x00", "\x22\x02\x12\x7f", "\x22\x7f", "\x00"} {
		f := newFake(t)
		_, end := watched(t, f.source())
		f.envelope <- []byte(text)
		if err := end(); err == nil || !strings.Contains(err.Error(), "events of "+f.socket) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
