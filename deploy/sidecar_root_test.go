//go:build root

package deploy

import (
	"os"
	"strings"
	"testing"
)

const initImage = "imds-bridge-init:test"

// The containers of the task of ECS, run as it says, in the network namespace that they share: here that of
// the lab's host. The image of the init step is built from one without iptables, and finds this machine's.
func TestSidecarTaskBridgesCalls(t *testing.T) {
	l := simulatedInstance(t)
	d := startDocker(t, l)
	source := buildContext(t)
	d.run(t, "build", "--build-arg", "BINARY=prebuilt", "--tag", image, source)
	d.run(t, "build", "--target", "init", "--build-arg", "BINARY=prebuilt", "--build-arg", "IPTABLES="+image, "--tag", initImage, source)
	for name, want := range map[string]string{image: `["/imds-bridge"] ["run"]`, initImage: `["/imds-bridge"] ["redirect","install"]`} {
		got := d.run(t, "image", "inspect", "--format={{json .Config.Entrypoint}} {{json .Config.Cmd}}", name)
		if strings.TrimSpace(got) != want {
			t.Errorf("image %s runs %s, want %s", name, got, want)
		}
	}
	containers := sidecarTask(t)
	iptables := []string{"--rm"}
	for _, dir := range []string{"/usr", "/lib", "/lib64", "/etc/alternatives"} {
		if _, err := os.Stat(dir); err == nil {
			iptables = append(iptables, "--volume="+dir+":"+dir+":ro")
		}
	}

	expectStatus(t, l, "401")
	step := containers[0]
	d.run(t, step.run(initImage, iptables...)...)
	d.runSidecarTask(t, containers[1])
	expectStatus(t, l, "200")

	step.Command = []string{"redirect", "remove"}
	d.run(t, step.run(initImage, iptables...)...)
	expectStatus(t, l, "401")
}

// run are the arguments of the docker client that run a container as the agent of ECS does.
func (c taskContainer) run(image string, more ...string) []string {
	args := append([]string{"run", "--name=" + c.Name, "--network=host", "--user=" + c.User}, more...)
	if c.ReadonlyRootFilesystem {
		args = append(args, "--read-only")
	}
	for _, option := range c.DockerSecurityOptions {
		args = append(args, "--security-opt="+option)
	}
	for _, capability := range c.LinuxParameters.Capabilities.Drop {
		args = append(args, "--cap-drop="+capability)
	}
	for _, capability := range c.LinuxParameters.Capabilities.Add {
		args = append(args, "--cap-add="+capability)
	}
	for _, variable := range c.Environment {
		args = append(args, "--env="+variable.Name+"="+variable.Value)
	}
	return append(append(args, image), c.Command...)
}

// runSidecarTask starts the sidecar, until its health check says that it is well.
func (d docker) runSidecarTask(t *testing.T, c taskContainer) {
	t.Helper()
	d.run(t, c.run(image, "--detach")...)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("sidecar:\n%s", d.run(t, "logs", c.Name))
		}
		d.run(t, "rm", "--force", c.Name)
	})
	check := append([]string{"exec", c.Name}, c.HealthCheck.Command[1:]...)
	await(t, "the sidecar to be healthy", func() bool { return d.command(check...).Run() == nil })
}
