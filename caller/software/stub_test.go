package software

import (
	"os/exec"
	"testing"
)

// The programs of these tests are no interpreters: they are called like one, which is what is told
// of them, and wait.

func TestRuby(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	spec := func(home, name string) Library {
		file := dir + home + "/specifications/" + name + ".gemspec"
		write(t, file, "")
		gem, version := name[:len("aws-sdk-core")], name[len("aws-sdk-core-"):]
		return Library{RubyGems, gem, version, Installed, file}
	}
	bundled := spec("/app/vendor/bundle/ruby/3.1.0", "aws-sdk-core-3.79.0")
	own := spec("/lib/ruby/gems/2.5.0", "aws-sdk-core-2.11.0")
	spec("/lib/ruby/gems/2.5.0", "aws-sdk-core-extra-1.0")
	check(t, lookAt(t, stub(t, dir, "ruby2.5", dir+"/app/run.rb")), bundled, own)

	lock := dir + "/app/Gemfile.lock"
	write(t, lock, "GEM\n  specs:\n    aws-sdk-core (3.50.0)\n      aws-sdk (~> 1)\n    rake (13.0)\n\nDEPENDENCIES\n  aws-sdk-core\n")
	check(t, lookAt(t, stub(t, dir, "ruby2.5", dir+"/app/bin/run.rb")), Library{RubyGems, "aws-sdk-core", "3.50.0", Installed, lock})
}

func TestPHP(t *testing.T) {
	t.Parallel()
	for version, text := range map[string]string{
		"1": `[{"name": "monolog/monolog", "version": "1.0"}, {"name": "aws/aws-sdk-php", "version": "3.100.0"}]`,
		"2": `{"packages": [{"name": "aws/aws-sdk-php", "version": "3.100.0", "extra": [{}]}], "dev": true}`,
	} {
		t.Run("Composer "+version, func(t *testing.T) {
			dir := tempDir(t)
			list := dir + "/vendor/composer/installed.json"
			write(t, list, text)
			check(t, lookAt(t, stub(t, dir, "php8.2", dir+"/public/index.php")),
				Library{Composer, "aws/aws-sdk-php", "3.100.0", Installed, list})
		})
	}
}

// A process that maps the libraries of .NET.
func TestDotNet(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	write(t, dir+"/libcoreclr.so", "library")
	write(t, dir+"/AWSSDK.Core.dll", "assembly")
	write(t, dir+"/app.deps.json", `{"targets": {}, "libraries": {"Other/1.0": {}, "AWSSDK.Core/3.3.106.5": {"type": "package"}}}`)
	s := lookAt(t, run(t, mapping(t, dir+"/app", dir+"/libcoreclr.so", dir+"/AWSSDK.Core.dll"), "ready"))
	check(t, s, Library{NuGet, "AWSSDK.Core", "3.3.106.5", Loaded, dir + "/AWSSDK.Core.dll"})
}

// mapping is a program of that name that maps files.
func mapping(t *testing.T, program string, files ...string) *exec.Cmd {
	t.Helper()
	const script = `import mmap, sys
kept = [mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) for f in (open(name, 'rb') for name in sys.argv[1:])]
print('ready', flush=True)
sys.stdin.read()`
	install(t, python(t), program)
	cmd := exec.Command(program, append([]string{"-c", script}, files...)...)
	cmd.Env = []string{"PYTHONHOME=/usr"}
	return cmd
}

// The AWS CLI brings its own interpreter as a library, in a directory that is named after its version.
func TestCLI(t *testing.T) {
	t.Parallel()
	dist := tempDir(t) + "/aws-cli/v2/2.15.30/dist"
	write(t, dist+"/_internal/libpython3.11.so.1.0", "library")
	write(t, dist+"/_internal/boto3-1.2.3.dist-info/METADATA", "")
	check(t, lookAt(t, run(t, mapping(t, dist+"/aws", dist+"/_internal/libpython3.11.so.1.0"), "ready")),
		Library{PyPI, "awscli", "2.15.30", Loaded, dist + "/aws"},
		Library{PyPI, "boto3", "1.2.3", Installed, dist + "/_internal/boto3-1.2.3.dist-info"})
}

// Names of distributions, as tools have written them.
func TestDistribution(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	write(t, dir+"/botocore.egg-info/PKG-INFO", "Metadata-Version: 1.1\nName: botocore\nVersion: 1.5.1\n")
	write(t, dir+"/Cloud_Init-23.1.dist-info/METADATA", "")
	write(t, dir+"/cloud-init-22.4.egg-info", "Version: 22.4\n")
	write(t, dir+"/boto-2.49.0-py2.7.egg/EGG-INFO/PKG-INFO", "")
	write(t, dir+"/boto3_extra-1.0.dist-info/METADATA", "")
	write(t, dir+"/s3cmd-2.3.0.dist-info/METADATA", "")
	write(t, dir+"/script.py", "")
	c := stub(t, dir, "python2.7", dir+"/script.py")
	check(t, lookAt(t, c),
		Library{PyPI, "botocore", "1.5.1", Installed, dir + "/botocore.egg-info"},
		Library{PyPI, "cloud-init", "23.1", Installed, dir + "/Cloud_Init-23.1.dist-info"},
		Library{PyPI, "cloud-init", "22.4", Installed, dir + "/cloud-init-22.4.egg-info"},
		Library{PyPI, "boto", "2.49.0", Installed, dir + "/boto-2.49.0-py2.7.egg"},
		Library{PyPI, "s3cmd", "2.3.0", Installed, dir + "/s3cmd-2.3.0.dist-info"})
}
