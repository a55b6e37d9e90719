package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// metaPackage is the one that leads to a release's kernel for clouds.
const metaPackage = "linux-image-cloud-amd64"

// keyring has the keys of Debian's archive. It is of the package debian-archive-keyring.
const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// apt is this machine's, but with one release of Debian as its only source, and with lists and a cache
// of its own. What the machine says of proxies and of credentials holds. Signatures are checked.
type apt struct{ dir string }

// settings come after those of the machine. What it does after an update is about its own lists.
const settings = `
Dir::Etc::sourcelist "%[1]s/sources.list";
Dir::Etc::sourceparts "%[1]s/none";
Dir::Etc::preferencesparts "%[1]s/none";
Dir::State::lists "%[1]s/lists";
Dir::State::status "/dev/null";
Dir::Cache "%[1]s";
APT::Architecture "amd64";
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
`

func newAPT(ctx context.Context, dir, release string) (*apt, error) {
	archive, security, err := mirrors(ctx)
	if err != nil {
		return nil, err
	}
	sources := fmt.Sprintf("deb [signed-by=%s] %s %s main\n", keyring, archive, release)
	if release != "sid" { // which gets its fixes at once
		sources += fmt.Sprintf("deb [signed-by=%s] %s %s-security main\n", keyring, security, release)
	}
	for _, sub := range []string{"lists/partial", "archives/partial", "none"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, err
		}
	}
	for name, text := range map[string]string{"sources.list": sources, "apt.conf": fmt.Sprintf(settings, dir)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	a := &apt{dir}
	_, err = a.run(ctx, "apt-get", "update")
	return a, err
}

func (a *apt) run(ctx context.Context, program string, args ...string) (string, error) {
	return output(ctx, a.dir, program, append([]string{"-q", "-c", "apt.conf"}, args...)...)
}

// mirrors are where this machine gets Debian and its security fixes from.
func mirrors(ctx context.Context) (archive, security string, err error) {
	codename, err := output(ctx, "", "sh", "-c", `. /etc/os-release && printf %s "$VERSION_CODENAME"`)
	if err != nil {
		return "", "", err
	}
	targets, err := output(ctx, "", "apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)", "Created-By: Packages")
	if err != nil {
		return "", "", err
	}
	for line := range strings.Lines(targets) {
		switch release, uri, _ := strings.Cut(strings.TrimSpace(line), " "); release {
		case codename:
			archive = uri
		case codename + "-security":
			security = uri
		}
	}
	if archive == "" || security == "" {
		return "", "", fmt.Errorf("want Debian's archive and its security fixes for %q in this machine's apt sources, which have:\n%s", codename, targets)
	}
	return archive, security, nil
}

// dependency is one on a part of the same kernel: since Linux 7 Debian has them in several packages.
var dependency = regexp.MustCompile(`(linux-(?:image|binary|modules|base)-\S+) \(= (\S+?)\)`)

// kernel follows the meta package, and returns the version of the newest kernel and its packages.
func (a *apt) kernel(ctx context.Context) (version string, packages []string, err error) {
	for due := []string{metaPackage}; len(due) > 0; due = due[1:] {
		if slices.Contains(packages, due[0]) {
			continue
		}
		packages = append(packages, due[0])
		about, err := a.run(ctx, "apt-cache", "show", "--no-all-versions", due[0])
		if err != nil {
			return "", nil, err
		}
		for line := range strings.Lines(about) {
			if field, value, _ := strings.Cut(line, ": "); field == "Depends" || field == "Pre-Depends" {
				for _, d := range dependency.FindAllStringSubmatch(value, -1) {
					due, version = append(due, d[1]), d[2]
				}
			}
		}
	}
	if version == "" {
		return "", nil, fmt.Errorf("%s depends on no kernel", metaPackage)
	}
	return version, packages[1:], nil
}

// download returns the file of a package. apt has compared its checksum.
func (a *apt) download(ctx context.Context, name string) (file string, err error) {
	if _, err := a.run(ctx, "apt-get", "download", name); err != nil {
		return "", err
	}
	files, _ := filepath.Glob(filepath.Join(a.dir, name+"_*.deb"))
	if len(files) != 1 {
		return "", fmt.Errorf("want one file of the package %s, have %q", name, files)
	}
	return files[0], nil
}

// output runs a program in a directory and returns what it prints.
func output(ctx context.Context, dir, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	var stderr bytes.Buffer
	cmd.Dir, cmd.Stderr = dir, &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s%s", program, strings.Join(args, " "), err, out, stderr.String())
	}
	return string(out), nil
}
