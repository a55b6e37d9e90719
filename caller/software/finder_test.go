package software

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/caller"
)

// eventually asks for the software of c until it is known.
func eventually(t testing.TB, f *Finder, c *caller.Caller) *Software {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		if s, ok := f.Of(c); ok {
			return s
		}
		if time.Now().After(deadline) {
			t.Fatalf("the software of process %d never becomes known", c.PID)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	if _, err := New(Options{Images: -1}); err == nil {
		t.Error("no error")
	}
}

// Each script of an interpreter is looked at once: who runs it next gets the same answer at once, and
// another script another one.
func TestOf(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	write(t, dir+"/one/Gemfile.lock", "    aws-sdk-core (3.1.0)\n")
	write(t, dir+"/two/Gemfile.lock", "    aws-sdk-core (3.2.0)\n")
	first := stub(t, dir, "ruby", dir+"/one/app.rb")
	same := run(t, again(first, dir+"/one"), "ready")
	other := stub(t, dir+"/other", "ruby", dir+"/two/app.rb")

	f := newFinder(t, Options{})
	if s, ok := f.Of(first); ok {
		t.Errorf("known before it was looked at: %+v", s)
	}
	s := eventually(t, f, first)
	check(t, s, Library{RubyGems, "aws-sdk-core", "3.1.0", Installed, dir + "/one/Gemfile.lock"})
	if got, ok := f.Of(same); !ok || got != s {
		t.Errorf("another process with the same script: %+v, %v", got, ok)
	}
	check(t, eventually(t, f, other), Library{RubyGems, "aws-sdk-core", "3.2.0", Installed, dir + "/two/Gemfile.lock"})

	second := stub(t, dir, "ruby2.5", dir+"/two/app.rb") // one executable, two scripts
	third := run(t, again(second, dir+"/one", dir+"/one/app.rb"), "ready")
	check(t, eventually(t, f, second), Library{RubyGems, "aws-sdk-core", "3.2.0", Installed, dir + "/two/Gemfile.lock"})
	check(t, eventually(t, f, third), s.Libraries...)
}

// again is a command that runs the program of c anew, with its script or another one.
func again(c *caller.Caller, dir string, script ...string) *exec.Cmd {
	if len(script) == 0 {
		script = c.Args[1:2]
	}
	cmd := exec.Command(c.Executable, append(script, "-")...)
	cmd.Dir = dir
	return cmd
}

// A program that is no interpreter is the same whatever its arguments are.
func TestOfNative(t *testing.T) {
	t.Parallel()
	f := newFinder(t, Options{})
	wait := func(args ...string) *caller.Caller {
		c := run(t, exec.Command("/bin/cat", append(args, writeReady(t), "-")...), "")
		return c
	}
	s := eventually(t, f, wait())
	if s.Package != dpkgSays(t, "/usr/bin/cat") || len(s.Libraries) > 0 || s.Missing != "" {
		t.Errorf("got %+v", s)
	}
	if got, ok := f.Of(wait("-u")); !ok || got != s {
		t.Errorf("with another argument: %+v, %v", got, ok)
	}
}

func writeReady(t *testing.T) string {
	t.Helper()
	name := tempDir(t) + "/ready"
	write(t, name, "ready")
	return name
}

// A process that is not the one of the record is not looked at.
func TestOfRefuses(t *testing.T) {
	t.Parallel()
	f := newFinder(t, Options{})
	c := stub(t, tempDir(t), "ruby", tempDir(t)+"/app.rb")
	for name, change := range map[string]func(*caller.Caller){
		"not complete":        func(c *caller.Caller) { c.Complete = false },
		"another start":       func(c *caller.Caller) { c.Origin.Started += time.Second },
		"another executable":  func(c *caller.Caller) { c.Executable = "/bin/other" },
		"a process of nobody": func(c *caller.Caller) { c.PID = 1 << 30 },
	} {
		changed := *c
		change(&changed)
		if s, ok := f.Of(&changed); ok || len(f.jobs) > 0 {
			t.Errorf("%s: %+v, %v, %d queued", name, s, ok, len(f.jobs))
		}
		if s, err := f.Look(t.Context(), &changed); err == nil {
			t.Errorf("%s: looked at: %+v", name, s)
		}
	}
	if s, ok := f.Of(nil); ok {
		t.Errorf("nobody: %+v", s)
	}
}

// Answers go stale for those who start later, and not for those who have one.
func TestStale(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	lock := dir + "/app/Gemfile.lock"
	write(t, lock, "    aws-sdk-core (3.1.0)\n")
	f := newFinder(t, Options{})
	old := stub(t, dir, "ruby", dir+"/app/app.rb")
	s := eventually(t, f, old)

	write(t, lock, "    aws-sdk-core (3.9.0)\n")
	age(f)
	check(t, eventually(t, f, run(t, again(old, dir+"/app"), "ready")), Library{RubyGems, "aws-sdk-core", "3.9.0", Installed, lock})
	if got, ok := f.Of(old); !ok || got != s {
		t.Errorf("of the first process: %+v, %v", got, ok)
	}
}

// age lets all answers go stale.
func age(f *Finder) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range f.known.Keys() {
		a, _ := f.known.Peek(id)
		a.until = time.Now()
		f.known.Add(id, a)
	}
	for _, file := range f.packages.Keys() {
		o, _ := f.packages.Peek(file)
		o.until = time.Now()
		f.packages.Add(file, o)
	}
}

