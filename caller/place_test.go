package caller

import (
	"strings"
	"testing"
)

const (
	podUID1   = "1a2b3c4d-0000-1111-2222-333344445555"
	podUID2   = "99999999-8888-7777-6666-555544443333"
	slicePod1 = "1a2b3c4d_0000_1111_2222_333344445555"
	slicePod2 = "99999999_8888_7777_6666_555544443333"
	staticPod = "0123456789abcdef0123456789abcdef"
	task      = "158d1c8083dd49d6b527399fd6414f5c"
)

// ids puts in what tests spell shortly.
var ids = strings.NewReplacer("ID1", id1, "ID2", id2, "POD_1", slicePod1, "POD_2", slicePod2, "POD1", podUID1, "POD2", podUID2,
	"STATIC", staticPod, "TASK", task)

func TestPlace(t *testing.T) {
	t.Parallel()
	const uuid = "54b38acc-3ba2-4c6d-b284-7ac07e1159e5"
	for _, test := range []struct {
		name, path string
		id         string
		want       Place
	}{
		// Docker
		{"docker cgroupfs", "/docker/ID1", id1, Place{}},
		{"docker systemd", "/system.slice/docker-ID1.scope", id1, Place{Slice: "system.slice"}},
		{"docker rootless", "/user.slice/user-1000.slice/user@1000.service/user.slice/docker-ID1.scope", id1,
			Place{Slice: "user.slice", LoginUID: "1000", Delegated: true}},
		{"docker rootless right below the manager", "/user.slice/user-1000.slice/user@1000.service/docker-ID1.scope", id1,
			Place{Slice: "user-1000.slice", LoginUID: "1000", Delegated: true}},
		{"docker in docker", "/docker/ID1/docker/ID2", id2, Place{Outer: id1, Delegated: true}},
		{"systemd in docker", "/docker/ID1/system.slice/nginx.service", id1, Place{Unit: "nginx.service", Slice: "system.slice"}},
		{"the daemon", "/system.slice/docker.service", "", Place{Unit: "docker.service", Slice: "system.slice"}},
		{"docker below a unit by its own choice", "/system.slice/web.service/ID1", id1,
			Place{Unit: "web.service", Slice: "system.slice", Delegated: true}},

		// Kubernetes
		{"cgroupfs burstable", "/kubepods/burstable/podPOD1/ID1", id1, Place{PodUID: podUID1}},
		{"cgroupfs besteffort", "/kubepods/besteffort/podPOD1/ID1", id1, Place{PodUID: podUID1}},
		{"cgroupfs guaranteed", "/kubepods/podPOD1/ID1", id1, Place{PodUID: podUID1}},
		{"systemd burstable", "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podPOD_1.slice/cri-containerd-ID1.scope", id1,
			Place{PodUID: podUID1, Slice: "kubepods-burstable-pod" + slicePod1 + ".slice"}},
		{"systemd guaranteed", "/kubepods.slice/kubepods-podPOD_1.slice/cri-containerd-ID1.scope", id1,
			Place{PodUID: podUID1, Slice: "kubepods-pod" + slicePod1 + ".slice"}},
		{"colon form", "/system.slice/containerd.service/kubepods-burstable-podPOD_1.slice:cri-containerd:ID1", id1,
			Place{PodUID: podUID1, Slice: "system.slice", Delegated: true}},
		{"colon form as a bare leaf", "/kubepods-burstable-podPOD_1.slice:cri-containerd:ID1", id1, Place{PodUID: podUID1}},
		{"static pod", "/kubepods/burstable/podSTATIC/ID1", id1, Place{PodUID: staticPod}},
		{"static pod by systemd", "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podSTATIC.slice/crio-ID1.scope", id1,
			Place{PodUID: staticPod, Slice: "kubepods-burstable-pod" + staticPod + ".slice"}},
		{"pod with an id of no known form", "/kubepods/burstable/podweb-1/ID1", id1, Place{}},
		{"container with an id of no known form", "/kubepods/burstable/podPOD1/web", "", Place{PodUID: podUID1}},
		{"the same by systemd", "/kubepods.slice/kubepods-podPOD_1.slice/cri-containerd-web.scope", "",
			Place{PodUID: podUID1, Slice: "kubepods-pod" + slicePod1 + ".slice"}},
		{"pod without container", "/kubepods/burstable/podPOD1", "", Place{PodUID: podUID1}},
		{"below another parent", "/kubelet/kubepods/besteffort/podPOD1/ID1", id1, Place{PodUID: podUID1}},
		{"no pod of kubernetes", "/podPOD1/ID1", id1, Place{}},
		{"seen from a private cgroup namespace", "/../../kubepods/burstable/podPOD1/ID1", id1, Place{PodUID: podUID1}},

		// nested
		{"kind", "/system.slice/docker-ID1.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-podPOD_1.slice/cri-containerd-ID2.scope", id2,
			Place{PodUID: podUID1, Outer: id1, Delegated: true, Slice: "kubelet-kubepods-besteffort-pod" + slicePod1 + ".slice"}},
		{"kind's node", "/system.slice/docker-ID1.scope/system.slice/kubelet.service", id1, Place{Unit: "kubelet.service", Slice: "system.slice"}},
		{"kind's node, init", "/system.slice/docker-ID1.scope/init.scope", id1, Place{Slice: "system.slice"}},
		{"docker in a pod", "/kubepods/podPOD1/ID1/docker/ID2", id2, Place{PodUID: podUID1, Outer: id1, Delegated: true}},
		{"kind in a pod: its pods", "/kubepods/podPOD1/ID1/docker/ID1/kubelet.slice/kubelet-kubepods-podPOD_2.slice/cri-containerd-ID2.scope", id2,
			Place{PodUID: podUID2, Outer: id1, Delegated: true, Slice: "kubelet-kubepods-pod" + slicePod2 + ".slice"}},
		{"kind in a pod: its node", "/kubepods/podPOD1/ID1/docker/ID2/system.slice/kubelet.service", id2,
			Place{PodUID: podUID1, Outer: id1, Delegated: true, Unit: "kubelet.service", Slice: "system.slice"}},
		{"a pod in the pod's own cgroups", "/kubepods/podPOD1/ID1/kubepods/podPOD2", id1, Place{PodUID: podUID1}},

		// containerd and CRI-O
		{"ctr", "/default/ID1", id1, Place{}},
		{"nerdctl", "/system.slice/nerdctl-ID1.scope", id1, Place{Slice: "system.slice"}},
		{"shim", "/system.slice/containerd.service", "", Place{Unit: "containerd.service", Slice: "system.slice"}},
		{"cri-o with crun", "/kubepods.slice/kubepods-podPOD_1.slice/crio-ID1.scope/container", id1,
			Place{PodUID: podUID1, Slice: "kubepods-pod" + slicePod1 + ".slice"}},
		{"cri-o cgroupfs", "/kubepods/besteffort/podPOD1/crio-ID1", id1, Place{PodUID: podUID1}},
		{"cri-o conmon", "/kubepods.slice/kubepods-podPOD_1.slice/crio-conmon-ID1.scope", "", Place{Slice: "kubepods-pod" + slicePod1 + ".slice"}},
		{"cri-o conmon cgroupfs", "/kubepods/besteffort/podPOD1/crio-conmon-ID1", "", Place{}},

		// Podman
		{"podman", "/machine.slice/libpod-ID1.scope/container", id1, Place{Slice: "machine.slice"}},
		{"podman conmon", "/machine.slice/libpod-conmon-ID1.scope", "", Place{Slice: "machine.slice"}},
		{"podman rootless", "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID1.scope/container", id1,
			Place{Slice: "user.slice", LoginUID: "1000", Delegated: true}},
		{"quadlet", "/system.slice/web.service/libpod-payload-ID1", id1, Place{Unit: "web.service", Slice: "system.slice", Delegated: true}},
		{"quadlet's conmon", "/system.slice/web.service/runtime", "", Place{Unit: "web.service", Slice: "system.slice"}},
		{"quadlet of a user", "/user.slice/user-1000.slice/user@1000.service/app.slice/web.service/libpod-payload-ID1", id1,
			Place{Unit: "web.service", UserUnit: true, Slice: "app.slice", LoginUID: "1000", Delegated: true}},

		// ECS
		{"ecs v1", "/ecs/TASK/ID1", id1, Place{TaskID: task}},
		{"ecs v1, task of before 2019", "/ecs/POD1/ID1", id1, Place{TaskID: podUID1}},
		{"ecs v2", "/ecstasks.slice/ecstasks-TASK.slice/docker-ID1.scope", id1, Place{TaskID: task, Slice: "ecstasks-" + task + ".slice"}},
		{"ecs without limits", "/system.slice/docker-ID1.scope", id1, Place{Slice: "system.slice"}},
		{"the agent's unit", "/system.slice/ecs.service", "", Place{Unit: "ecs.service", Slice: "system.slice"}},
		{"no task", "/ecs/web/ID1", id1, Place{}},

		// LXC
		{"lxc", "/lxc/web-1", "web-1", Place{LXC: "web-1"}},
		{"lxc of proxmox", "/lxc/100/ns/system.slice/cron.service", "100", Place{LXC: "100", Unit: "cron.service", Slice: "system.slice"}},
		{"lxc payload", "/lxc.payload.web-1/init.scope", "web-1", Place{LXC: "web-1"}},
		{"docker in lxc", "/lxc.payload.web-1/docker/ID1", id1, Place{LXC: "web-1", Outer: "web-1", Delegated: true}},
		{"lxc monitor", "/lxc.monitor.web-1", "", Place{}},

		// systemd
		{"unit", "/system.slice/cron.service", "", Place{Unit: "cron.service", Slice: "system.slice"}},
		{"sub-cgroup", "/system.slice/foo.service/workers", "", Place{Unit: "foo.service", Slice: "system.slice"}},
		{"template", "/system.slice/system-getty.slice/getty@tty1.service", "", Place{Unit: "getty@tty1.service", Slice: "system-getty.slice"}},
		{"scope", "/system.slice/run-r1234.scope", "", Place{Unit: "run-r1234.scope", Slice: "system.slice"}},
		{"user's unit", "/user.slice/user-1000.slice/user@1000.service/app.slice/sync.service", "",
			Place{Unit: "sync.service", UserUnit: true, Slice: "app.slice", LoginUID: "1000"}},
		{"user's manager", "/user.slice/user-1000.slice/user@1000.service/init.scope", "",
			Place{Unit: "user@1000.service", Slice: "user-1000.slice", LoginUID: "1000"}},
		{"session", "/user.slice/user-1000.slice/session-3.scope", "", Place{Session: "3", LoginUID: "1000", Slice: "user-1000.slice"}},
		{"session without audit", "/user.slice/user-0.slice/session-c2.scope", "", Place{Session: "c2", LoginUID: "0", Slice: "user-0.slice"}},
		{"no session", "/system.slice/session-manager.scope", "", Place{Unit: "session-manager.scope", Slice: "system.slice"}},
		{"init", "/init.scope", "", Place{Unit: "init.scope"}},
		{"slice alone", "/user.slice", "", Place{Slice: "user.slice"}},
		{"a user's claim to a container", "/user.slice/user-1000.slice/user@1000.service/kubepods/podPOD1/ID1", id1,
			Place{PodUID: podUID1, Slice: "user-1000.slice", LoginUID: "1000", Delegated: true}},
		{"a user's claim to a pod", "/user.slice/user-1000.slice/user@1000.service/kubepods/podPOD1", "",
			Place{Unit: "user@1000.service", Slice: "user-1000.slice", LoginUID: "1000"}},

		// snaps
		{"snap's service", "/system.slice/snap.amazon-ssm-agent.amazon-ssm-agent.service", "",
			Place{Unit: "snap.amazon-ssm-agent.amazon-ssm-agent.service", Slice: "system.slice", Snap: "amazon-ssm-agent"}},
		{"snap's app", "/user.slice/user-1000.slice/user@1000.service/app.slice/snap.foo.bar-baz-" + uuid + ".scope", "",
			Place{Unit: "snap.foo.bar-baz-" + uuid + ".scope", UserUnit: true, Slice: "app.slice", LoginUID: "1000", Snap: "foo"}},
		{"snap's hook in the older form", "/system.slice/snap.foo.hook.configure." + uuid + ".scope", "",
			Place{Unit: "snap.foo.hook.configure." + uuid + ".scope", Slice: "system.slice", Snap: "foo"}},
		{"second of a snap", "/system.slice/snap.foo_dev.bar.service", "", Place{Unit: "snap.foo_dev.bar.service", Slice: "system.slice", Snap: "foo_dev"}},
		{"snap's component", `/system.slice/snap.foo\x2bcomp.hook.install-` + uuid + ".scope", "",
			Place{Unit: `snap.foo\x2bcomp.hook.install-` + uuid + ".scope", Slice: "system.slice", Snap: "foo"}},
		{"snapd", "/system.slice/snapd.service", "", Place{Unit: "snapd.service", Slice: "system.slice"}},
		{"not a snap", "/system.slice/snap.foo.service", "", Place{Unit: "snap.foo.service", Slice: "system.slice"}},

		// nothing
		{"root", "/", "", Place{}},
		{"above a private cgroup namespace", "/../..", "", Place{}},
		{"long name", "/" + strings.Repeat("a", 300) + ".service", "", Place{Unit: strings.Repeat("a", maxUnit-len(cutMark)) + cutMark}},
		{"control characters", "/a\x1b[2J.service", "", Place{Unit: `a\x1b[2J.service`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			// the same of v2, of v1, and of v1 where v2 is there and unused
			for _, text := range []string{"0::PATH\n", "9:name=systemd:PATH\n4:memory:/\n", "8:pids:PATH\n0::/\n", "0::PATH (deleted)\n"} {
				got := ParseCgroup(strings.Replace(text, "PATH", ids.Replace(test.path), 1))
				if got.Place != test.want || got.ContainerID != test.id {
					t.Errorf("%q:\ngot  %q %+v\nwant %q %+v", text, got.ContainerID, got.Place, test.id, test.want)
				}
			}
		})
	}
}
