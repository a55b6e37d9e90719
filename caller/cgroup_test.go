package caller

import (
	"strings"
	"testing"
	"unicode/utf8"
)

var (
	id1 = strings.Repeat("0123456789abcdef", 4)
	id2 = strings.Repeat("fedcba9876543210", 4)
)

func TestParseCgroup(t *testing.T) {
	t.Parallel()
	const pod = "1a2b3c4d-0000-1111-2222-333344445555"
	slicePod := strings.ReplaceAll(pod, "-", "_")
	task := strings.Repeat("ab12", 8)

	for _, test := range []struct {
		name, text string
		path       string // "" means: that of the only line
		id, kind   string
	}{
		// Docker
		{name: "docker cgroupfs v1", text: "4:memory:/docker/ID1", id: id1, kind: "docker"},
		{name: "docker cgroupfs v2", text: "0::/docker/ID1", id: id1, kind: "docker"},
		{name: "docker systemd", text: "0::/system.slice/docker-ID1.scope", id: id1, kind: "docker"},
		{name: "docker rootless", text: "0::/user.slice/user-1000.slice/user@1000.service/user.slice/docker-ID1.scope", id: id1, kind: "docker"},
		{name: "docker under a cgroup parent", text: "0::/batch/ID1", id: id1},
		{name: "systemd inside docker", text: "0::/docker/ID1/system.slice/nginx.service", id: id1, kind: "docker"},
		{name: "docker in docker", text: "0::/docker/ID1/docker/ID2", id: id2, kind: "docker"},
		{name: "docker's daemon", text: "0::/system.slice/docker.service"},

		// Kubernetes
		{name: "k8s cgroupfs burstable", text: "11:memory:/kubepods/burstable/pod" + pod + "/ID1", id: id1},
		{name: "k8s cgroupfs besteffort", text: "0::/kubepods/besteffort/pod" + pod + "/ID1", id: id1},
		{name: "k8s cgroupfs guaranteed", text: "0::/kubepods/pod" + pod + "/ID1", id: id1},
		{name: "k8s systemd burstable", text: "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + slicePod + ".slice/cri-containerd-ID1.scope", id: id1, kind: "containerd"},
		{name: "k8s systemd guaranteed", text: "0::/kubepods.slice/kubepods-pod" + slicePod + ".slice/cri-containerd-ID1.scope", id: id1, kind: "containerd"},
		{name: "k8s systemd with docker", text: "1:name=systemd:/kubepods.slice/kubepods-pod" + slicePod + ".slice/docker-ID1.scope", id: id1, kind: "docker"},
		{name: "k8s colon form", text: "0::/system.slice/containerd.service/kubepods-burstable-pod" + slicePod + ".slice:cri-containerd:ID1", id: id1, kind: "containerd"},
		{name: "k8s colon form as a bare leaf", text: "0::/kubepods-burstable-pod" + slicePod + ".slice:cri-containerd:ID1", id: id1, kind: "containerd"},
		{name: "k8s colon form in v1", text: "7:pids:/kubepods-pod" + slicePod + ".slice:cri-containerd:ID1", id: id1, kind: "containerd"},
		{name: "k8s pod without container", text: "0::/kubepods/burstable/pod" + pod},
		{name: "kubelet", text: "0::/system.slice/kubelet.service"},
		{name: "kind", text: "0::/system.slice/docker-ID1.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod" + slicePod + ".slice/cri-containerd-ID2.scope", id: id2, kind: "containerd"},
		{name: "kind's own systemd", text: "0::/system.slice/docker-ID1.scope/system.slice/kubelet.service", id: id1, kind: "docker"},

		// containerd
		{name: "ctr", text: "0::/default/ID1", id: id1, kind: "containerd"},
		{name: "nerdctl cgroupfs", text: "0::/k8s.io/ID1", id: id1, kind: "containerd"},
		{name: "containerd", text: "0::/containerd/ID1", id: id1, kind: "containerd"},
		{name: "nerdctl systemd", text: "0::/system.slice/nerdctl-ID1.scope", id: id1, kind: "containerd"},

		// CRI-O
		{name: "cri-o systemd", text: "0::/kubepods.slice/kubepods-pod" + slicePod + ".slice/crio-ID1.scope", id: id1, kind: "cri-o"},
		{name: "cri-o with crun", text: "0::/kubepods.slice/kubepods-pod" + slicePod + ".slice/crio-ID1.scope/container", id: id1, kind: "cri-o"},
		{name: "cri-o cgroupfs", text: "0::/kubepods/besteffort/pod" + pod + "/crio-ID1", id: id1, kind: "cri-o"},
		{name: "cri-o conmon", text: "0::/kubepods.slice/kubepods-pod" + slicePod + ".slice/crio-conmon-ID1.scope"},

		// Podman
		{name: "podman rootful", text: "0::/machine.slice/libpod-ID1.scope", id: id1, kind: "podman"},
		{name: "podman rootful with crun", text: "0::/machine.slice/libpod-ID1.scope/container", id: id1, kind: "podman"},
		{name: "podman in a pod", text: "0::/machine.slice/machine-libpod_pod_ID2.slice/libpod-ID1.scope", id: id1, kind: "podman"},
		{name: "podman rootless", text: "0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID1.scope/container", id: id1, kind: "podman"},
		{name: "podman cgroupfs", text: "0::/libpod_parent/libpod-ID1", id: id1, kind: "podman"},
		{name: "podman quadlet", text: "0::/system.slice/web.service/libpod-payload-ID1", id: id1, kind: "podman"},
		{name: "podman conmon", text: "0::/machine.slice/libpod-conmon-ID1.scope"},
		{name: "conmon inside kind", text: "0::/system.slice/docker-ID1.scope/machine.slice/libpod-conmon-ID2.scope", id: id1, kind: "docker"},

		// ECS
		{name: "ecs v1", text: "4:memory:/ecs/" + task + "/ID1", id: id1, kind: "docker"},
		{name: "ecs v2", text: "0::/ecstasks.slice/ecstasks-" + task + ".slice/docker-ID1.scope", id: id1, kind: "docker"},
		{name: "ecs v2 without task limits", text: "0::/system.slice/docker-ID1.scope", id: id1, kind: "docker"},

		// LXC
		{name: "lxc", text: "4:memory:/lxc/web-1", id: "web-1", kind: "lxc"},
		{name: "lxc of proxmox", text: "0::/lxc/100/ns/system.slice/cron.service", id: "100", kind: "lxc"},
		{name: "lxc payload", text: "0::/lxc.payload.web-1/init.scope", id: "web-1", kind: "lxc"},
		{name: "lxc payload directory", text: "0::/lxc.payload/web-1", id: "web-1", kind: "lxc"},
		{name: "docker in lxc", text: "0::/lxc.payload.web-1/docker/ID1", id: id1, kind: "docker"},
		{name: "lxc monitor", text: "0::/lxc.monitor.web-1"},

		// no container
		{name: "systemd unit", text: "0::/system.slice/cron.service"},
		{name: "systemd unit with a sub-cgroup", text: "0::/system.slice/foo.service/workers"},
		{name: "session", text: "0::/user.slice/user-1000.slice/session-3.scope"},
		{name: "snap", text: "0::/system.slice/snap.amazon-ssm-agent.amazon-ssm-agent.service"},
		{name: "root", text: "0::/"},
		{name: "init", text: "0::/init.scope"},
		{name: "hash that is too short", text: "0::/docker/0123456789abcdef"},
		{name: "hash in capitals", text: "0::/docker/" + strings.ToUpper(id2)},

		// both versions, namespaces, odd ones
		{name: "hybrid with the container in v1", text: "9:name=systemd:/docker/ID1\n4:memory:/docker/ID1\n0::/", path: "/docker/ID1", id: id1, kind: "docker"},
		{name: "hybrid with the container in one line of v1", text: "9:name=systemd:/system.slice/docker.service\n8:pids:/docker/ID1\n0::/system.slice/docker.service", path: "/docker/ID1", id: id1, kind: "docker"},
		{name: "hybrid with the container in memory next to others", text: "4:cpu,cpuacct:/\n5:hugetlb,memory:/docker/ID1\n0::/", path: "/docker/ID1", id: id1, kind: "docker"},
		{name: "hybrid without container", text: "9:name=systemd:/user.slice/session-1.scope\n4:memory:/user.slice\n0::/", path: "/user.slice/session-1.scope"},
		{name: "hybrid with v2 in use", text: "9:name=systemd:/a\n0::/system.slice/cron.service", path: "/system.slice/cron.service"},
		{name: "v1 without systemd", text: "9:cpuset:/\n4:memory:/batch\n8:pids:/other", path: "/batch"},
		{name: "both with the container", text: "4:memory:/docker/ID1\n0::/system.slice/docker-ID1.scope", path: "/system.slice/docker-ID1.scope", id: id1, kind: "docker"},
		{name: "seen from a private cgroup namespace", text: "0::/../../kubepods/burstable/pod" + pod + "/ID1", id: id1},
		{name: "above a private cgroup namespace", text: "1:name=systemd:/system.slice/cron.service\n0::/../..", path: "/system.slice/cron.service"},
		{name: "cgroup that was removed", text: "0::/system.slice/docker-ID1.scope (deleted)", path: "/system.slice/docker-ID1.scope", id: id1, kind: "docker"},
		{name: "control characters", text: "0::/a\x1b[2J\xff", path: `/a\x1b[2J` + "\ufffd"},
		{name: "nothing", text: ""},
		{name: "not a cgroup file", text: "hello\n:\n::\n0::relative"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			ids := strings.NewReplacer("ID1", id1, "ID2", id2)
			want := Cgroup{Path: ids.Replace(test.path), ContainerID: test.id, Runtime: test.kind}
			if lines := strings.Split(test.text, "\n"); want.Path == "" && len(lines) == 1 && test.text != "" {
				want.Path = ids.Replace(strings.SplitN(test.text, ":", 3)[2])
			}
			got := ParseCgroup(ids.Replace(test.text) + "\n")
			got.Place = Place{} // see TestPlace
			if got != want {
				t.Errorf("got %+v\nwant %+v", got, want)
			}
		})
	}
}

