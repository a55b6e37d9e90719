package e2e

import (
	"os"
	"path/filepath"
	"testing"
)

// startPodman starts Podman's service, which speaks Docker's API, with root's privileges. Its containers
// are in the instance's scratch cgroup, with the processes that watch over them beside.
func (i *instance) startPodman(t *testing.T) docker {
	t.Helper()
	dir := socketDir(t, "podman")
	i.checkNothingLeft(t)
	// No limits above its own, nor those of a controller that belongs to the first version of cgroups.
	const limits = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\npids_limit = 0\n"
	config := filepath.Join(dir, "containers.conf")
	if err := os.WriteFile(config, []byte(limits), 0o600); err != nil {
		t.Fatal(err)
	}
	// The first is not looked at where the second is all that it sees: the hook's cgroup is one of that.
	const secondAlone = `umount -R /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec "$@"`
	socket := filepath.Join(dir, "socket")
	d := docker{client: []string{"podman", "--remote", "--url=unix://" + socket}, cgroup: filepath.Dir(i.Cgroup())}
	d.daemon = i.newDaemon(t, "podman", dir, socket, "sh", "-c", secondAlone, "podman",
		"env", "CONTAINERS_CONF="+config, "podman", "--root="+filepath.Join(dir, "root"), "--runroot=/run/containers",
		"--tmpdir=/run/libpod", "--network-config-dir="+filepath.Join(dir, "net"), "--storage-driver=vfs", "--runtime=runc",
		"--cgroup-manager=cgroupfs", "--events-backend=file", "system", "service", "--time=0", "unix://"+socket)
	d.start(t)
	return d
}