// What could not be looked at is tried again, for the same process.
func TestIncomplete(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	file := dir + "/vendor/composer/installed.json"
	write(t, file+"/is/a/directory", "")
	f := newFinder(t, Options{})
	c := stub(t, dir, "php", dir+"/index.php")
	if s := eventually(t, f, c); s.Missing != file+": "+errNotRegular.Error() {
		t.Errorf("missing: %q", s.Missing)
	}
	if err := os.RemoveAll(file); err != nil {
		t.Fatal(err)
	}
	write(t, file, `[{"name": "aws/aws-sdk-php", "version": "3.1.0"}]`)
	age(f)
	check(t, eventually(t, f, c), Library{Composer, "aws/aws-sdk-php", "3.1.0", Installed, file})
}

// What finds no place is dropped and counted, and asked for again by the next call.
func TestQueueFull(t *testing.T) {
	t.Parallel()
	f, err := newIdle(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	dir := tempDir(t)
	var callers []*caller.Caller
	for _, name := range strings.Fields("ruby php node") {
		callers = append(callers, stub(t, dir, name, dir+"/script"))
	}
	f.jobs = make(chan *process, 2)
	for range 2 {
		for _, c := range callers {
			if s, ok := f.Of(c); ok {
				t.Errorf("known: %+v", s)
			}
		}
	}
	if len(f.jobs) != 2 || len(f.pending) != 2 || f.Dropped() != 2 {
		t.Errorf("%d queued, %d pending, %d dropped", len(f.jobs), len(f.pending), f.Dropped())
	}
	for range workers {
		f.working.Go(f.work)
	}
	for _, c := range callers {
		eventually(t, f, c)
	}
}

// Many ask at once about few processes.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	f := newFinder(t, Options{Images: 2})
	dir := tempDir(t)
	var callers []*caller.Caller
	for _, name := range strings.Fields("ruby php node perl") {
		callers = append(callers, stub(t, dir, name, dir+"/script"))
	}
	var all sync.WaitGroup
	for n := range 8 {
		all.Go(func() {
			for i := range 200 {
				f.Of(callers[(n+i)%len(callers)])
			}
			eventually(t, f, callers[n%len(callers)])
		})
	}
	all.Wait()
}

// A process that ends while it is looked at is no reason to remember half an answer.
func TestEndsMidway(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	f := newFinder(t, Options{})
	cmd := exec.Command("/usr/bin/python3", "-c", "print('ready', flush=True); input()")
	cmd.Dir = dir
	c := run(t, cmd, "ready")
	p, err := f.openProcess(c)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	if err := p.hold(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Process.Kill()
	_, _ = cmd.Process.Wait()
	s := f.look(t.Context(), p, false)
	if s.Package != dpkgSays(t, c.Executable) || len(s.Libraries) == 0 || s.Missing == "" {
		t.Errorf("got %+v", s)
	}
	if f.images.Len() != 0 || f.known.Len() != 0 {
		t.Errorf("remembered: %v, %v", f.images.Values(), f.known.Values())
	}
	if s, ok := f.Of(c); ok {
		t.Errorf("known: %+v", s)
	}
}

// A process that leaves its mount namespace between being told apart and being held is not kept as if it
// had stayed.
func TestLeavesNamespace(t *testing.T) {
	t.Parallel()
	f := newFinder(t, Options{})
	p, err := f.openProcess(stub(t, tempDir(t), "ruby", tempDir(t)+"/app.rb"))
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	p.id.view.mounts += " of before"
	if err := p.hold(); !errors.Is(err, errOther) {
		t.Errorf("got %v", err)
	}
}

func TestLookEnds(t *testing.T) {
	t.Parallel()
	f := newFinder(t, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s, err := f.Look(ctx, stub(t, tempDir(t), "ruby", tempDir(t)+"/app.rb"))
	if err == nil && s.Missing == "" || err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("got %+v, %v", s, err)
	}
}

func TestBootOffset(t *testing.T) {
	t.Parallel()
	proc := tempDir(t)
	if got := bootOffset(proc); got != 0 {
		t.Errorf("without time namespaces: %v", got)
	}
	write(t, proc+"/self/timens_offsets", "monotonic           5         0\nboottime       86400 500000000\n")
	if got := bootOffset(proc); got != 24*time.Hour+500*time.Millisecond {
		t.Errorf("got %v", got)
	}
}

// Libraries are those that are asked for.
func TestOptions(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	write(t, dir+"/Gemfile.lock", "    aws-sdk-core (3.1.0)\n    rake (13.0)\n")
	f := newFinder(t, Options{Libraries: map[string][]string{RubyGems: {"rake"}}})
	check(t, eventually(t, f, stub(t, dir, "ruby", dir+"/app.rb")), Library{RubyGems, "rake", "13.0", Installed, dir + "/Gemfile.lock"})
}