func FuzzParseCgroup(f *testing.F) {
	f.Add("0::/system.slice/docker-" + id1 + ".scope\n")
	f.Add("9:name=systemd:/docker/" + id1 + "\n4:memory:/lxc/web\n0::/\n")
	f.Add("0::/a:b:c-d/lxc.payload.\x00/../..")
	f.Add("0::/user@1.service/kubepods-pod" + staticPod + ".slice/snap.a.b.scope/ecs/" + task + "/" + id1 + "/session-1.scope\n")
	f.Fuzz(func(t *testing.T, text string) {
		c := ParseCgroup(text)
		if len(c.Path) > maxCgroup || len(c.ContainerID) > maxContainerID {
			t.Errorf("too long: %+v", c)
		}
		if !isPrintable(c.Path) || !isPrintable(c.ContainerID) {
			t.Errorf("not printable: %#v", c)
		}
		for _, text := range []string{c.Place.LXC, c.Place.Outer, c.Place.Unit, c.Place.Slice, c.Place.Session, c.Place.LoginUID, c.Place.Snap} {
			if len(text) > maxUnit || !isPrintable(text) {
				t.Errorf("not fit to be shown: %#v", c.Place)
			}
		}
		if c.Place.PodUID != uidOf(c.Place.PodUID) || c.Place.TaskID != uidOf(c.Place.TaskID) {
			t.Errorf("not a pod or task: %#v", c.Place)
		}
		if c.Runtime != "" && c.ContainerID == "" {
			t.Errorf("a runtime without a container: %+v", c)
		}
		if c.Runtime != "lxc" && c.ContainerID != "" && !isContainerID(c.ContainerID) {
			t.Errorf("not an id: %+v", c)
		}
	})
}

func isPrintable(s string) bool { return utf8.ValidString(s) && s == printable(s, len(s)) }
